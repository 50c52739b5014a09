"""What a memory's file holds: the verbs of `Memory` that need no model, so that they are quick."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from memory_r1.assistant.guards import Guards
from memory_r1.assistant.messages import read_count, read_limit, read_metadata, read_text, read_time, scope_of
from memory_r1.assistant.results import Change, Count, MemoryItem, MemoryList, Message
from memory_r1.assistant.system import AssistantState, GuardedMemory
from memory_r1.assistant.view import View, changes_of
from memory_r1.errors import DataError, StoreError
from memory_r1.memory.log import Log
from memory_r1.memory.record import Event, Record
from memory_r1.memory.sqlite_log import SqliteLog
from memory_r1.types import MemoryEntry, OperationKind

_NAMED = 5  # users that an error lists


def default_store() -> Path:
    """Return `memory_r1/memory.db` in the user's data folder (`XDG_DATA_HOME`, else `~/.local/share`)."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "memory_r1" / "memory.db"


def open_log(path: Path, *, create: bool = False) -> SqliteLog[AssistantState]:
    """Open the log of a `Memory`'s file.

    Raises:
        StoreError: The file is missing and is not to be made, or is no memory's.
    """
    if create:
        make_file(path)
    elif not path.is_file():
        raise StoreError(f"{path}: no such file; name the memory's file with --store, or add something first")
    return SqliteLog(path, AssistantState(), system=GuardedMemory.name)


