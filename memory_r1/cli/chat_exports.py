"""Read chat exports of other programs as conversations: who said what, and when if the export says so.

Messages that no person or assistant said to the other are left out and counted by kind.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from memory_r1.errors import DataError
from memory_r1.json_field import JsonField, parse_document, parse_json, read_bytes, shown, text_lines

USER, ASSISTANT = "user", "assistant"
SYSTEM, TOOL, EMPTY = "system and hidden messages", "tool and reasoning messages", "empty messages"
PART, BRANCH = "images, files and other parts that are not text", "messages of abandoned branches"

_ROLES = {
    **dict.fromkeys(("user", "human"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("tool", "function", "function_call", "function_response", "observation"), TOOL),
}
_TIMES = ("create_time", "created_at", "timestamp", "time", "date")
_EPOCH = re.compile(r"\d{9,13}(\.\d+)?")  # 1973 to 2286 in seconds, or any of those in milliseconds


class Form(StrEnum):
    """The formats of exports."""

    OPENAI = "openai"
    CHATGPT = "chatgpt"
    SHAREGPT = "sharegpt"
    CSV = "csv"


_KEYS = {"mapping": Form.CHATGPT, "messages": Form.OPENAI, "conversations": Form.SHAREGPT}

COLUMNS = {
    "conversation": ("conversation", "conversation_id", "dialogue", "dialogue_id", "thread", "chat"),
    "time": ("time", "timestamp", "date", "created_at", "create_time"),
    "speaker": ("speaker", "role", "author", "sender", "from", "name"),
    "text": ("text", "content", "message", "body"),
}
"""What a CSV file's columns hold, and the names looked for where none is given, in lower case."""


