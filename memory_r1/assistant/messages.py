"""Read what callers pass: users, times, limits, and messages in OpenAI's form, as turns."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory_r1.assistant.guards import Guards
from memory_r1.assistant.system import Said
from memory_r1.errors import ConfigurationError, DataError, ScopeError
from memory_r1.memory.log import check_scope
from memory_r1.types import MemoryEntry

Messages = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A text that the user said, one message, or several in order."""

SPEAKERS = {"user": "User", "assistant": "Assistant"}
"""The speaker of a message without a name."""
_UNHEARD = ("system", "developer", "tool", "function")
_TEXTS = ("text", "input_text", "output_text")
_LONGEST_NAME = 64
_LONGEST_SCOPE = 256


@dataclass(frozen=True, slots=True)
class Heard:
    """Messages as turns, the kinds of secrets masked in them, and how many were cut to the allowed length."""

    turns: tuple[Said, ...]
    masked: tuple[str, ...] = ()
    shortened: int = 0


def read_messages(
    messages: Messages,
    guards: Guards,
    memories: Sequence[MemoryEntry],
    *,
    session_id: str,
    at: str,
    metadata: Mapping[str, Any] | None = None,
    verbatim: bool = False,
) -> Heard:
    """Return the turns of messages, after the guards; a message without text, of a system or of a tool has none.

    Raises:
        DataError: A message or the metadata has another form, or there are too many messages.
    """
    kept = read_metadata(metadata)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif isinstance(messages, Mapping):
        messages = [messages]
    if not isinstance(messages, Sequence):
        raise DataError(f"messages is of type {type(messages).__name__}: give a text, a message or a list of messages")
    if guards.max_messages is not None and len(messages) > guards.max_messages:
        raise DataError(
            f"found {len(messages)} messages, allowed are {guards.max_messages}: add them in parts, or raise the limit "
            "with Guards(max_messages=...)"
        )
    turns, masked, shortened = list[Said](), list[str](), 0
    for number, message in enumerate(messages):
        role, name, text, turn_id = _read(number, message)
        if role not in SPEAKERS:
            continue
        cleaned = guards.message(text, memories, by_assistant=role == "assistant")
        masked += cleaned.masked
        shortened += cleaned.shortened
        if cleaned.text.strip():
            speaker = guards.memory(name[: 2 * _LONGEST_NAME])[:_LONGEST_NAME].strip() or SPEAKERS[role]
            turn_id = f"{session_id}:{turn_id or secrets.token_hex(6)}"
            turns.append(Said(turn_id, speaker, cleaned.text, session_id, at, kept, verbatim))
    return Heard(tuple(turns), tuple(masked), shortened)


def scope_of(user_id: str | None, filters: Mapping[str, Any] | None = None) -> str:
    """Return the scope of a user, named by `user_id` or, as in mem0 2, by `filters={"user_id": ...}`.

    Raises:
        ConfigurationError: A filter is none of ours, or names another user than `user_id`.
        ScopeError: No user is named, or by a text that is empty, too long or not storable.
    """
    if others := sorted(set(filters or {}) - {"user_id"}):
        raise ConfigurationError(f"filter {others[0]!r} is unknown: the only one is user_id")
    named = (filters or {}).get("user_id", user_id)
    if user_id is not None and named != user_id:
        raise ConfigurationError("user_id and filters name two users: give one of them")
    scope = check_scope(named)
    if len(scope) > _LONGEST_SCOPE or "\0" in scope or not _is_unicode(scope):
        raise ScopeError(f"user_id {scope[:40]!r} is too long or no text: give at most {_LONGEST_SCOPE} characters")
    return scope


def read_time(at: str | datetime | None) -> str:
    """Return a time as ISO 8601, by default now.

    Raises:
        DataError: It is no time.
    """
    if at is None:
        return datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        moment.astimezone()  # fails at the ends of time, where no session gap can be computed
        return moment.isoformat()
    except (ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"at is {at!r}: give a datetime or ISO 8601, such as 2026-05-08T13:56:00") from error


