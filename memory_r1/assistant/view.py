"""What callers see of a memory system: memories and operations under public ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime

from memory_r1.assistant.ids import is_genuine, make_id, read_id
from memory_r1.assistant.results import Change, MemoryItem, OperationDone, OperationRefused
from memory_r1.assistant.system import AssistantState, Written, key_of
from memory_r1.errors import DataError, ScopeError
from memory_r1.memory.log import Log
from memory_r1.memory.record import MARKERS, UNDO, Event, Record
from memory_r1.types import MemoryEntry, OperationKind


class View:
    """Renders the entries of a log, and finds them by their ids."""

    def __init__(self, log: Log[AssistantState]) -> None:
        self._log = log

    def items(self, scope: str, entries: Sequence[MemoryEntry]) -> list[MemoryItem]:
        """Return live entries of a scope as memories."""
        if not entries:
            return []
        key, state = key_of(self._log, scope), self._log.state(scope)
        return [
            MemoryItem(
                id=make_id(scope, entry.entry_id, key),
                memory=entry.text,
                hash=hashlib.md5(entry.text.encode(), usedforsecurity=False).hexdigest(),
                metadata=deepcopy(state.metadata.get(entry.entry_id)) or None,
                created_at=state.created.get(entry.entry_id, entry.timestamp),
                updated_at=entry.timestamp,
                user_id=scope,
                actor_id=entry.speaker,
            )
            for entry in entries
        ]

    def done(self, scope: str, written: Written) -> list[OperationDone]:
        """Return the operations of one turn's record."""
        bank, key, done = written.before.bank.view(), key_of(self._log, scope), []
        for event in written.record.events:
            if event.item is None:
                continue
            old = bank.find(event.item)
            bank.play(event)
            memory_id = make_id(scope, event.item, key)
            if event.kind == OperationKind.DELETE:
                done.append(OperationDone(id=memory_id, memory=old.text if old else "", event=event.kind))
            elif event.kind == OperationKind.UPDATE and old:
                text = event.payload["text"]
                done.append(OperationDone(id=memory_id, memory=text, event=event.kind, previous_memory=old.text))
            else:
                done.append(OperationDone(id=memory_id, memory=event.payload["text"], event=event.kind))
        return done

    def find(self, memory_id: str, user_id: str | None) -> tuple[str, int, AssistantState] | None:
        """Return the scope, entry and state that a genuine id names, else None.

        Raises:
            ScopeError: The memory is not `user_id`'s.
        """
        named = read_id(memory_id)
        if named is None:
            return None
        scope, item = named
        state = self._log.state(scope)
        if not is_genuine(memory_id, scope, item, state.key):
            return None
        if user_id is not None and user_id != scope:
            raise ScopeError(f"memory {memory_id!r} belongs to another user than {user_id!r}: name its own, or none")
        return scope, item, state

    def known(self, memory_id: str, user_id: str | None) -> tuple[str, int]:
        """Return the scope and entry that an id names.

        Raises:
            DataError: There never was a memory with this id.
            ScopeError: The memory is not `user_id`'s.
        """
        found = self.find(memory_id, user_id)
        if found is None:
            raise unknown_id(memory_id)
        return found[0], found[1]


def refused(record: Record) -> list[OperationRefused]:
    """Return a turn's refused operations, or its completion if that could not be read."""
    if record.failure:
        return [OperationRefused(reason=record.failure, operation=record.completion)]
    return [OperationRefused(reason=refusal.reason, operation=refusal.raw) for refusal in record.refusals]


def unknown_id(memory_id: object) -> DataError:
    """Return the error for an id that names no memory."""
    return DataError(
        f"no memory has the id {str(memory_id)[:80]!r}: take one from add, search or get_all of this store"
    )


def changes_of(memory_id: str, history: Sequence[tuple[Record, Event]]) -> list[Change]:
    """Return the changes of a memory, given `Log.history`."""
    changes: list[Change] = []
    text: str | None = None
    around: dict[int, tuple[str | None, str | None]] = {}  # by event number: the text before and after it
    created = ""
    for record, event in history:
        old = text
        if event.kind in MARKERS:
            before, after = around.get(event.payload["target"], (old, old))
            text = before if event.kind == UNDO else after
        else:
            text = event.payload.get("text")  # a DELETE or FORGET has none
            around[event.number] = (old, text)
        happened = event.payload.get("timestamp") or (
            record.turn.timestamp if record.turn else _local(record.written_at)
        )
        created = created or happened
        changes.append(
            Change(
                id=f"{memory_id}.{event.number}",
                memory_id=memory_id,
                old_memory=old,
                new_memory=text,
                event=str(event.kind),
                created_at=created,
                updated_at=happened,
                is_deleted=event.kind == OperationKind.DELETE,
                actor_id=record.turn.speaker if record.turn else None,
                source=(record.turn.text or None) if record.turn else None,
            )
        )
    return changes


def _local(time: str) -> str:
    """Return a log's UTC time in the local zone, in which a memory's own times are."""
    return datetime.fromisoformat(time).astimezone().isoformat(timespec="seconds") if time else time