@dataclass(frozen=True, slots=True)
class Message:
    """What one speaker said; `timestamp` is ISO 8601, or empty if unknown."""

    speaker: str
    text: str
    timestamp: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, at least one; `timestamp` is its beginning, or empty if no time is known."""

    conversation_id: str
    timestamp: str
    messages: tuple[Message, ...]


@dataclass(slots=True)
class Export:
    """The conversations of a file, how many had no message to keep, and how many messages were left out by kind."""

    form: Form
    conversations: list[Conversation] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    without_messages: int = 0

    def keep(self, conversation_id: str, timestamp: str, messages: list[Message]) -> None:
        """Add a conversation without its empty messages, if any is left."""
        kept = tuple(message for message in messages if message.text.strip())
        self.left_out[EMPTY] += len(messages) - len(kept)
        self.without_messages += not kept
        if kept:
            begun = timestamp or next((message.timestamp for message in kept if message.timestamp), "")
            self.conversations.append(Conversation(conversation_id, begun, kept))


def read_export(path: Path, form: Form | None = None, columns: Mapping[str, str | None] | None = None) -> Export:
    """Read an export, whose format is found out unless `form` names it.

    Args:
        path: The file: a JSON array, JSON lines, one JSON object, or CSV with a header.
        form: Its format.
        columns: Names of a CSV file's columns by what they hold (see `COLUMNS`).

    Raises:
        DataError: The file cannot be read, or a record is malformed.
    """
    content = read_bytes(path, "a chat export").removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise DataError(f"{path}: found an empty file, allowed: a chat export")
    if form is Form.CSV or (form is None and content.lstrip()[:1] not in (b"[", b"{")):
        return _read_csv(path, content, columns or {})
    records = _records(path, content)
    found = form or _form_of(records[0])
    export = Export(found)
    read = {Form.OPENAI: _openai, Form.CHATGPT: _chatgpt, Form.SHAREGPT: _sharegpt}[found]
    ids: set[str] = set()
    for number, record in enumerate(records, start=1):
        members = record.members([key for key, of in _KEYS.items() if of is found], closed=False)
        name = members.get("conversation_id") or members.get("id")
        conversation_id = name.text() if name and isinstance(name.value, str) else f"{path.stem}-{number}"
        if name and conversation_id in ids:
            name.fail("an id that no conversation before has")
        ids.add(conversation_id)
        export.keep(conversation_id, _time(members), list(read(members, export.left_out)))
    return export


def _records(path: Path, content: bytes) -> list[JsonField]:
    """Return the objects of a JSON array, of a file that is one object, or of JSON lines."""
    if content.lstrip().startswith(b"["):
        return parse_document(content, path, "a JSON array of conversations").items(at_least=1)
    try:
        return [JsonField(json.loads(content), str(path))]
    except (ValueError, RecursionError):
        lines = text_lines(content, path)
        return [JsonField(parse_json(line, f"{path}:{number}"), f"{path}:{number}") for number, line in lines]


def _form_of(record: JsonField) -> Form:
    members = record.members((), closed=False)
    for key, form in _KEYS.items():
        if key in members:
            return form
    allowed = "'messages' (openai), 'mapping' (chatgpt) or 'conversations' (sharegpt)"
    record.fail(f"an object with {allowed}", found=f"an object with the keys {', '.join(members) or '(none)'}")


def _openai(members: Mapping[str, JsonField], left_out: Counter[str]) -> Iterator[Message]:
    for item in members["messages"].items():
        message = item.members(("role",), closed=False)
        role = _role(message["role"])
        text = _text(message["content"], left_out) if "content" in message else ""
        if role not in (USER, ASSISTANT):
            left_out[role] += 1
        elif not text and any(key in message and message[key].value for key in ("tool_calls", "function_call")):
            left_out[TOOL] += 1
        else:
            yield Message(role, text, _time(message))


def _sharegpt(members: Mapping[str, JsonField], left_out: Counter[str]) -> Iterator[Message]:
    for item in members["conversations"].items():
        message = item.members(("from", "value"), closed=False)
        role = _role(message["from"])
        if role in (USER, ASSISTANT):
            yield Message(role, _text(message["value"], left_out), _time(message))
        else:
            left_out[role] += 1


def _chatgpt(members: Mapping[str, JsonField], left_out: Counter[str]) -> Iterator[Message]:
    """Yield the messages between the root of the tree and its current node; an edit begins another branch."""
    nodes = {
        name: node.members((), closed=False) for name, node in members["mapping"].members((), closed=False).items()
    }
    branch: list[str] = []
    step = members.get("current_node")
    if step is None or step.value is None:  # the last node that is no other's parent
        parents = {node["parent"].value for node in nodes.values() if "parent" in node}
        leaf = next((name for name in reversed(nodes) if name not in parents), None)
        step = JsonField(leaf, members["mapping"].where, members["mapping"].path)
    while step is not None and step.value is not None:
        name = step.value
        if not isinstance(name, str) or name not in nodes or name in branch:
            step.fail("the name of a node in 'mapping', without a circle")
        branch.append(name)
        step = nodes[name].get("parent")
    said = {name for name, node in nodes.items() if "message" in node and node["message"].value is not None}
    left_out[BRANCH] += len(said - {*branch})
    for name in reversed(branch):
        if name in said:
            yield from _chatgpt_message(nodes[name]["message"], left_out)


def _chatgpt_message(message: JsonField, left_out: Counter[str]) -> Iterator[Message]:
    members = message.members(("author", "content"), closed=False)
    role = _role(members["author"].members(("role",), closed=False)["role"])
    content = members["content"].members((), closed=False)
    metadata, recipient, kind = members.get("metadata"), members.get("recipient"), content.get("content_type")
    if role not in (USER, ASSISTANT):
        left_out[role] += 1
    elif metadata and isinstance(metadata.value, dict) and metadata.value.get("is_visually_hidden_from_conversation"):
        left_out[SYSTEM] += 1
    elif (recipient and recipient.value not in (None, "all")) or (
        kind and kind.value not in ("text", "multimodal_text")
    ):
        left_out[TOOL] += 1
    else:
        yield Message(role, _text(content["parts"], left_out) if "parts" in content else "", _time(members))


def _role(role: JsonField) -> str:
    """Return `USER`, `ASSISTANT`, or the kind under which messages of this role are left out."""
    if role.text().lower() not in _ROLES:
        role.fail(f"one of {', '.join(_ROLES)}")
    return _ROLES[role.text().lower()]


def _text(content: JsonField, left_out: Counter[str]) -> str:
    """Return a string, or the texts among an array of parts; count the other parts."""
    if content.value is None or isinstance(content.value, str):
        return content.text(blank=True).strip() if content.value else ""
    if not isinstance(content.value, list):
        content.fail("a string, null, or an array of parts")
    texts = []
    for part in content.items():
        text = part if isinstance(part.value, str) else part.members((), closed=False).get("text")
        if text is not None and isinstance(text.value, str):
            texts.append(text.text(blank=True))
        else:
            left_out[PART] += 1
    return "\n".join(texts).strip()


def _time(members: Mapping[str, JsonField]) -> str:
    stated = (members[name] for name in _TIMES if name in members)
    return next((_iso(time) for time in stated if time.value not in (None, "")), "")


def _iso(time: JsonField) -> str:
    """Return an ISO 8601 time as it is, and seconds or milliseconds since 1970 in UTC."""
    value = time.value
    if isinstance(value, str) and _EPOCH.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return time.timestamp()
    try:
        return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        time.fail("seconds since 1970, or an ISO 8601 time")


def _read_csv(path: Path, content: bytes, columns: Mapping[str, str | None]) -> Export:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: found bytes that are not UTF-8, allowed: UTF-8 text") from error
    delimiter = max(",;\t", key=text.splitlines()[0].count)
    csv.field_size_limit(max(len(text), csv.field_size_limit()))  # by default a long message is refused
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    export = Export(Form.CSV)
    found: dict[str, list[Message]] = {}
    try:
        names = [name.strip() for name in next(rows)]
        place = _places(path, names, columns)
        for row in filter(None, rows):
            where = f"{path}:{rows.line_num}"
            if len(row) != len(names):
                raise DataError(f"{where}: found {len(row)} cells, allowed: {len(names)} as in the header")
            cell = {key: JsonField(row[index], where, names[index]) for key, index in place.items()}
            kept = found.setdefault(cell["conversation"].text() if "conversation" in cell else f"{path.stem}-1", [])
            speaker = cell["speaker"].text().strip()
            left_out = _ROLES.get(speaker.lower())
            if left_out in (SYSTEM, TOOL):
                export.left_out[left_out] += 1
                continue
            said_at = _iso(cell["time"]) if "time" in cell and row[place["time"]].strip() else ""
            kept.append(Message(speaker, cell["text"].text(blank=True).strip(), said_at))
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: found malformed CSV ({error}), allowed: quoted CSV") from error
    for conversation_id, messages in found.items():
        export.keep(conversation_id, "", messages)
    return export


def _places(path: Path, names: list[str], columns: Mapping[str, str | None]) -> dict[str, int]:
    """Return the index of each column that the file has; speaker and text it must have."""
    lower = [name.lower() for name in names]
    place = {}
    for key, usual in COLUMNS.items():
        given = columns.get(key)
        if given is not None and given not in names:
            raise DataError(f"{path}:1: no column {shown(given)}, found: {', '.join(names)}")
        index = names.index(given) if given is not None else next((lower.index(n) for n in usual if n in lower), None)
        if index is not None:
            place[key] = index
        elif key in ("speaker", "text"):
            raise DataError(
                f"{path}:1: no column for the {key} among {', '.join(names)}, allowed: {', '.join(usual)}; "
                f"name it with --{key}-column"
            )
    return place
