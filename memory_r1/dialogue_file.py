"""Dialogues as JSONL, one object per line: the format for users' own data.

Reading is strict: an error names the file, line and field, what was found and what is allowed. Loaders of other formats
share these checks through `JsonField`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from memory_r1.errors import DataError
from memory_r1.json_field import JsonField, parse_json, read_bytes, shown, text_lines
from memory_r1.types import Dialogue, Question, Session, Turn

LONGEST_TEXT = 100_000
"""Limit on a turn, question or answer, in characters: generous for speech, but below a file pasted by mistake."""


def read_dialogues(path: Path | str) -> list[Dialogue]:
    """Read all dialogues of a JSONL file, in order; skip blank lines.

    A turn takes `session_id` and, if it has none, `timestamp` from its session. Evidence is sorted into dialogue order.
    Turn, session and question ids are unique within a dialogue, dialogue ids within the file.

    Raises:
        DataError: The file cannot be read or holds no dialogue, or a line is malformed.
    """
    path = Path(path)
    first_line: dict[str, int] = {}
    dialogues: list[Dialogue] = []
    content = read_bytes(path, "a JSONL file of dialogues")
    for number, line in text_lines(content, path):
        if not dialogues and line.lstrip().startswith("["):
            _refuse_array(path, number)
        field = JsonField(parse_json(line, f"{path}:{number}"), f"{path}:{number}")
        dialogue = parse_dialogue(field)
        seen = first_line.setdefault(dialogue.dialogue_id, number)
        if seen != number:
            field.members(("dialogue_id",), closed=False)["dialogue_id"].fail(f"an id that line {seen} has not taken")
        dialogues.append(dialogue)
    if not dialogues:
        raise DataError(f"{path}: found no dialogue, allowed: one JSON object per line, at least one")
    return dialogues


def write_dialogues(path: Path | str, dialogues: Iterable[Dialogue]) -> None:
    """Write, atomically, a file that `read_dialogues` reads back as these dialogues.

    Raises:
        DataError: `read_dialogues` would refuse a dialogue, or the file cannot be written.
    """
    path = Path(path)
    lines = []
    ids: set[str] = set()
    for number, dialogue in enumerate(dialogues, start=1):
        record = dialogue_to_json(dialogue)
        parse_dialogue(JsonField(record, f"{path}:{number}"))  # check what reading would refuse
        if dialogue.dialogue_id in ids:
            raise DataError(f"{path}:{number}: dialogue_id: found {shown(dialogue.dialogue_id)} twice, allowed: once")
        ids.add(dialogue.dialogue_id)
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    if not lines:
        raise DataError(f"{path}: no dialogue to write, allowed: at least one")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(lines), encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def dialogues_hash(dialogues: Iterable[Dialogue]) -> str:
    """Return the SHA-256 of the dialogues' content, questions included."""
    digest = hashlib.sha256()
    for dialogue in dialogues:
        digest.update(json.dumps(asdict(dialogue), sort_keys=True).encode())
    return digest.hexdigest()


def dialogue_to_json(dialogue: Dialogue) -> dict[str, object]:
    """Return one line's object, without redundant turn timestamps and empty `asked_at`."""
    return {
        "dialogue_id": dialogue.dialogue_id,
        "speakers": list(dialogue.speakers),
        "sessions": [
            {
                "session_id": session.session_id,
                "timestamp": session.timestamp,
                "turns": [_turn_to_json(turn, session) for turn in session.turns],
            }
            for session in dialogue.sessions
        ],
        "questions": [_question_to_json(question) for question in dialogue.questions],
    }


def parse_dialogue(field: JsonField) -> Dialogue:
    """Parse one line's object.

    Raises:
        DataError: A member is missing, unknown, of the wrong kind or repeated, or names something that does not exist.
    """
    members = field.members(("dialogue_id", "speakers", "sessions"), ("questions",))
    dialogue_id = members["dialogue_id"].text()
    speakers = _unique_texts(members["speakers"].items(at_least=1))
    sessions = [_parse_session(item, speakers) for item in members["sessions"].items(at_least=1)]
    session_items = members["sessions"].items()
    _refuse_repeats(session_items, "session_id")
    turn_items = [turn for item in session_items for turn in item.members(("turns",), closed=False)["turns"].items()]
    order = _refuse_repeats(turn_items, "turn_id")
    question_items = members["questions"].items() if "questions" in members else []
    questions = [parse_question(item, order) for item in question_items]
    _refuse_repeats(question_items, "question_id")
    dialogue = Dialogue(dialogue_id, speakers, tuple(sessions), tuple(questions))
    _refuse_mixed_zones(dialogue, field)
    return dialogue


