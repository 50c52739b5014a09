"""Dialogues with gold operations: `<split>.jsonl` in the own-dialogue format, and `<split>.gold.jsonl` beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory_r1.dialogue_file import read_dialogues, write_dialogues
from memory_r1.errors import DataError
from memory_r1.jsonl import rewrite_rows
from memory_r1.types import Dialogue, Operation, OperationKind


@dataclass(frozen=True, slots=True)
class LabelledDialogue:
    """A dialogue and its gold operations by turn id.

    Entry ids are those that a MemoryBank assigns if all operations are played in dialogue order from empty.
    """

    dialogue: Dialogue
    gold: Mapping[str, tuple[Operation, ...]]


def write_labelled(folder: Path | str, split: str, dialogues: Sequence[LabelledDialogue]) -> None:
    """Write `<split>.jsonl` (the dialogue format) and `<split>.gold.jsonl` (gold operations, one dialogue per line)."""
    folder = Path(folder)
    write_dialogues(folder / f"{split}.jsonl", [item.dialogue for item in dialogues])
    labels = [
        {
            "dialogue_id": item.dialogue.dialogue_id,
            "operations": {turn_id: [_to_json(o) for o in gold] for turn_id, gold in item.gold.items()},
        }
        for item in dialogues
    ]
    rewrite_rows(folder / f"{split}.gold.jsonl", labels)


def read_labelled(folder: Path | str, split: str) -> list[LabelledDialogue]:
    """Read the files of `write_labelled`.

    Raises:
        DataError: A file is missing or malformed, or the two differ in dialogues or turns.
    """
    folder = Path(folder)
    path = folder / f"{split}.gold.jsonl"
    dialogues = read_dialogues(folder / f"{split}.jsonl")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); write the folder again") from error
    gold = dict(_gold_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1))
    for dialogue in dialogues:
        turns = [turn.turn_id for turn in dialogue.turns()]
        if turns != list(gold.get(dialogue.dialogue_id, ())):
            raise DataError(f"{path}: no operations for every turn of {dialogue.dialogue_id}; write the folder again")
    return [LabelledDialogue(dialogue, gold[dialogue.dialogue_id]) for dialogue in dialogues]


def _to_json(operation: Operation) -> dict[str, object]:
    record = {"op": operation.kind.value, "id": operation.entry_id, "text": operation.text}
    return {key: value for key, value in record.items() if value is not None}


def _gold_line(line: str, where: str) -> tuple[str, dict[str, tuple[Operation, ...]]]:
    try:
        record = json.loads(line)
        operations = {
            turn_id: tuple(Operation(OperationKind(o["op"]), o.get("text"), o.get("id")) for o in gold)
            for turn_id, gold in record["operations"].items()
        }
        return record["dialogue_id"], operations
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not a line of gold operations ({error!r}); write the folder again") from error
