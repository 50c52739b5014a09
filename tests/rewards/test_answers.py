"""Rewards on the Answer Agent's final answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from memory_r1.metrics import bleu1, exact_match, f1_squad
from rewards.answers import AnswerReward, GivenAnswer, one_by_one

EXACT = AnswerReward("answer_exact_match", one_by_one(exact_match))
F1 = AnswerReward("answer_f1", one_by_one(f1_squad))
BLEU1 = AnswerReward("answer_bleu1", one_by_one(bleu1))


def reward(function: AnswerReward, *texts: str, answer: str) -> list[float | None]:
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {"question": ["Where?"] * len(texts), "answer": [answer] * len(texts), "numbered": [[]]}
    return function(completions=completions, prompts=[[]] * len(texts), **columns)


@pytest.mark.parametrize(
    ("completion", "exact", "f1"),
    [
        ("Memories: 1\n**Answer:** the old town", 1.0, 1.0),  # articles and case are ignored
        ("Memories: 1\n**Answer:** Old Town", 1.0, 1.0),
        ("**Answer:** old town", 1.0, 1.0),
        # 2 of 3 words are right, both of the gold's 2 are there: 2 * (2/3 * 1) / (2/3 + 1) = 0.8
        ("Memories: 1\n**Answer:** the old town hall", 0.0, 0.8),
        ("Memories: 1\n**Answer:** unknown", 0.0, 0.0),
        ("Memories: 1\n**Answer:**", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("\x00\ud800", 0.0, 0.0),
        ("old town", 1.0, 1.0),  # without a marker the whole completion counts
        ("**Answer:** old town\n**Answer:** new town", 0.0, 0.5),  # the last answer counts
    ],
)
def test_the_text_after_the_marker_is_scored(completion: str, exact: float, f1: float) -> None:
    assert reward(EXACT, completion, answer="old town") == [exact]
    assert reward(F1, completion, answer="old town") == [pytest.approx(f1)]


def test_each_completion_is_scored_against_its_own_answer() -> None:
    completions = [[{"role": "assistant", "content": f"**Answer:** {text}"}] for text in ("Rome", "Oslo", "Rome")]
    answers = ["Rome", "Rome", "Oslo"]
    assert EXACT(completions=completions, question=["Where?"] * 3, answer=answers) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("**Answer:** Old Town", 1.0),
        ("**Answer:** the old town", 2 / 3),  # two of three words are right; not shorter than the gold
        ("**Answer:** town", math.exp(1 - 2 / 1)),  # right, but half as long as the gold
        ("**Answer:** old old old old", 1 / 4),  # a word counts as often as the gold has it
        ("**Answer:** new city", 0.0),  # without a common word nltk does not smooth
        ("**Answer:**", 0.0),
        ("", 0.0),
    ],
)
def test_bleu1_is_precision_with_a_brevity_penalty(completion: str, expected: float) -> None:
    assert reward(BLEU1, completion, answer="old town") == [pytest.approx(expected)]


def test_a_scorer_sees_the_whole_batch_and_may_leave_out_a_row() -> None:
    seen: list[GivenAnswer] = []

    def scorer(answers: Sequence[GivenAnswer], log_metric: Any) -> list[float | None]:
        seen.extend(answers)
        return [None if answer.prediction == "?" else 0.5 for answer in answers]

    rewards = reward(AnswerReward("mine", scorer), "**Answer:** ?", "**Answer:** Rome", answer="Oslo")
    assert rewards == [None, 0.5]
    assert seen == [GivenAnswer("Where?", "Oslo", "?"), GivenAnswer("Where?", "Oslo", "Rome")]


def test_it_is_logged_under_its_name_and_no_completion_is_no_reward() -> None:
    assert F1.__name__ == "answer_f1"
    assert F1(completions=[], question=[], answer=[]) == []
