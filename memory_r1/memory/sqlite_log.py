"""The log in a SQLite file, the only form in which memory persists.

A file carries the name of the memory system that it belongs to. Several processes and threads may use it at once: each
write is one transaction, and readers see whole transactions. A killed process loses no written record.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from memory_r1.errors import StoreError
from memory_r1.memory.log import Log, S, Vectors, check_scope
from memory_r1.memory.record import Event, Record, Refusal
from memory_r1.types import Turn

APPLICATION = 0x4D52314C  # "MR1L" in the file header marks our logs
FORMAT = 2  # the file's user_version; raise it with every schema change
_BUSY_SECONDS = 60
_REMEDIES = {
    sqlite3.SQLITE_CORRUPT: "; it is cut short or damaged: restore a copy of it",
    sqlite3.SQLITE_NOTADB: "; give the path of a memory store or a new one",
}
_SCHEMA = """
CREATE TABLE log (system TEXT NOT NULL, erasures INTEGER NOT NULL);
CREATE TABLE records (
    scope TEXT NOT NULL, number INTEGER NOT NULL,
    turn_id TEXT, speaker TEXT, text TEXT, session_id TEXT, timestamp TEXT,
    refusals TEXT NOT NULL, completion TEXT NOT NULL, failure TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, model_calls INTEGER NOT NULL,
    cut INTEGER NOT NULL, written_at TEXT NOT NULL,
    PRIMARY KEY (scope, number)
);
CREATE TABLE events (
    scope TEXT NOT NULL, number INTEGER NOT NULL, record INTEGER NOT NULL,
    kind TEXT NOT NULL, item INTEGER, payload TEXT NOT NULL, tensor BLOB,
    PRIMARY KEY (scope, record, number)
);
CREATE TABLE vectors (
    scope TEXT NOT NULL, embedder TEXT NOT NULL, item INTEGER NOT NULL, text_sha256 BLOB NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (scope, embedder, item, text_sha256)
);
"""


class SqliteLog(Log[S]):
    """A `Log` in a SQLite file.

    Args:
        path: The file, created if missing.
        start: The state before the first record of a scope.
        system: Name of the memory system that owns the log; None takes the one that the file names.
        read_only: Refuse every write.

    Raises:
        StoreError: The file is not a store, has another format, or belongs to another system.
    """

    persistent = True

    def __init__(self, path: Path | str, start: S, *, system: str | None, read_only: bool = False) -> None:
        super().__init__(start)
        self.path = Path(path)
        self.system = system or ""
        self._erasures = 0
        if self.path.is_dir():
            raise StoreError(f"{self.path} is a folder; give the path of a file")
        with self._errors("opened"):
            # Threads take turns by the log's lock.
            self._connection = sqlite3.connect(
                self.path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False
            )
            try:
                if read_only:
                    self._connection.execute("PRAGMA query_only = ON")
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def version(self) -> tuple[int, int]:
        """Return a value that differs after every write, by this program or another."""
        with self._lock, self._errors("read"):
            return self._number("PRAGMA data_version"), self._connection.total_changes

    def scopes(self) -> tuple[str, ...]:
        return tuple(scope for (scope,) in self._rows("SELECT DISTINCT scope FROM records ORDER BY 1"))

    def records(self, scope: str, since: int = 0) -> tuple[Record, ...]:
        check_scope(scope)
        with self._lock, self._reading():
            events: dict[int, list[Event]] = {}
            for record, number, kind, item, payload, tensor in self._rows(
                "SELECT record, number, kind, item, payload, tensor FROM events WHERE scope = ? AND record > ? "
                "ORDER BY record, number",
                (scope, since),
            ):
                events.setdefault(record, []).append(Event(kind, item, json.loads(payload), tensor, number))
            return tuple(
                Record(
                    None if row[1] is None else Turn(*row[1:6]),
                    tuple(events.get(row[0], ())),
                    tuple(Refusal(*refusal) for refusal in json.loads(row[6])),
                    *row[7:],
                )
                for row in self._rows(
                    "SELECT number, turn_id, speaker, text, session_id, timestamp, refusals, completion, failure, "
                    "prompt_tokens, completion_tokens, model_calls, cut, written_at "
                    "FROM records WHERE scope = ? AND number > ? ORDER BY number",
                    (scope, since),
                )
            )

    def vectors(self, scope: str, embedder: str) -> Vectors:
        return dict(
            self._rows(
                "SELECT text_sha256, vector FROM vectors WHERE scope = ? AND embedder = ?",
                (check_scope(scope), embedder),
            )
        )

    def keep_vectors(self, scope: str, embedder: str, vectors: Iterable[tuple[int, bytes, bytes]]) -> None:
        check_scope(scope)
        with self._lock, self._writing():
            state = self.state(scope)  # what was forgotten since the vectors were made leaves none behind
            rows = [(scope, embedder, *vector) for vector in vectors if state.holds(vector[0])]
            self._connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?, ?)", rows)

    def copy_to(self, path: Path) -> None:
        """Write the whole log, all scopes, to another file; a log there is replaced atomically.

        Raises:
            StoreError: The file is not a log of this system, or another program is writing to it.
        """
        if path.exists() and self.path.exists() and path.samefile(self.path):
            return
        with (
            closing(sqlite3.connect(":memory:", isolation_level=None)) as image,
            SqliteLog(path, self.start, system=self.system) as copy,
            copy._errors("written"),
        ):
            with self._lock:
                self._connection.backup(image)
            # Whoever has the file open then folds it anew.
            image.execute("UPDATE log SET erasures = ?", (1 + max(self._erasures, copy._erasures),))
            image.backup(copy._connection, progress=_refuse_to_wait)  # one transaction of the copy's file

    def _append(self, scope: str, number: int, record: Record) -> None:
        turn = record.turn
        said = (turn.turn_id, turn.speaker, turn.text, turn.session_id, turn.timestamp) if turn else (None,) * 5
        refusals = json.dumps([(refusal.index, refusal.reason, refusal.raw) for refusal in record.refusals])
        self._connection.execute(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(scope, number, *said, refusals, record.completion, record.failure),
                *(record.prompt_tokens, record.completion_tokens, record.model_calls, record.cut, record.written_at),
            ),
        )
        self._connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (scope, event.number, number, event.kind, event.item, _json(event.payload), event.tensor)
                for event in record.events
            ],
        )

    def _erase(self, scope: str, redacted: Sequence[Record] | None, items: Collection[int]) -> None:
        for table in ("records", "events"):
            self._connection.execute(f"DELETE FROM {table} WHERE scope = ?", (scope,))
        self._connection.executemany(
            "DELETE FROM vectors WHERE scope = ? AND item = ?", [(scope, item) for item in items]
        )
        for number, record in enumerate(redacted or (), start=1):
            self._append(scope, number, record)
        self._connection.execute("UPDATE log SET erasures = erasures + 1")

    def _scrub(self) -> None:
        with self._errors("rewritten"):
            self._connection.execute("VACUUM")  # gives the space back; secure_delete has overwritten the bytes
            busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                f"the store {self.path} is in use, so bytes of erased text may remain in it; close the other processes "
                "and forget again"
            )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._errors("read"):
            inside = self._connection.in_transaction
        with nullcontext() if inside else self._transaction("BEGIN", "read"):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._transaction("BEGIN IMMEDIATE", "written"):
            yield

    @contextmanager
    def _transaction(self, begin: str, action: str) -> Iterator[None]:
        with self._errors(action):
            self._connection.execute(begin)
            try:
                (erasures,) = self._connection.execute("SELECT erasures FROM log").fetchone()
                if erasures != self._erasures:  # folded records may be gone from the file
                    self._folded.clear()
                    self._erasures = erasures
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._folded.clear()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA secure_delete = ON")
        self._connection.execute("PRAGMA temp_store = MEMORY")  # VACUUM must not copy texts into a temporary file
        # In WAL mode a killed process loses nothing; a power cut may lose the last transactions, but never part of one.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if not self._number("SELECT count(*) FROM sqlite_master"):
            self._use_wal()
            self._connection.execute("BEGIN IMMEDIATE")
            if not self._number("SELECT count(*) FROM sqlite_master"):  # another process may have been quicker
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO log VALUES (?, 0)", (self.system,))
                self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {FORMAT}")
            self._connection.execute("COMMIT")
        application, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
        if application != APPLICATION:
            raise StoreError(f"{self.path} is another program's database; give the path of a memory store or a new one")
        if version != FORMAT:
            raise StoreError(
                f"{self.path} is a memory store of format {version}, which this version of memory-r1 (format {FORMAT})"
                " does not read: play its dialogues into a new file, or open it with the version that wrote it"
            )
        ((system, self._erasures),) = self._connection.execute("SELECT system, erasures FROM log").fetchall()
        self.system = self.system or system
        if system != self.system:
            raise StoreError(f"{self.path} was written by system {system!r}; open it with that, not {self.system!r}")

    def _use_wal(self) -> None:
        """Switch a new file to WAL mode; SQLite's own waiting for others does not cover this step."""
        deadline = monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise
                sleep(0.01)

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock, self._errors("read"):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "")
            raise StoreError(f"the store {self.path} cannot be {action}: {error}{remedy}") from error


def save_log(log: Log[Any], path: Path | str, *, system: str) -> None:
    """Write a whole log to a store file at `path`, as `SqliteLog.copy_to` does."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(log, SqliteLog):
        log.copy_to(path)
        return
    with SqliteLog(":memory:", log.start, system=system) as copy:
        for scope in log.scopes():
            copy.extend(scope, log.records(scope))
        copy.copy_to(path)


def _refuse_to_wait(status: int, remaining: int, total: int) -> None:
    """End a backup whose target stays locked, which Python would try again for ever."""
    if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise sqlite3.OperationalError("another program is writing to it")


def _json(payload: Any) -> str:
    return json.dumps(dict(payload), ensure_ascii=False)
