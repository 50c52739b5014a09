"""Rewards on the Answer Agent's final answer."""

from __future__ import annotations

import pytest

from memory_r1.metrics import exact_match, f1_squad
from rewards.answers import AnswerReward

EXACT, F1 = AnswerReward("answer_exact_match", exact_match), AnswerReward("answer_f1", f1_squad)


def reward(function: AnswerReward, *texts: str, answer: str) -> list[float | None]:
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    return function(completions=completions, prompts=[[]] * len(texts), answer=[answer] * len(texts), numbered=[[]])


@pytest.mark.parametrize(
    ("completion", "exact", "f1"),
    [
        ("Memories: 1\n**Answer:** the old town", 1.0, 1.0),  # articles and case are set aside
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
    assert EXACT(completions=completions, answer=["Rome", "Rome", "Oslo"]) == [1.0, 0.0, 0.0]


def test_it_is_logged_under_its_name_and_no_completion_is_no_reward() -> None:
    assert F1.__name__ == "answer_f1"
    assert F1(completions=[], answer=[]) == []