def read_text(what: str, text: object) -> str:
    """Return a text.

    Args:
        what: Names it in errors.
        text: The text.

    Raises:
        DataError: It is none.
    """
    if not isinstance(text, str):
        raise DataError(f"{what} is of type {type(text).__name__}: give a text")
    if not _is_unicode(text):
        raise DataError(f"{what} holds half a surrogate pair: give valid Unicode")
    return text


def read_question(what: str, text: object) -> str:
    """Return a text as `read_text` does, which is not empty."""
    asked = read_text(what, text)
    if not asked.strip():
        raise DataError(f"the {what} is empty: give a text")
    return asked


def read_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of a caller's metadata as JSON holds it.

    Raises:
        DataError: JSON cannot hold it.
    """
    if not isinstance(metadata, Mapping | None):
        raise DataError(f"metadata is of type {type(metadata).__name__}: give a dictionary")
    try:
        text = json.dumps(dict(metadata or {}), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"metadata holds no JSON values ({error}): give texts, numbers, lists and the like") from error
    copied: dict[str, Any] = json.loads(text)
    return copied


def read_limit(limit: int | None, top_k: int | None) -> int | None:
    """Return the one that is given.

    Raises:
        DataError: It is below 0, or both are given.
    """
    if limit is not None and top_k is not None:
        raise DataError("limit and top_k are two names of one number: give one of them")
    most = limit if limit is not None else top_k
    if most is not None and (type(most) is not int or most < 0):
        raise DataError(f"limit is {most!r}: give a whole number from 0")
    return most


def read_count(count: int) -> int:
    """Return a number of operations.

    Raises:
        DataError: It is none from 1.
    """
    if type(count) is not int or count < 1:
        raise DataError(f"count is {count!r}: give a whole number from 1")
    return count


def seconds_between(first: str, second: str) -> float:
    """Return the seconds between two ISO 8601 times, in either order; one without an offset is local."""
    times = [datetime.fromisoformat(time).astimezone() for time in (first, second)]
    return abs((times[1] - times[0]).total_seconds())


def _read(number: int, message: object) -> tuple[str, str, str, str]:
    """Return the role, name, text and `turn_id` of a message."""
    where = f"messages[{number}]"
    if not isinstance(message, Mapping):
        raise DataError(f"{where} is of type {type(message).__name__}: give {{'role': ..., 'content': ...}}")
    role, name, content, turn_id = (message.get(key) for key in ("role", "name", "content", "turn_id"))
    if role not in (*SPEAKERS, *_UNHEARD):
        raise DataError(f"{where} has the role {role!r}: give user or assistant; not heard are {', '.join(_UNHEARD)}")
    if not isinstance(name, str | None):
        raise DataError(f"{where} has the name {name!r}: give a text, or leave it out")
    if not isinstance(turn_id, str | None) or len(turn_id or "") > _LONGEST_NAME:
        raise DataError(
            f"{where} has the turn_id {turn_id!r:.80}: give at most {_LONGEST_NAME} characters, or leave it out"
        )
    if isinstance(content, list | tuple):  # parts, of which only texts are read
        if wrong := next((part for part in content if not isinstance(part, Mapping)), None):
            raise DataError(f"{where} has a part of type {type(wrong).__name__}: give {{'type': 'text', 'text': ...}}")
        parts = [part.get("text") for part in content if part.get("type") in _TEXTS]
        content = "\n".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str | None):
        raise DataError(f"{where} has content of type {type(content).__name__}: give a text or a list of parts")
    text = content or ""
    if not _is_unicode(text + (name or "") + (turn_id or "")):
        raise DataError(f"{where} holds half a surrogate pair: give valid Unicode")
    return role, name or "", text.replace("\0", "\ufffd"), turn_id or ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
