"""The event log: the only truth about what is remembered.

Every ADD, UPDATE, DELETE, UNDO and REDO is a row that is never changed. The live entries of a scope, now or after any
event, are what its rows give when replayed. Only `forget` takes anything away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Literal

from memory_r1.errors import ScopeError, StoreError
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.events import EventKind, Replay, StoreEvent, marker_event, operation_event
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn

_APPLICATION = 0x4D52314C  # "MR1L" in the file header: one of our logs.
_FORMAT = 1  # In the file's user_version; raise it with every change of the schema.
_SCHEMA = """
CREATE TABLE events (
    scope TEXT NOT NULL,
    event_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    entry_id INTEGER NOT NULL,
    text TEXT,
    speaker TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    turn_ids TEXT NOT NULL,
    target INTEGER,
    created TEXT NOT NULL,
    PRIMARY KEY (scope, event_id)
) WITHOUT ROWID
"""
_COLUMNS = ", ".join(column.name for column in fields(StoreEvent))


class MemoryStore:
    """A SQLite event log over many scopes (users or dialogues), none of which sees another's entries.

    Ids are counted per scope and never given twice, also after `undo` and `forget`. A store belongs to the thread that
    made it; several processes may open the same file, and each write is one transaction.
    """

    def __init__(self, path: Path | str = ":memory:") -> None:
        """Opens the file, or makes it.

        Raises:
            StoreError: The file is no store, or one of another format.
        """
        self._path = str(path)
        self._replays: dict[str, Replay] = {}
        with self._errors("opened"):
            self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=30)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
            self._data_version = self._number("PRAGMA data_version")

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def scopes(self) -> tuple[str, ...]:
        """Names of all scopes that have events, sorted."""
        with self._errors("read"):
            return tuple(scope for (scope,) in self._connection.execute("SELECT DISTINCT scope FROM events ORDER BY 1"))

    def apply(self, scope: str, operations: Iterable[Operation], turn: Turn) -> tuple[MemoryEntry, ...]:
        """Applies operations (with the scope's own ids) as `MemoryBank.apply` does, all or none, and logs them.

        A NOOP changes nothing and leaves no event.

        Raises:
            ScopeError: The scope is empty.
            StoreError: An operation names an id that is not live in this scope, or the file cannot be written.
        """
        _check_scope(scope)
        with self._transaction(scope, "written") as replay:
            bank = replay.bank()
            touched: dict[int, None] = {}
            events: list[StoreEvent] = []
            for operation in operations:
                changed = bank.apply([operation], turn)
                touched.update((entry.entry_id, None) for entry in changed)
                if operation.kind is not OperationKind.NOOP:
                    events.append(operation_event(scope, replay.last_event + len(events) + 1, operation, changed, turn))
            self._append(events)
        return tuple(bank.get(entry_id) for entry_id in touched if entry_id in bank)

    def bank(self, scope: str, at: int | None = None) -> MemoryBank:
        """The live entries, now or as they were after event `at` (0: before the first).

        Raises:
            ScopeError: The scope is empty.
            StoreError: There is no event `at` yet.
        """
        _check_scope(scope)
        with self._transaction(scope, "read") as current:
            if at is None:
                return current.bank()
            if not 0 <= at <= current.last_event:
                raise StoreError(f"scope {scope!r} has no event {at}; allowed are 0 to {current.last_event}")
            past = Replay()
            for event in self._select("scope = ? AND event_id <= ?", (scope, at)):
                past.play(event)
            return past.bank()

    def events(self, scope: str) -> list[StoreEvent]:
        """All events of a scope, oldest first."""
        _check_scope(scope)
        return self._select("scope = ?", (scope,))

    def history(self, scope: str, entry_id: int) -> list[StoreEvent]:
        """All events of one entry, oldest first; none where the scope never had it."""
        _check_scope(scope)
        return self._select("scope = ? AND entry_id = ?", (scope, entry_id))

    def undo(self, scope: str, count: int = 1) -> int:
        """Takes back the latest `count` operations that stand, newest first; nothing is lost, `redo` restores them.

        Returns:
            How many were taken back: fewer than `count` where no more stand.
        """
        return self._travel(scope, count, EventKind.UNDO)

    def redo(self, scope: str, count: int = 1) -> int:
        """Restores what the latest undos took back, as long as nothing new was applied since."""
        return self._travel(scope, count, EventKind.REDO)

    def forget(self, scope: str, ids: Sequence[int] | None = None) -> int:
        """Erases entries for good, every version of them, or with `ids` None the whole scope. It cannot be undone.

        The file is rewritten, so that the erased text is in none of its bytes. An erased entry leaves one FORGET event
        with its id alone; an erased scope leaves nothing.

        Returns:
            The number of rows erased.

        Raises:
            ScopeError: The scope is empty, or never had one of the entries.
            StoreError: Another connection keeps the file from being rewritten; the rows are gone then, but not yet
                all bytes of them: call again.
        """
        _check_scope(scope)
        wanted = None if ids is None else sorted(set(ids))
        with self._transaction(scope, "written") as replay:
            if wanted is None:
                erased = self._connection.execute("DELETE FROM events WHERE scope = ?", (scope,)).rowcount
            else:
                erased = self._erase_entries(scope, wanted, replay.last_event)
            self._replays.pop(scope, None)
        self._scrub()
        return erased

    def copy_to(self, path: Path | str) -> None:
        """Writes the whole log, all scopes, to another file, over any store that lies there."""
        with self._errors(f"copied to {path}"), closing(sqlite3.connect(path)) as copy:
            self._connection.backup(copy)

    def _erase_entries(self, scope: str, ids: Sequence[int], last_event: int) -> int:
        known = {event.entry_id for event in self.events(scope)}
        if unknown := [entry_id for entry_id in ids if entry_id not in known]:
            raise ScopeError(f"scope {scope!r} never had the entries {unknown}; forget only ids of this scope")
        erased = 0
        for entry_id in ids:
            rows = self._connection.execute(
                "DELETE FROM events WHERE scope = ? AND entry_id = ? AND kind != ?",
                (scope, entry_id, EventKind.FORGET.value),
            ).rowcount
            if rows:
                last_event += 1
                self._append([marker_event(scope, last_event, EventKind.FORGET, entry_id)])
            erased += rows
        return erased

    def _scrub(self) -> None:
        with self._errors("rewritten"):
            self._connection.execute("VACUUM")
            busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                f"the store {self._path} is in use, so bytes of erased text may be left; close its other users and "
                "forget again"
            )

    def _travel(self, scope: str, count: int, kind: EventKind) -> int:
        _check_scope(scope)
        if count < 1:
            raise StoreError(f"count is {count}; give the number of operations, at least 1")
        with self._transaction(scope, "written") as replay:
            standing = replay.done if kind is EventKind.UNDO else replay.undone
            targets = [event for event, _ in reversed(standing[-count:])]
            self._append(
                marker_event(scope, replay.last_event + number, kind, event.entry_id, event.event_id)
                for number, event in enumerate(targets, start=1)
            )
        return len(targets)

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA secure_delete = ON")
        self._connection.execute("PRAGMA temp_store = MEMORY")  # VACUUM must not copy texts into a temporary file.
        if not self._number("SELECT count(*) FROM sqlite_master"):
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("BEGIN IMMEDIATE")
            if not self._number("SELECT count(*) FROM sqlite_master"):  # Another process may have been quicker.
                self._connection.execute(_SCHEMA)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {_FORMAT}")
            self._connection.execute("COMMIT")
        application, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
        if application != _APPLICATION:
            raise StoreError(
                f"{self._path} is another program's database; give the path of a memory store or a new one"
            )
        if version != _FORMAT:
            raise StoreError(
                f"{self._path} is a memory store of format {version}; this version of memory-r1 reads {_FORMAT}"
            )

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    def _current(self, scope: str) -> Replay:
        """The state of a scope, replayed from where this store last read it; to be called in a transaction."""
        version = self._number("PRAGMA data_version")
        if version != self._data_version:  # Another connection wrote, and may have erased rows already replayed.
            self._replays.clear()
            self._data_version = version
        replay = self._replays.setdefault(scope, Replay())
        for event in self._select("scope = ? AND event_id > ?", (scope, replay.last_event)):
            replay.play(event)
        return replay

    def _select(self, condition: str, values: Sequence[object]) -> list[StoreEvent]:
        query = f"SELECT {_COLUMNS} FROM events WHERE {condition} ORDER BY event_id"
        with self._errors("read"):
            rows = self._connection.execute(query, values).fetchall()
        return [StoreEvent.from_row(row) for row in rows]

    def _append(self, events: Iterable[StoreEvent]) -> None:
        marks = ", ".join("?" * len(fields(StoreEvent)))
        self._connection.executemany(
            f"INSERT INTO events ({_COLUMNS}) VALUES ({marks})", [event.to_row() for event in events]
        )

    @contextmanager
    def _transaction(self, scope: str, action: Literal["read", "written"]) -> Iterator[Replay]:
        """One transaction, over the scope's state as no other connection can change it meanwhile."""
        with self._errors(action):
            self._connection.execute("BEGIN IMMEDIATE" if action == "written" else "BEGIN")
            try:
                yield self._current(scope)
                self._connection.execute("COMMIT")
            except BaseException:
                self._replays.pop(scope, None)
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise StoreError(f"the store {self._path} cannot be {action}: {error}") from error


def _check_scope(scope: str) -> None:
    if not isinstance(scope, str) or not scope.strip():
        raise ScopeError(f"the scope is {scope!r}; name the user or dialogue whose memories are meant")
