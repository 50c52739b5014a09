"""The file in which a person reviews drafted questions: CSV for a spreadsheet or, by its ending, JSON lines.

A row is a question. Only `keep`, `question`, `answer`, `category` and `evidence` are taken back; the person may change
any of them, and add rows. `evidence_text` and `flags` help to decide.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memory_r1.dialogue_file import parse_question
from memory_r1.drafting.checks import said_in
from memory_r1.drafting.drafts import Drafted
from memory_r1.errors import DataError
from memory_r1.json_field import JsonField, parse_json, read_bytes, shown, text_lines
from memory_r1.metrics import normalize_answer
from memory_r1.types import Dialogue, Question

TAKEN = ("keep", "dialogue_id", "question", "answer", "category", "evidence")
COLUMNS = (*TAKEN, "evidence_text", "flags")
SEPARATOR = ";"
"""Stands between the turn ids of evidence in CSV."""
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet computes; in CSV an apostrophe precedes it, and any that it begins with."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """The dialogues with the kept questions, the number of these, and rows whose evidence does not say the answer."""

    dialogues: tuple[Dialogue, ...]
    kept: int
    unsaid: tuple[int, ...]


def check_turn_ids(path: Path, dialogues: Sequence[Dialogue]) -> None:
    """Check that a review of the dialogues can be read back from `path`.

    Raises:
        DataError: It is to be CSV, in which a turn id cannot be told from two.
    """
    for dialogue in dialogues if path.suffix != ".jsonl" else ():
        for turn in dialogue.turns():
            if SEPARATOR in turn.turn_id or turn.turn_id != turn.turn_id.strip():
                raise DataError(
                    f"{path}: turn id {shown(turn.turn_id)} of dialogue {dialogue.dialogue_id} holds a {SEPARATOR!r} "
                    "or outer blanks, which CSV cannot tell apart; give an --out that ends in .jsonl"
                )


def write_review(path: Path, dialogues: Sequence[Dialogue], drafted: Sequence[Drafted]) -> None:
    """Write the drafts, flagged ones with `keep` no, replacing the file atomically.

    Raises:
        DataError: The file cannot be written.
    """
    rows = list(_rows(dialogues, drafted))
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = _csv(rows)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Excel reads UTF-8 as such only behind a byte order mark.
        part.write_text(text, encoding="utf-8" if path.suffix == ".jsonl" else "utf-8-sig", newline="")
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another --out") from error


def take_back(path: Path, dialogues: Sequence[Dialogue]) -> Reviewed:
    """Return the dialogues with the questions that the review keeps, behind those they had.

    Raises:
        DataError: The file cannot be read, or a row is malformed, asks what an earlier one asks, or names a dialogue or
            turn that does not exist; the message names the row, counted as in a spreadsheet, and the field.
    """
    by_id = {dialogue.dialogue_id: dialogue for dialogue in dialogues}
    kept: dict[str, list[Question]] = {dialogue.dialogue_id: list(dialogue.questions) for dialogue in dialogues}
    first: dict[tuple[str, str], int] = {}
    unsaid = []
    for number, row in _read_lines(path) if path.suffix == ".jsonl" else _read_csv(path):
        field = JsonField(row, f"{path}: row {number}")
        members = field.members(TAKEN, ("evidence_text", "flags"))
        keep = members["keep"].text(blank=True).strip().lower()
        if keep not in ("yes", "no"):
            members["keep"].fail("yes or no")
        dialogue = by_id.get(members["dialogue_id"].text())
        if dialogue is None:
            members["dialogue_id"].fail("the dialogue_id of a dialogue of the file")
        if keep == "no":
            continue
        questions = kept[dialogue.dialogue_id]
        record = {name: members[name].value for name in ("question", "answer", "category", "evidence")}
        record["question_id"] = _free_id(questions)
        turns = dialogue.turns()
        order = {turn.turn_id: place for place, turn in enumerate(turns)}
        question = parse_question(JsonField(record, field.where), order)
        seen = first.setdefault((dialogue.dialogue_id, normalize_answer(question.question)), number)
        if seen != number:
            members["question"].fail(f"a question that row {seen} does not ask; keep one of them")
        if question.evidence and not said_in(question.answer, [turns[order[item]] for item in question.evidence]):
            unsaid.append(number)
        questions.append(question)
    taken = tuple(replace(dialogue, questions=tuple(kept[dialogue.dialogue_id])) for dialogue in dialogues)
    return Reviewed(taken, len(first), tuple(unsaid))


def _rows(dialogues: Sequence[Dialogue], drafted: Sequence[Drafted]) -> Iterator[dict[str, Any]]:
    turns = {dialogue.dialogue_id: {turn.turn_id: turn for turn in dialogue.turns()} for dialogue in dialogues}
    for item in drafted:
        for draft in item.drafts:
            said = [turns[item.dialogue_id][turn_id] for turn_id in draft.evidence]
            yield {
                "keep": "no" if draft.flags else "yes",
                "dialogue_id": item.dialogue_id,
                "question": draft.question,
                "answer": draft.answer,
                "category": draft.category,
                "evidence": list(draft.evidence),
                "evidence_text": "\n".join(f"{turn.speaker}: {turn.text}" for turn in said),
                "flags": "; ".join(draft.flags),
            }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        cells = {**row, "evidence": f"{SEPARATOR} ".join(row["evidence"])}
        writer.writerow({name: f"'{cell}" if _FORMULA.match(cell) else cell for name, cell in cells.items()})
    return file.getvalue()


def _read_csv(path: Path) -> Iterator[tuple[int, object]]:
    """Yield the rows of a CSV file, separated as a spreadsheet may save it, with their numbers in the spreadsheet."""
    content = read_bytes(path, "the reviewed file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found bytes that are not UTF-8, allowed: CSV saved as UTF-8") from error
    heading = text.split("\n", 1)[0]
    csv.field_size_limit(max(len(text), csv.field_size_limit()))  # by default the evidence of long turns is refused
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=heading.count), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: found malformed CSV ({error}), allowed: CSV") from error
    names = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in TAKEN if name not in names]
    if missing:
        raise DataError(f"{path}: row 1: found no column {', '.join(missing)}, allowed: {', '.join(COLUMNS)}")
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise DataError(f"{path}: row {number}: found {len(cells)} cells, allowed: {len(names)}, one a column")
        said = (cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell for cell in cells)
        row: dict[str, Any] = dict(zip(names, said, strict=True))
        row["evidence"] = [part.strip() for part in row["evidence"].split(SEPARATOR) if part.strip()]
        yield number, {name: row[name] for name in names if name in COLUMNS}


def _read_lines(path: Path) -> Iterator[tuple[int, object]]:
    for number, line in text_lines(read_bytes(path, "the reviewed file"), path):
        yield number, parse_json(line, f"{path}: row {number}")


def _free_id(questions: Sequence[Question]) -> str:
    taken = {question.question_id for question in questions}
    number = len(questions) + 1
    while f"q{number}" in taken:
        number += 1
    return f"q{number}"
