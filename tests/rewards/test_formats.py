"""Rewards on format alone."""

from __future__ import annotations

import pytest

from rewards.formats import answer_format_reward, operation_format_reward


def chat(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ('[{"op": "NOOP"}]', 1.0),
        ('[{"op": "ADD", "text": "a"}, {"op": "UPDATE", "id": 2, "text": "b"}]', 1.0),
        ('  [{"op": "DELETE", "id": 1}]\n', 1.0),
        # one of two: the id was not shown, the text is empty, the entry was edited before, the kind does not exist
        ('[{"op": "ADD", "text": "a"}, {"op": "DELETE", "id": 3}]', 0.5),
        ('[{"op": "ADD", "text": "a"}, {"op": "ADD", "text": " "}]', 0.5),
        ('[{"op": "DELETE", "id": 1}, {"op": "UPDATE", "id": 1, "text": "b"}]', 0.5),
        ('[{"op": "NOOP"}, {"op": "NONE"}]', 0.5),
        ('[{"op": "DELETE", "id": true}]', 0.0),
        # ten, of which two are over the limit of eight
        ("[" + ", ".join(['{"op": "NOOP"}'] * 10) + "]", 0.8),
        ("[]", 0.0),
        ("", 0.0),
        ("   ", 0.0),
        ("NOOP", 0.0),
        ('{"op": "NOOP"}', 0.0),
        ('[{"op": "NOOP"}', 0.0),
        ('Sure: [{"op": "NOOP"}]', 0.0),
        ("[" * 10_000, 0.0),
        ("\x00\ud800", 0.0),
    ],
)
def test_the_share_of_operations_that_pass(completion: str, reward: float) -> None:
    assert operation_format_reward(chat(completion), recalled_ids=[[40, 50]]) == [pytest.approx(reward)]


def test_a_completion_is_checked_against_its_own_prompt() -> None:
    completions = chat(*['[{"op": "DELETE", "id": 1}]'] * 2)
    assert operation_format_reward(completions, recalled_ids=[[7], []], turn=["", ""]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("Memories: 1, 2\n**Answer:** Rome", 1.0),
        ("\nMemories: none\n**Answer:** unknown\n", 1.0),
        ("Memories: 1\n\n**Answer:** Rome", 0.0),
        ("Memories: 1\n**Answer:** Rome\nBecause she said so.", 0.0),
        ("Memories: 1 **Answer:** Rome", 0.0),
        ("**Answer:** Rome\nMemories: 1", 0.0),
        ("**Answer:** Rome", 0.0),
        ("Rome", 0.0),
        ("", 0.0),
    ],
)
def test_an_answer_is_two_lines(completion: str, reward: float) -> None:
    assert answer_format_reward(chat(completion), answer=["Rome"], answer_style=["ids"]) == [reward]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("Memories:\nAnn lives in Rome\nAnn has a dog\n**Answer:** Rome", 1.0),
        ("Memories:\n**Answer:** unknown", 1.0),
        ("Memories:\nAnn lives in Rome\n**Answer:** Rome\nBecause she said so.", 0.0),
        ("Memories:\n**Answer:** Rome\n**Answer:** Oslo", 0.0),
        ("Ann lives in Rome\n**Answer:** Rome", 0.0),
        ("**Answer:** Rome", 0.0),
        ("", 0.0),
    ],
)
def test_a_quoting_answer_ends_with_the_one_line_of_its_answer(completion: str, reward: float) -> None:
    assert answer_format_reward(chat(completion), answer_style=["quotes"]) == [reward]


def test_the_order_of_completions_is_kept() -> None:
    good = "Memories: 1\n**Answer:** Rome"
    assert answer_format_reward(chat(good, "", good), answer_style=["ids"] * 3) == [1.0, 0.0, 1.0]
    assert answer_format_reward([], answer_style=[]) == operation_format_reward([], recalled_ids=[]) == []
