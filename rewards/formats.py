"""Rewards on form alone: small weights that keep completions readable. Alone they teach nothing about memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_r1.agents.prompts import ANSWER_MARKER, MEMORIES_MARKER
from memory_r1.training.rows import check_row


def operation_format_reward(
    completions: Sequence[list[dict[str, str]]],
    *,
    recalled_ids: Sequence[Sequence[int]],
    turn: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Share of a completion's operations that pass the checks; 0 for a parse failure and for an empty array."""
    rewards: list[float | None] = []
    turns = turn if turn is not None else [None] * len(completions)
    for completion, shown, said in zip(completions, recalled_ids, turns, strict=True):
        checked = check_row(completion[0]["content"], shown, said)
        rewards.append(len(checked.accepted) / len(checked.operations) if checked.operations else 0.0)
    return rewards


def answer_format_reward(completions: Sequence[list[dict[str, str]]], **columns: Any) -> list[float | None]:
    """1 for one line that names memories followed by one line with the answer, and nothing else; 0 otherwise."""
    return [1.0 if _is_well_formed(completion[0]["content"]) else 0.0 for completion in completions]


def _is_well_formed(text: str) -> bool:
    lines = text.strip().splitlines()
    return len(lines) == 2 and lines[0].startswith(MEMORIES_MARKER) and lines[1].startswith(ANSWER_MARKER)
