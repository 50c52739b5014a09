"""What the event log is made of, and how it is replayed into live entries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from memory_r1.errors import StoreError
from memory_r1.memory.bank import MemoryBank
from memory_r1.types import MemoryEntry, Operation, Turn

_Step = tuple["StoreEvent", MemoryEntry | None]


class EventKind(StrEnum):
    """What a row of the log says. FORGET keeps the id of an erased entry from being given again, and nothing else."""

    ADD = "ADD"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    UNDO = "UNDO"
    REDO = "REDO"
    FORGET = "FORGET"


@dataclass(frozen=True, slots=True)
class StoreEvent:
    """One row of the log. Event ids count from 1 in each scope; `created` is the time of writing (ISO 8601, UTC).

    ADD and UPDATE hold the whole new version of the entry: `text`, and all its source turns in `turn_ids`. DELETE has
    no text and names the turn that caused it. UNDO and REDO name the event they take back or restore in `target`.
    """

    event_id: int
    scope: str
    kind: EventKind
    entry_id: int
    text: str | None
    speaker: str
    timestamp: str
    turn_ids: tuple[str, ...]
    target: int | None
    created: str

    def to_row(self) -> tuple[object, ...]:
        """The fields in order, as SQLite holds them."""
        return (
            self.event_id,
            self.scope,
            self.kind.value,
            self.entry_id,
            self.text,
            self.speaker,
            self.timestamp,
            json.dumps(self.turn_ids),
            self.target,
            self.created,
        )

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> StoreEvent:
        """The event that `to_row` gave."""
        event_id, scope, kind, entry_id, text, speaker, timestamp, turn_ids, target, created = row
        turns = tuple(json.loads(turn_ids))
        return cls(event_id, scope, EventKind(kind), entry_id, text, speaker, timestamp, turns, target, created)


def operation_event(
    scope: str, event_id: int, operation: Operation, changed: Sequence[MemoryEntry], turn: Turn
) -> StoreEvent:
    """The event of one applied operation; `changed` is what applying it alone returned, empty for a DELETE."""
    if changed:
        entry = changed[0]
        entry_id, text, turn_ids = entry.entry_id, entry.text, entry.source_turn_ids
    else:
        assert operation.entry_id is not None  # The bank has just deleted it.
        entry_id, text, turn_ids = operation.entry_id, None, (turn.turn_id,)
    kind = EventKind(operation.kind.value)
    return StoreEvent(event_id, scope, kind, entry_id, text, turn.speaker, turn.timestamp, turn_ids, None, _now())


def marker_event(scope: str, event_id: int, kind: EventKind, entry_id: int, target: int | None = None) -> StoreEvent:
    """An UNDO, REDO or FORGET."""
    return StoreEvent(event_id, scope, kind, entry_id, None, "", "", (), target, _now())


@dataclass(slots=True)
class Replay:
    """A scope's state after the events played so far.

    `done` and `undone` are stacks of (event, the entry before that event): what an undo or redo would take next.
    """

    last_event: int = 0
    highest_id: int = 0
    live: dict[int, MemoryEntry] = field(default_factory=dict)
    done: list[_Step] = field(default_factory=list)
    undone: list[_Step] = field(default_factory=list)

    def play(self, event: StoreEvent) -> None:
        """Events come in the order of their ids.

        Raises:
            StoreError: An UNDO or REDO does not fit the events before it: the log was edited by another program.
        """
        self.last_event = event.event_id
        self.highest_id = max(self.highest_id, event.entry_id)
        if event.kind is EventKind.FORGET:
            return
        if event.kind is EventKind.UNDO:
            taken_back, before = _pop(self.done, event)
            self.undone.append((taken_back, before))
            self._put(event.entry_id, before)
            return
        if event.kind is EventKind.REDO:
            event, _ = _pop(self.undone, event)
        else:
            self.undone.clear()
        self.done.append((event, self.live.get(event.entry_id)))
        self._put(event.entry_id, _version(event))

    def bank(self) -> MemoryBank:
        """The live entries; their ids rise, so this order is that of first insertion."""
        return MemoryBank((self.live[key] for key in sorted(self.live)), highest_id=self.highest_id)

    def _put(self, entry_id: int, entry: MemoryEntry | None) -> None:
        if entry is None:
            self.live.pop(entry_id, None)
        else:
            self.live[entry_id] = entry


def _pop(stack: list[_Step], event: StoreEvent) -> _Step:
    if not stack or stack[-1][0].event_id != event.target:
        raise StoreError(
            f"event {event.event_id} of scope {event.scope!r} is a {event.kind} of event {event.target}, which was not "
            "the next in line; the log was changed by another program, restore it from a copy"
        )
    return stack.pop()


def _version(event: StoreEvent) -> MemoryEntry | None:
    if event.text is None:
        return None
    return MemoryEntry(event.entry_id, event.text, event.speaker, event.timestamp, event.turn_ids)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
