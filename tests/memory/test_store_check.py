"""Checking a store finds what it holds or what is wrong with it, and leaves the folder as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from memory_r1.errors import StoreError
from memory_r1.memory.record import Event, Record
from memory_r1.memory.sqlite_log import SqliteLog
from memory_r1.memory.store_check import check_store
from memory_r1.systems.state import ScopeState
from memory_r1.types import Turn

TURN = Turn("s1:1", "Ann", "I have a dog.", "s1", "2023-05-08T13:56:00")


def open_store(path: Path) -> SqliteLog[ScopeState]:
    return SqliteLog(path, ScopeState(), system="rag")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "memory.db"
    with open_store(path) as log:
        for scope in ("ann", "ann", "ben"):
            log.write([(scope, lambda state: Record(TURN, (Event("NOTE", None, {"text": "x" * 3000}),)))])
    return path


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_a_sound_store_is_counted_and_left_alone(store: Path) -> None:
    before = {path.name: path.read_bytes() for path in store.parent.iterdir()}
    content = check_store(store)
    assert (content.system, content.scopes, content.records) == ("rag", 2, 3)
    assert {path.name: path.read_bytes() for path in store.parent.iterdir()} == before


def test_a_store_in_use_is_read_with_what_was_written_last(store: Path) -> None:
    with open_store(store) as log:
        log.write([("eve", lambda state: Record(TURN, ()))])
        assert check_store(store).scopes == 3
        link = store.with_name("link.db")
        link.symlink_to(store)
        assert check_store(link).scopes == 3


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM records WHERE scope = 'ann' AND number = 1", "1 scopes whose records are not numbered"),
        ("DELETE FROM records WHERE scope = 'ben'", "1 events without their record"),
        ("PRAGMA user_version = 1", "a store of format 1, allowed: 2"),
        ("PRAGMA application_id = 7", "another program's database"),
    ],
)
def test_a_flaw_is_told(store: Path, statement: str, told: str) -> None:
    change(store, statement)
    with pytest.raises(StoreError, match=told):
        check_store(store)


def test_damaged_pages_a_file_of_another_kind_and_no_file_are_told(store: Path, tmp_path: Path) -> None:
    content = bytearray(store.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    store.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        check_store(store)
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be read as one" * 10)
    with pytest.raises(StoreError, match="cannot be read as a memory store"):
        check_store(tmp_path / "notes.txt")
    with pytest.raises(StoreError, match="no such file"):
        check_store(tmp_path / "absent.db")
