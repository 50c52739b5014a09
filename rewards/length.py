"""Rewards on length: the completion's tokens, and the bank's words relative to its source turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memory_r1.training.rows import turns_from_json
from memory_r1.types import MemoryEntry
from rewards.outcome import asked_banks, banks_after


class LengthReward:
    """A soft penalty on completions near the maximum length (DAPO, Yu et al. 2025, equation 13).

    The reward is 0 up to `longest - margin` tokens, falls linearly to -1 at `longest`, and stays there. A completion
    cut off at `longest` thus earns -1 without a second rule.

    Args:
        longest: Maximum completion length, in tokens (DAPO's L_max).
        margin: Tokens before `longest` over which the penalty grows (DAPO's L_cache).
    """

    __name__ = "length"

    def __init__(self, longest: int, margin: int) -> None:
        self.longest = longest
        self.margin = margin

    def __call__(
        self, completions: Sequence[Any], *, completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        """Return one reward in [-1, 0] per completion, in order."""
        return [-min(1.0, max(0.0, (len(ids) - self.longest + self.margin) / self.margin)) for ids in completion_ids]


def memory_size_reward(
    completions: Sequence[list[dict[str, str]]],
    *,
    turn: Sequence[str],
    bank: Sequence[str],
    recalled_ids: Sequence[Sequence[int]],
    source_words: Sequence[str],
    logged: Sequence[str] | None = None,
    operations: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Minus 0.3 times the share by which a bank's words exceed 0.7 of the dialogue's (Memory-R2's memory penalty).

    The bank is the one at the dialogue's end (`credit: substitution`); None under other credit, whose rows do not hold
    the whole dialogue. A completion that cannot be parsed pays for the bank without it.
    """
    if logged is None:
        return [None] * len(completions)
    asked_of = asked_banks(completions, turn, bank, recalled_ids, logged, operations=operations)
    penalties: list[float | None] = []
    for of, words in zip(asked_of, source_words, strict=True):
        held = sum(len(entry.text.split()) for entry in of.entries)
        penalties.append(-0.3 * max(0.0, held / max(1, sum(json.loads(words).values())) - 0.7))
    return penalties


def compression_reward(
    completions: Sequence[list[dict[str, str]]],
    *,
    turn: Sequence[str],
    bank: Sequence[str],
    recalled_ids: Sequence[Sequence[int]],
    source_words: Sequence[str],
    operations: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Return 1 - (words of the live entries / words of their source turns), at least 0.

    An empty bank, which compresses nothing, and a parse failure earn 0; None if no entry has a known source. This
    ignores what the words say, so use it beside an outcome reward.
    """
    left = banks_after(completions, turn, bank, recalled_ids, operations)
    return [_compression(*row) for row in zip(left, turn, source_words, strict=True)]


def _compression(after: Sequence[MemoryEntry] | None, turn: str, source_words: str) -> float | None:
    words: dict[str, int] = json.loads(source_words)
    words |= {now.turn_id: len(now.text.split()) for now in turns_from_json(turn)}
    if not after:
        return 0.0
    # Skip entries of unknown source: their words would have nothing to compare with.
    known = [entry for entry in after if entry.source_turn_ids and words.keys() >= set(entry.source_turn_ids)]
    said = sum(words[turn_id] for turn_id in {turn_id for entry in known for turn_id in entry.source_turn_ids})
    if said == 0:
        return None
    return max(0.0, 1.0 - sum(len(entry.text.split()) for entry in known) / said)
