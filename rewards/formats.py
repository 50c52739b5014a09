"""Rewards on format alone. At a small weight they keep completions readable; alone they teach nothing about memory."""

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
    operations: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Return the share of each completion's operations that pass the checks; 0 for a parse failure or empty array."""
    rewards: list[float | None] = []
    turns, forms = (column or [None] * len(completions) for column in (turn, operations))
    for completion, shown, said, form in zip(completions, recalled_ids, turns, forms, strict=True):
        checked = check_row(completion[0]["content"], shown, said, form)
        rewards.append(len(checked.accepted) / len(checked.operations) if checked.operations else 0.0)
    return rewards


def answer_format_reward(
    completions: Sequence[list[dict[str, str]]], *, answer_style: Sequence[str], **columns: Any
) -> list[float | None]:
    """Return 1 for memories (ids on one line, or any number of quoted lines) and one answer line, else 0."""
    return [
        1.0 if _is_well_formed(completion[0]["content"], style) else 0.0
        for completion, style in zip(completions, answer_style, strict=True)
    ]


def _is_well_formed(text: str, style: str) -> bool:
    lines = text.strip().splitlines()
    if len(lines) < 2 or (style == "ids" and len(lines) > 2):
        return False
    marked = [line.startswith(ANSWER_MARKER) for line in lines]
    return lines[0].startswith(MEMORIES_MARKER) and marked[-1] and sum(marked) == 1
