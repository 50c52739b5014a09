"""Streams: which questions they ask, and when."""

from __future__ import annotations

import numpy as np
import pytest

from memory_r1.environments.streams import Stream, stream_of
from memory_r1.errors import DataError
from memory_r1.types import Dialogue, Question, Session, Turn


def dialogue(*evidence: tuple[str, ...], turns: int = 9) -> Dialogue:
    said = tuple(Turn(f"s1:{number}", "Ann", f"turn {number}", "s1") for number in range(turns))
    questions = tuple(Question(f"q{i}", "what?", "this", "recall", ids) for i, ids in enumerate(evidence))
    return Dialogue("d1", ("Ann",), (Session("s1", "", said),), questions)


def test_each_question_comes_once_after_its_turn_at_a_step_that_the_seed_draws() -> None:
    asked = dialogue(("s1:2",), ("s1:0",), ("s1:8",))
    drawn = [stream_of(asked, np.eye(9), seed).questions for seed in range(40)]
    assert drawn == [stream_of(asked, np.eye(9), seed).questions for seed in range(40)]
    for questions in drawn:
        assert sorted(turn for _, turn in questions) == [0, 2, 8]
        assert list(questions) == sorted(questions)
    # After turn 2 come the steps 3 to 8; nothing comes after the last turn, so its question follows at once.
    assert {step for questions in drawn for step, turn in questions if turn == 2} == set(range(3, 9))
    assert {step for questions in drawn for step, turn in questions if turn == 8} == {8}


def test_questions_with_no_or_several_evidence_turns_and_second_ones_about_a_turn_are_left_out() -> None:
    questions = stream_of(dialogue((), ("s1:1", "s1:2"), ("s1:3",), ("s1:3",)), np.eye(9), 0).questions
    assert [turn for _, turn in questions] == [3]


def test_what_is_no_stream_is_refused() -> None:
    with pytest.raises(DataError, match="'d1': 3 embeddings for 9 turns"):
        stream_of(dialogue(("s1:1",)), np.eye(3), 0)
    with pytest.raises(DataError, match="'d1' asks nothing"):
        stream_of(dialogue(()), np.eye(9), 0)
    for question in ((1, 2), (3, 0), (0, -1)):
        with pytest.raises(DataError, match=f"step {question[0]} about turn {question[1]}"):
            Stream("d1", np.eye(3), (question,))