def make_file(path: Path) -> None:
    """Make a memory's file if it is missing; only its user can read it.

    Raises:
        StoreError: It cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            path.touch(mode=0o600)  # SQLite gives its files beside this one the same mode
    except OSError as error:
        raise StoreError(f"{path}: cannot be made ({error.strerror}); name another file") from error


def check_user(log: SqliteLog[AssistantState], user: str) -> None:
    """Raise a DataError if the log knows no such user."""
    if not log.records(user):
        known = log.scopes()
        named = ", ".join(known[:_NAMED]) or "nobody yet"
        others = f" and {len(known) - _NAMED} others" if len(known) > _NAMED else ""
        raise DataError(f"{log.path} knows no user {user!r}: it knows {named}{others}; name one with --user")


class StoredMemory:
    """What is known about each user, to be read and edited by hand.

    Args:
        log: The log of all users.
        guards: What is masked and refused in a text that `update` is given.
    """

    def __init__(self, log: Log[AssistantState], guards: Guards | None = None) -> None:
        self.guards = guards or Guards()
        self.log = log
        self._view = View(log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.log.close()

    def get_all(
        self,
        *,
        user_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        limit: int | None = None,
        top_k: int | None = None,
    ) -> MemoryList:
        """Return the user's memories, oldest first; all, or the first `limit`."""
        scope = scope_of(user_id, filters)
        return MemoryList(
            results=self._view.items(scope, self.log.state(scope).bank.entries()[: read_limit(limit, top_k)])
        )

    def get(self, memory_id: str, *, user_id: str | None = None) -> MemoryItem | None:
        """Return one memory, or None if there is none with this id."""
        found = self._view.find(memory_id, user_id)
        entry = found and found[2].bank.find(found[1])
        return self._view.items(found[0], [entry])[0] if found and entry else None

    def update(
        self,
        memory_id: str,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        data: str | None = None,
        user_id: str | None = None,
    ) -> Message:
        """Replace the text of a memory, add to its metadata, or both; `data` is the older name of `text`.

        Raises:
            DataError: No live memory has this id, neither text nor metadata is given, the text is empty or too long, or
                the metadata is not JSON.
        """
        if text is not None and data is not None:
            raise DataError("text and data are two names of one text: give one of them")
        said, added = (text if data is None else data), read_metadata(metadata)
        if said is None and metadata is None:
            raise DataError("there is nothing to update: give a text, metadata, or both")
        new = None if said is None else self._memory_text(said)
        scope, item = self._view.known(memory_id, user_id)
        now = read_time(None)

        def decide(entry: MemoryEntry) -> Event:
            version = {
                "text": entry.text if new is None else new,
                "speaker": entry.speaker,
                "timestamp": now,
                "turn_ids": list(entry.source_turn_ids),
            }
            return Event(OperationKind.UPDATE, item, version | ({"metadata": added} if added else {}))

        self._edit(memory_id, scope, item, decide)
        return Message(message="Memory updated successfully!")

    def delete(self, memory_id: str, *, user_id: str | None = None) -> Message:
        """Delete a memory; its history stays, and `undo` brings it back.

        Raises:
            DataError: No live memory has this id.
        """
        scope, item = self._view.known(memory_id, user_id)
        self._edit(memory_id, scope, item, lambda entry: Event(OperationKind.DELETE, item))
        return Message(message="Memory deleted successfully!")

    def delete_all(self, user_id: str) -> Message:
        """Delete all memories of a user; histories stay, and `undo` brings back one at a time."""
        scope = scope_of(user_id)
        if self.log.state(scope).bank.entries():
            self.log.write(
                [
                    (
                        scope,
                        lambda now: Record(
                            events=tuple(Event(OperationKind.DELETE, each.entry_id) for each in now.bank.entries())
                        ),
                    )
                ]
            )
        return Message(message="Memories deleted successfully!")

    def history(self, memory_id: str, *, user_id: str | None = None) -> list[Change]:
        """Return all that happened to a memory, oldest first, with the message that caused it.

        Raises:
            DataError: There never was a memory with this id.
        """
        scope, item = self._view.known(memory_id, user_id)
        return changes_of(memory_id, self.log.history(scope, item))

    def undo(self, *, user_id: str, count: int = 1) -> Count:
        """Take back the latest `count` operations on the user's memories, newest first, and say how many stood."""
        undone = self.log.undo(scope_of(user_id), read_count(count))
        return Count(message="Operations undone.", count=undone)

    def redo(self, *, user_id: str, count: int = 1) -> Count:
        """Restore the latest undone operations, if nothing was done since."""
        return Count(message="Operations restored.", count=self.log.redo(scope_of(user_id), read_count(count)))

    def forget(self, memory_id: str | None = None, *, user_id: str | None = None) -> Count:
        """Erase a memory, or all of a user's, for good: texts, history, source messages, down to the file's bytes.

        Raises:
            DataError: There never was a memory with this id.
            ScopeError: Neither a memory nor a user is named.
            StoreError: Another process is using the file; the memory is erased, but bytes of it may be left.
        """
        scope, item = (scope_of(user_id), None) if memory_id is None else self._view.known(memory_id, user_id)
        return Count(message="Memories erased for good.", count=self._erase(scope, None if item is None else [item]))

    def reset(self) -> Message:
        """Erase the memories of all users for good."""
        for scope in self.log.scopes():
            self.forget(user_id=scope)
        return Message(message="All memories erased for good.")

    def _memory_text(self, text: object) -> str:
        """Return a caller's text as it is stored."""
        said, longest = read_text("text", text), self.guards.max_memory_characters
        stored = self.guards.memory(said) if longest is None or len(said) <= longest else ""
        if not stored.strip():
            raise DataError(f"text has {len(said)} characters: give from 1 to {longest or 'any number'}")
        return stored

    def _edit(self, memory_id: str, scope: str, item: int, event: Callable[[MemoryEntry], Event]) -> None:
        """Write the event that `event` makes of the live entry, in one transaction."""

        def decide(now: AssistantState) -> Record:
            entry = now.bank.find(item)
            if entry is None:
                raise DataError(f"memory {memory_id!r} is deleted: undo brings it back, unless it was forgotten")
            return Record(events=(event(entry),))

        self.log.write([(scope, decide)])

    def _erase(self, scope: str, items: list[int] | None) -> int:
        """Erase entries, or all of a user's, for good; return how many of them were live."""
        return self.log.forget(scope, items)
