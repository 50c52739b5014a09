"""Diagnose where an answer went wrong: how far its evidence turns got on their way into the answer.

A fact is said in a turn, stored in the bank, recalled for the question, selected by the Answer Agent, and read. A
question fails at the first step that one of its evidence turns does not reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry
from memory_r1.metrics import normalize_answer
from memory_r1.types import OperationKind


class Step(StrEnum):
    """Outcomes of a question, from the earliest failure to the right answer."""

    NEVER_STORED = "never stored"
    LOST = "stored and lost"
    NOT_RECALLED = "not recalled"
    NOT_SELECTED = "recalled but not selected"
    MISREAD = "selected but misread"
    NO_EVIDENCE = "wrong, no evidence known"
    CORRECT = "correct"


TURN_STEPS = (Step.NEVER_STORED, Step.LOST, Step.NOT_RECALLED, Step.NOT_SELECTED, Step.MISREAD)
"""Steps at which an evidence turn can be lost, earliest first."""


@dataclass(slots=True)
class _Entry:
    """The texts of one entry over time, and which of them each turn wrote."""

    texts: list[str] = field(default_factory=list)
    written_by: dict[str, int] = field(default_factory=dict)
    log: list[OperationRow] = field(default_factory=list)
    live: bool = True


class History:
    """The effects of a run's applied operations on the bank of each dialogue."""

    def __init__(self, operations: Iterable[OperationRow]) -> None:
        self.recorded = False
        self._entries: dict[tuple[str, int], _Entry] = {}
        self._of_turn: dict[tuple[str, str], list[_Entry]] = {}
        self._rows: dict[tuple[str, str], list[OperationRow]] = {}
        for row in operations:
            self._rows.setdefault((row.dialogue_id, row.turn_id), []).append(row)
            self.recorded |= row.status != "empty"
            if row.applied and row.op is not OperationKind.NOOP and row.entry_id is not None:
                self._record(row, row.entry_id)

    def _record(self, row: OperationRow, entry_id: int) -> None:
        if row.op is OperationKind.ADD:
            self._entries[row.dialogue_id, entry_id] = _Entry()
        entry = self._entries.setdefault((row.dialogue_id, entry_id), _Entry())
        entry.log.append(row)
        if row.op is OperationKind.DELETE:
            entry.live = False
            return
        entry.written_by[row.turn_id] = len(entry.texts)
        entry.texts.append(row.text or "")
        self._of_turn.setdefault((row.dialogue_id, row.turn_id), []).append(entry)

    def rows(self, dialogue_id: str, turn_id: str) -> list[OperationRow]:
        """Return the turn's proposals, in order, applied or not."""
        return self._rows.get((dialogue_id, turn_id), [])

    def later(self, row: OperationRow) -> list[OperationRow]:
        """Return the later operations on the entry that `row`, one of `rows`, wrote; empty if it wrote none."""
        entry = None if row.entry_id is None else self._entries.get((row.dialogue_id, row.entry_id))
        place = next((i for i, logged in enumerate(entry.log) if logged is row), None) if entry else None
        return [] if entry is None or place is None else entry.log[place + 1 :]

    def stored(self, dialogue_id: str, turn_id: str) -> bool:
        """Return whether the turn was ever written to an entry."""
        return (dialogue_id, turn_id) in self._of_turn

    def lost(self, dialogue_id: str, turn_id: str, gold: str) -> bool:
        """Return whether all entries from the turn were deleted or rewritten without the gold answer's words.

        A rewrite is a loss only if the entry's text from this turn had those words.
        """
        entries = self._of_turn.get((dialogue_id, turn_id), [])
        return bool(entries) and all(_is_lost(entry, turn_id, gold) for entry in entries)


def failed_step(prediction: Prediction, history: History) -> Step:
    """Return the step at which `prediction` failed, or `CORRECT` (see `is_correct`)."""
    if is_correct(prediction):
        return Step.CORRECT
    if not prediction.evidence:
        return Step.NO_EVIDENCE
    return min(turn_steps(prediction, history).values(), key=TURN_STEPS.index)


def turn_steps(prediction: Prediction, history: History) -> dict[str, Step]:
    """Return the step at which each evidence turn was lost; in a right answer, `MISREAD` means that it was read."""
    return {turn_id: _turn_step(prediction, turn_id, history) for turn_id in prediction.evidence}


def is_correct(prediction: Prediction) -> bool:
    """Return whether the judge accepted the answer or, without a verdict, it matches exactly."""
    judge = prediction.metrics.get("judge")
    verdict = prediction.metrics.get("exact_match") if judge is None else judge
    return verdict is not None and verdict >= 1.0


def _turn_step(prediction: Prediction, turn_id: str, history: History) -> Step:
    # Check this before recall: an entry rewritten without the answer still names the turn and may be recalled.
    if history.lost(prediction.dialogue_id, turn_id, prediction.gold):
        return Step.LOST
    if _holds(prediction.distilled, turn_id):
        return Step.MISREAD
    if _holds(prediction.recalled, turn_id):
        return Step.NOT_SELECTED
    # Without a log of operations it is unknown whether the turn was stored.
    if history.recorded and not history.stored(prediction.dialogue_id, turn_id):
        return Step.NEVER_STORED
    return Step.NOT_RECALLED


def _holds(entries: Sequence[RecalledEntry], turn_id: str) -> bool:
    return any(turn_id in entry.source_turn_ids for entry in entries)


def _is_lost(entry: _Entry, turn_id: str, gold: str) -> bool:
    if not entry.live:
        return True
    words = set(normalize_answer(gold).split())
    return _has(entry.texts[entry.written_by[turn_id]], words) and not _has(entry.texts[-1], words)


def _has(text: str, words: set[str]) -> bool:
    return bool(words) and words.issubset(normalize_answer(text).split())
