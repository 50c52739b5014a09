"""A reward for losing nothing: does the bank after the operations still support the answers it supported before?

It asks no model, so it is cheap and exact but blind to paraphrase. Use it beside an outcome reward, to keep a policy
from overwriting old facts; alone, it pays most for doing nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_r1.memory.bank import entries_from_json
from memory_r1.metrics import normalize_answer
from memory_r1.training.rows import questions_from_json
from memory_r1.types import MemoryEntry, Question
from rewards.outcome import banks_after


def operation_faithfulness_reward(
    completions: Sequence[list[dict[str, str]]],
    *,
    turn: Sequence[str],
    bank: Sequence[str],
    recalled_ids: Sequence[Sequence[int]],
    retention: Sequence[str],
    operations: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Return the share of retention questions supported before that still are; 0 for a parse failure.

    None if the bank supported none of them before.
    """
    left = banks_after(completions, turn, bank, recalled_ids, operations)
    return [_faithfulness(*row) for row in zip(left, bank, retention, strict=True)]


def is_supported(question: Question, entries: Sequence[MemoryEntry]) -> bool:
    """Return whether every evidence turn is a source of a live entry and these entries hold every answer word.

    The words may be spread over several entries. A question without evidence is never supported.
    """
    evidence = set(question.evidence)
    telling = [entry for entry in entries if not evidence.isdisjoint(entry.source_turn_ids)]
    sources = {turn_id for entry in telling for turn_id in entry.source_turn_ids}
    words = {word for entry in telling for word in normalize_answer(entry.text).split()}
    return bool(evidence) and sources >= evidence and words.issuperset(normalize_answer(question.answer).split())


def _faithfulness(after: Sequence[MemoryEntry] | None, bank: str, retention: str) -> float | None:
    before = entries_from_json(bank)
    supported = [question for question in questions_from_json(retention) if is_supported(question, before)]
    if not supported:
        return None
    return sum(is_supported(question, after or ()) for question in supported) / len(supported)
