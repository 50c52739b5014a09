"""One dialogue of an evaluation, turn by turn: what was done on each turn, and what some of its questions came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from memory_r1.evaluation.records import OperationRow, Prediction, read_operations, read_predictions
from memory_r1.types import Dialogue

QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class PlayedDialogue:
    """A dialogue as an evaluation played it.

    Attributes:
        dialogue: Its sessions and turns.
        operations: By turn id, each operation on the turn as one line, such as "ADD #3: Ann lives in Oslo".
        questions: Some of its questions, each of another category.
    """

    dialogue: Dialogue
    operations: Mapping[str, tuple[str, ...]]
    questions: tuple[Prediction, ...]

    @classmethod
    def read(cls, folder: Path | str, dialogue: Dialogue, questions: int = QUESTIONS) -> Self:
        """Read a dialogue's part of an evaluation folder, with the first question of each of `questions` categories.

        Raises:
            DataError: A file is missing or malformed.
        """
        done: dict[str, tuple[str, ...]] = {}
        for row in read_operations(folder):
            if row.dialogue_id == dialogue.dialogue_id:
                done[row.turn_id] = (*done.get(row.turn_id, ()), _line(row))
        firsts: dict[str, Prediction] = {}
        for prediction in read_predictions(folder):
            if prediction.dialogue_id == dialogue.dialogue_id:
                firsts.setdefault(prediction.category, prediction)
        return cls(dialogue, done, tuple(firsts.values())[:questions])


def _line(row: OperationRow) -> str:
    """Return an operation as the page of questions words it."""
    entry = "" if row.entry_id is None else f" #{row.entry_id}"
    why = f"{row.status}: {row.reason}" if row.reason else row.status
    outcome = "" if row.status == "applied" else f" ({why.replace('_', ' ')})"
    return f"{row.op or 'nothing'}{entry}{outcome}{f': {row.text}' if row.text else ''}"
