"""The evidence turns and their neighbours, stored with a run so that its page can be redrawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from memory_r1.errors import DataError
from memory_r1.evaluation.records import Prediction
from memory_r1.jsonl import read_rows, rewrite_rows
from memory_r1.types import Dialogue

TURNS = "turns.jsonl"
NEIGHBOURS = 2
"""Number of turns of the same session shown before and after an evidence turn."""


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """One row of `turns.jsonl`; `place` counts the turns of the dialogue from 0."""

    dialogue_id: str
    turn_id: str
    session_id: str
    place: int
    speaker: str
    text: str
    timestamp: str

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read a row; a DataError names a field that is missing or of the wrong type."""
        values: dict[str, Any] = {name: row.get(name) for name in cls.__slots__}
        for name, value in values.items():
            kind = int if name == "place" else str
            if not isinstance(value, kind):
                raise DataError(f"{name} is {value!r}: give {'a whole number' if kind is int else 'a string'}")
        return cls(**values)


def shown_turns(folder: Path, predictions: Sequence[Prediction], dialogues: Iterable[Dialogue] = ()) -> list[ShownTurn]:
    """Return the evidence turns of a run with their neighbours, from `dialogues` or else the folder's `turns.jsonl`.

    Turns from `dialogues` are written to that file. Without both, the list is empty.

    Raises:
        DataError: `turns.jsonl` is malformed.
    """
    path = folder / TURNS
    turns = list(_around_evidence(predictions, dialogues))
    if turns:
        rewrite_rows(path, [asdict(turn) for turn in turns])
        return turns
    return _read(path) if path.exists() else []


def _read(path: Path) -> list[ShownTurn]:
    turns = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            turns.append(ShownTurn.from_dict(row))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}; delete the file to do without") from None
    return turns


def _around_evidence(predictions: Sequence[Prediction], dialogues: Iterable[Dialogue]) -> Iterable[ShownTurn]:
    evidence: dict[str, set[str]] = {}
    for prediction in predictions:
        evidence.setdefault(prediction.dialogue_id, set()).update(prediction.evidence)
    for dialogue in dialogues:
        wanted, place = evidence.get(dialogue.dialogue_id, set()), 0
        for session in dialogue.sessions:
            hits = [number for number, turn in enumerate(session.turns) if turn.turn_id in wanted]
            for number, turn in enumerate(session.turns):
                if any(abs(number - hit) <= NEIGHBOURS for hit in hits):
                    yield ShownTurn(
                        dialogue.dialogue_id,
                        turn.turn_id,
                        session.session_id,
                        place + number,
                        turn.speaker,
                        turn.text,
                        turn.timestamp or session.timestamp,
                    )
            place += len(session.turns)