def _parse_session(field: JsonField, speakers: Sequence[str]) -> Session:
    members = field.members(("session_id", "timestamp", "turns"))
    session_id, timestamp = members["session_id"].text(), members["timestamp"].timestamp()
    turns = []
    for item in members["turns"].items(at_least=1):
        turn = item.members(("turn_id", "speaker", "text"), ("timestamp",))
        speaker = turn["speaker"].text()
        if speaker not in speakers:
            turn["speaker"].fail(f"one of the dialogue's speakers, {', '.join(map(shown, speakers))}")
        own = turn["timestamp"].timestamp() if "timestamp" in turn else timestamp
        turns.append(
            Turn(turn["turn_id"].text(), speaker, _bounded(turn["text"], "cut it into several turns"), session_id, own)
        )
    return Session(session_id, timestamp, tuple(turns))


def parse_question(field: JsonField, order: Mapping[str, int]) -> Question:
    """Parse a question; `order` maps each turn id to its position in the dialogue.

    Raises:
        DataError: A member is missing, unknown or of the wrong kind, or evidence names no turn.
    """
    members = field.members(("question_id", "question", "answer", "category"), ("evidence", "asked_at"))
    evidence: tuple[str, ...] = ()
    if "evidence" in members:
        items = members["evidence"].items()
        evidence = _unique_texts(items)
        for item, turn_id in zip(items, evidence, strict=True):
            if turn_id not in order:
                item.fail("the turn_id of a turn of this dialogue")
    asked_at = ""
    if "asked_at" in members and members["asked_at"].value != "":
        asked_at = members["asked_at"].timestamp()
    return Question(
        question_id=members["question_id"].text(),
        question=_bounded(members["question"], "shorten it"),
        answer=_bounded(members["answer"], "shorten it"),
        category=members["category"].text(),
        evidence=tuple(sorted(evidence, key=order.__getitem__)),
        asked_at=asked_at,
    )


def _bounded(field: JsonField, remedy: str) -> str:
    """Return a text of at most `LONGEST_TEXT` characters; `remedy` tells how to mend a longer one."""
    text = field.text()
    if len(text) > LONGEST_TEXT:
        field.fail(f"at most {LONGEST_TEXT:,}; {remedy}", found=f"{len(text):,} characters")
    return text


def _unique_texts(items: Sequence[JsonField]) -> tuple[str, ...]:
    """Return the items' texts; refuse duplicates."""
    texts: list[str] = []
    for item in items:
        if item.text() in texts:
            item.fail("a name or id that is not in this array yet")
        texts.append(item.text())
    return tuple(texts)


def _refuse_repeats(items: Sequence[JsonField], key: str) -> dict[str, int]:
    """Map each item's id under `key` to its position; refuse duplicates."""
    order: dict[str, int] = {}
    for item in items:
        identifier = item.members((key,), closed=False)[key]
        if identifier.text() in order:
            identifier.fail(f"a {key} that is not in this dialogue yet")
        order[identifier.text()] = len(order)
    return order


def _refuse_mixed_zones(dialogue: Dialogue, field: JsonField) -> None:
    """Refuse a mix of times with and without a UTC offset: it has no order, and freshness depends on order."""
    stamps = [turn.timestamp for turn in dialogue.turns()]
    stamps += [session.timestamp for session in dialogue.sessions]
    stamps += [question.asked_at for question in dialogue.questions if question.asked_at]
    zoned = {datetime.fromisoformat(stamp).tzinfo is not None for stamp in stamps}
    if len(zoned) > 1:
        raise DataError(
            f"{field.where}: timestamp: found times with and without a UTC offset, allowed: all with or all without"
        )


def _turn_to_json(turn: Turn, session: Session) -> dict[str, str]:
    record = {"turn_id": turn.turn_id, "speaker": turn.speaker, "text": turn.text}
    if turn.timestamp not in ("", session.timestamp):
        record["timestamp"] = turn.timestamp
    return record


def _question_to_json(question: Question) -> dict[str, object]:
    asked_at = {"asked_at": question.asked_at} if question.asked_at else {}
    return {
        "question_id": question.question_id,
        "question": question.question,
        "answer": question.answer,
        "category": question.category,
        "evidence": list(question.evidence),
        **asked_at,
    }


def _refuse_array(path: Path, number: int) -> NoReturn:
    """Refuse a file that is one array, naming the command that converts it to one item per line."""
    program = "import json, sys; [print(json.dumps(item)) for item in json.load(sys.stdin.buffer)]"
    files = f"< {shlex.quote(str(path))} > {shlex.quote(str(path.with_suffix('.lines.jsonl')))}"
    raise DataError(
        f"{path}:{number}: found a JSON array, allowed: one JSON object per line; "
        f"convert it: python3 -c '{program}' {files}"
    )
