"""Move memories between stores: a user's whole log as JSON lines, and dialogues that are played into a memory.

Nothing here loads a model, so that undoing, exporting and importing a log are quick.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.assistant.messages import SPEAKERS
from memory_r1.assistant.system import AssistantState
from memory_r1.errors import DataError, MemoryR1Error
from memory_r1.json_field import JsonField, parse_json, read_bytes, text_lines
from memory_r1.jsonl import rewrite_rows
from memory_r1.memory.list_log import ListLog
from memory_r1.memory.log import Log
from memory_r1.memory.record import FORGET, Event, Record, Refusal
from memory_r1.types import Dialogue, Turn

if TYPE_CHECKING:
    from memory_r1.assistant.memory import Memory

FORMAT = "memory-r1 log"
VERSION = 1


def export_log(log: Log[AssistantState], user: str, path: Path) -> int:
    """Write all records of a user to a file, replacing it atomically; return their number."""
    records = log.records(user)
    rewrite_rows(path, [{"format": FORMAT, "version": VERSION, "user": user}, *map(_row, records)])
    return len(records)


def is_export(path: Path) -> bool:
    """Return whether a file begins as `export_log` writes it.

    Raises:
        DataError: The file cannot be read, or does not begin with a line of JSON.
    """
    for number, line in text_lines(read_bytes(path, "an export or a JSONL file of dialogues"), path):
        first = parse_json(line, f"{path}:{number}")
        return isinstance(first, dict) and first.get("format") == FORMAT
    return False


def read_export(path: Path) -> tuple[str, list[Record]]:
    """Return the user and the records of a file of `export_log`, after replaying them.

    Raises:
        DataError: A line is malformed, or the records do not follow from each other.
    """
    first, *rest = [
        JsonField(parse_json(line, f"{path}:{number}"), f"{path}:{number}")
        for number, line in text_lines(read_bytes(path, "a file that memory-r1 export wrote"), path)
    ]
    head = first.members(("format", "version", "user"))
    if head["version"].value != VERSION:
        head["version"].fail(f"{VERSION}, the version that this release writes")
    user, records = head["user"].text(), [_record(field) for field in rest]
    events = [event for record in records for event in record.events]
    numbers = [event.number for event in events]
    whole = list(range(1, len(numbers) + 1))
    if any(event.kind == FORGET for event in events):  # the undoing of what is forgotten is gone without a trace
        whole = sorted({*numbers})
    if numbers != whole:
        raise DataError(f"{path}: an event is missing or out of order; export the memory again")
    try:
        with ListLog(AssistantState()) as rehearsal:
            rehearsal.extend(user, records)
            bytes.fromhex(rehearsal.state(user).key)
    except (MemoryR1Error, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: the records cannot be replayed ({error}); export the memory again") from error
    return user, records


def play_dialogues(
    memory: Memory, dialogues: Sequence[Dialogue], user: str, heard: Collection[str], advance: Callable[[], object]
) -> Counter[str]:
    """Tell a memory all turns of dialogues, at their times and in their sessions, except those that it has `heard`.

    Args:
        memory: The memory.
        dialogues: The dialogues, in order.
        user: Whose memory.
        heard: What `heard_turns` returned.
        advance: Called after each turn.

    Returns:
        The numbers of operations by kind, of "refused" ones, of secrets "masked", of turns "shortened", and of turns
        heard "before".
    """
    counts: Counter[str] = Counter()
    for dialogue in dialogues:
        for session in dialogue.sessions:
            for place, turn in enumerate(session.turns):
                turn_id = _turn_id(dialogue, turn)
                if turn_id in heard:
                    counts["before"] += 1
                else:
                    if place == 0:
                        memory.end_session(user_id=user)
                    role = "assistant" if turn.speaker == SPEAKERS["assistant"] else "user"
                    message = {"role": role, "name": turn.speaker, "content": turn.text, "turn_id": turn_id}
                    added = memory.add(message, user_id=user, at=turn.timestamp)
                    counts.update(operation["event"] for operation in added["results"])
                    counts["refused"] += len(added["refused"])
                    counts["masked"] += len(added["masked"])
                    counts["shortened"] += added["shortened"]
                advance()
    return counts


def heard_turns(log: Log[AssistantState], user: str) -> set[str]:
    """Return the ids of the turns that a user's log holds, without the numbers of their sessions."""
    return {record.turn.turn_id.partition(":")[2] for record in log.records(user) if record.turn}


def _turn_id(dialogue: Dialogue, turn: Turn) -> str:
    """Return an id that a turn has in every copy of its dialogue, and no other turn has."""
    parts = (dialogue.dialogue_id, turn.turn_id, turn.speaker, turn.timestamp, turn.text)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _row(record: Record) -> Mapping[str, Any]:
    events = [
        {"number": event.number, "kind": event.kind, "item": event.item, "payload": event.payload}
        for event in record.events
    ]
    return asdict(record) | {"events": events}


def _record(field: JsonField) -> Record:
    members = field.members([each.name for each in fields(Record)])
    return Record(
        None if members["turn"].value is None else _turn(members["turn"]),
        tuple(_event(item) for item in members["events"].items()),
        tuple(_refusal(item) for item in members["refusals"].items()),
        members["completion"].text(blank=True),
        members["failure"].text(blank=True),
        prompt_tokens=_number(members["prompt_tokens"]),
        completion_tokens=_number(members["completion_tokens"]),
        model_calls=_number(members["model_calls"]),
        cut=_number(members["cut"]),
        written_at=_time(members["written_at"]),
    )


def _turn(field: JsonField) -> Turn:
    members = field.members(("turn_id", "speaker", "text", "session_id", "timestamp"), closed=False)
    return Turn(
        members["turn_id"].text(),
        members["speaker"].text(blank=True),
        members["text"].text(blank=True),
        members["session_id"].text(blank=True),
        _time(members["timestamp"]),
    )


def _event(field: JsonField) -> Event:
    members = field.members(("number", "kind", "item", "payload"))
    payload = members["payload"].members((), closed=False)
    for name in {"text", "speaker"} & payload.keys():
        payload[name].text(blank=True)
    if "timestamp" in payload:
        _time(payload["timestamp"])
    for turn_id in payload["turn_ids"].items() if "turn_ids" in payload else ():
        turn_id.text()
    item = None if members["item"].value is None else _number(members["item"])
    values = {name: member.value for name, member in payload.items()}
    return Event(members["kind"].text(), item, values, number=_number(members["number"]))


def _refusal(field: JsonField) -> Refusal:
    members = field.members(("index", "reason", "raw"))
    raw = members["raw"].text(blank=True)
    try:
        json.loads(raw or "null")
    except (ValueError, RecursionError):
        members["raw"].fail("JSON, or nothing")
    return Refusal(_number(members["index"]), members["reason"].text(), raw)


def _time(field: JsonField) -> str:
    return field.timestamp() if field.value != "" else ""


def _number(field: JsonField) -> int:
    if type(field.value) is not int or field.value < 0:
        field.fail("a whole number from 0")
    return field.value
