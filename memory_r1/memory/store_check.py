"""Check a store's file without changing it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from memory_r1.errors import StoreError
from memory_r1.memory.sqlite_log import APPLICATION, FORMAT

# What no working store holds, each with the query that counts it.
_FLAWS = {
    "scopes whose records are not numbered from 1 without a gap": (
        "SELECT count(*) FROM (SELECT 1 FROM records GROUP BY scope HAVING min(number) <> 1 OR max(number) <> count(*))"
    ),
    "events without their record": (
        "SELECT count(*) FROM events e LEFT JOIN records r ON r.scope = e.scope AND r.number = e.record "
        "WHERE r.number IS NULL"
    ),
}


@dataclass(frozen=True, slots=True)
class StoreContent:
    """The system that a sound store belongs to, and the numbers of its scopes and records."""

    system: str
    scopes: int
    records: int


def check_store(path: Path | str) -> StoreContent:
    """Read a whole store and return what it holds; other processes may be using it.

    Raises:
        StoreError: The file is missing, is no store of this version, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"{path}: no such file; give the path of a memory store")
    # Without a -wal file nobody is writing. Then `immutable` keeps SQLite from leaving files of its own beside it.
    file = path.resolve()  # beside which SQLite puts them, not beside a link
    in_use = file.with_name(f"{file.name}-wal").exists()
    address = f"{file.as_uri()}?mode=ro{'' if in_use else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            connection.execute("BEGIN")  # one snapshot for all queries
            return _content(path, connection)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be read as a memory store: {error}; restore it from a copy") from error


def _content(path: Path, connection: sqlite3.Connection) -> StoreContent:
    def number(query: str) -> int:
        return int(connection.execute(query).fetchone()[0])

    if number("PRAGMA application_id") != APPLICATION:
        raise StoreError(f"{path}: another program's database; give the path of a memory store")
    version = number("PRAGMA user_version")
    if version != FORMAT:
        raise StoreError(f"{path}: a store of format {version}, allowed: {FORMAT}; open it with what wrote it")
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    flaws = [f"{count} {flaw}" for flaw, query in _FLAWS.items() if (count := number(query))]
    if verdict != "ok" or flaws:
        raise StoreError(f"{path}: damaged: {'; '.join(flaws) or verdict}; restore it from a copy")
    (system,) = connection.execute("SELECT system FROM log").fetchone()
    return StoreContent(
        system, number("SELECT count(DISTINCT scope) FROM records"), number("SELECT count(*) FROM records")
    )
