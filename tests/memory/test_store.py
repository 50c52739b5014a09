"""The event log: replay, past states, undo, erasure, scopes, and two connections to one file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memory_r1.errors import ScopeError, StoreError
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.events import EventKind
from memory_r1.memory.store import MemoryStore
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn

ADD, UPDATE, DELETE, NOOP = OperationKind
FIRST = Turn("s1:1", "Ann", "I have a dog.", "s1", "2023-05-08T13:56:00")
LATER = Turn("s2:4", "Ben", "It is a cat.", "s2", "2023-06-01T09:00:00")

operations = st.builds(
    Operation, st.sampled_from(OperationKind), st.none() | st.text(max_size=5), st.none() | st.integers(0, 8)
)
batches = st.lists(st.lists(operations, max_size=4), max_size=8)

Step = tuple[int, tuple[MemoryEntry, ...]]
which, scope, entry_ids = st.integers(0, 1), st.sampled_from(["ann", "ben"]), st.integers(1, 3)
words = st.sampled_from(["dog", "cat", "Rome"])
possible_operations = st.one_of(
    st.builds(Operation, st.just(ADD), words),
    st.builds(Operation, st.just(UPDATE), words, entry_ids),
    st.builds(Operation, st.just(DELETE), st.none(), entry_ids),
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def texts(bank: MemoryBank) -> list[str]:
    return [entry.text for entry in bank.entries()]


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_apply_returns_and_keeps_what_the_bank_would(store: MemoryStore) -> None:
    added = store.apply("ann", [Operation(ADD, "dog"), Operation(NOOP), Operation(ADD, "Rome")], FIRST)
    assert added[0] == MemoryEntry(1, "dog", "Ann", "2023-05-08T13:56:00", ("s1:1",))
    changed = store.apply("ann", [Operation(UPDATE, "cat", 1), Operation(DELETE, None, 2)], LATER)
    assert changed == (MemoryEntry(1, "cat", "Ben", "2023-06-01T09:00:00", ("s1:1", "s2:4")),)
    assert store.bank("ann").entries() == changed


def test_every_operation_but_noop_is_an_event(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog"), Operation(NOOP)], FIRST)
    store.apply("ann", [Operation(UPDATE, "cat", 1), Operation(DELETE, None, 1)], LATER)
    log = store.events("ann")
    assert [(event.event_id, event.kind, event.text, event.turn_ids) for event in log] == [
        (1, EventKind.ADD, "dog", ("s1:1",)),
        (2, EventKind.UPDATE, "cat", ("s1:1", "s2:4")),
        (3, EventKind.DELETE, None, ("s2:4",)),
    ]
    assert [event.created for event in log] == sorted(event.created for event in log)
    assert all(event.created.endswith("+00:00") for event in log)


def test_history_is_of_one_entry(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog"), Operation(ADD, "Rome"), Operation(UPDATE, "cat", 1)], FIRST)
    assert [event.text for event in store.history("ann", 1)] == ["dog", "cat"]
    assert store.history("ann", 7) == []


def test_past_states(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog"), Operation(ADD, "Rome")], FIRST)
    store.apply("ann", [Operation(UPDATE, "cat", 1), Operation(DELETE, None, 2)], LATER)
    states = [texts(store.bank("ann", at=event)) for event in range(5)]
    assert states == [[], ["dog"], ["dog", "Rome"], ["cat", "Rome"], ["cat"]]
    for beyond in (-1, 5):
        with pytest.raises(StoreError, match="allowed are 0 to 4"):
            store.bank("ann", at=beyond)


def test_a_refused_batch_leaves_no_event(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog")], FIRST)
    with pytest.raises(StoreError, match="no live entry has id 9"):
        store.apply("ann", [Operation(ADD, "Rome"), Operation(DELETE, None, 9)], LATER)
    with pytest.raises(StoreError, match="cannot be written"):
        store.apply("ann", [Operation(ADD, "\ud800")], LATER)  # SQLite holds UTF-8, which has no lone surrogates.
    assert len(store.events("ann")) == 1
    assert store.apply("ann", [Operation(ADD, "Rome")], LATER)[0].entry_id == 2


def test_undo_restores_place_text_speaker_and_sources(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog"), Operation(ADD, "Rome")], FIRST)
    before = store.bank("ann").entries()
    store.apply("ann", [Operation(UPDATE, "cat", 1), Operation(DELETE, None, 1)], LATER)
    assert store.undo("ann", 2) == 2
    assert store.bank("ann").entries() == before
    assert [event.kind for event in store.events("ann")[-2:]] == [EventKind.UNDO, EventKind.UNDO]
    assert [event.target for event in store.events("ann")[-2:]] == [4, 3]


def test_redo_restores_what_was_undone_until_something_new_happens(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog"), Operation(UPDATE, "cat", 1)], FIRST)
    store.undo("ann", 2)
    assert store.redo("ann", 5) == 2
    assert texts(store.bank("ann")) == ["cat"]
    store.undo("ann")
    store.apply("ann", [Operation(UPDATE, "lion", 1)], LATER)
    assert store.redo("ann") == 0
    assert texts(store.bank("ann")) == ["lion"]


def test_an_undone_add_does_not_free_its_id(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog")], FIRST)
    store.undo("ann")
    assert store.apply("ann", [Operation(ADD, "Rome")], FIRST)[0].entry_id == 2


def test_a_deleted_entry_does_not_free_its_id(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog"), Operation(ADD, "Rome")], FIRST)
    store.apply("ann", [Operation(DELETE, None, 2), Operation(UPDATE, "cat", 1)], LATER)
    assert store.apply("ann", [Operation(ADD, "Oslo")], LATER)[0].entry_id == 3


def test_undoing_more_than_there_is_undoes_all(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog")], FIRST)
    assert store.undo("ann", 9) == 1
    assert store.undo("ann") == 0
    with pytest.raises(StoreError, match="at least 1"):
        store.undo("ann", 0)


@settings(deadline=None)
@given(batches, st.integers(1, 6))
def test_undo_gives_the_exact_earlier_state_and_redo_the_later(edits: list[list[Operation]], count: int) -> None:
    with MemoryStore() as store:
        for batch in edits:
            try:
                store.apply("ann", batch, LATER)
            except StoreError:
                continue
        events = len(store.events("ann"))
        final = store.bank("ann").entries()
        undone = store.undo("ann", count)
        assert undone == min(count, events)
        assert store.bank("ann").entries() == store.bank("ann", at=events - undone).entries()
        assert store.redo("ann", count) == undone
        assert store.bank("ann").entries() == final == store.bank("ann", at=events).entries()


@settings(deadline=None)
@given(batches)
def test_replay_equals_the_bank_that_saw_the_same_operations(edits: list[list[Operation]]) -> None:
    bank = MemoryBank()
    with MemoryStore() as store:
        for batch in edits:
            try:
                bank.apply(batch, LATER)
            except StoreError:
                with pytest.raises(StoreError):
                    store.apply("ann", batch, LATER)
            else:
                store.apply("ann", batch, LATER)
        store._replays.clear()  # From the log alone.
        assert store.bank("ann").entries() == bank.entries()
        assert store.bank("ann").highest_id == bank.highest_id


class TwoConnections(RuleBasedStateMachine):
    """Two open stores on one file against a model: for each scope the steps an editor would take back and forth.

    A step is the id of the entry that it changed and the state after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.stores = [MemoryStore(Path(self.folder.name) / "log.db") for _ in range(2)]
        self.past: dict[str, list[Step]] = {"ann": [], "ben": []}
        self.future: dict[str, list[Step]] = {"ann": [], "ben": []}
        self.highest_id = {"ann": 0, "ben": 0}

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    def live(self, scope: str) -> tuple[MemoryEntry, ...]:
        return self.past[scope][-1][1] if self.past[scope] else ()

    @rule(which=which, scope=scope, operation=possible_operations)
    def apply(self, which: int, scope: str, operation: Operation) -> None:
        bank = MemoryBank(self.live(scope), highest_id=self.highest_id[scope])
        if operation.entry_id is not None and operation.entry_id not in bank:
            with pytest.raises(StoreError):
                self.stores[which].apply(scope, [operation], LATER)
            return
        assert self.stores[which].apply(scope, [operation], LATER) == bank.apply([operation], LATER)
        self.past[scope].append((operation.entry_id or bank.highest_id, bank.entries()))
        self.future[scope].clear()
        self.highest_id[scope] = bank.highest_id

    @rule(which=which, scope=scope, count=st.integers(1, 3))
    def undo(self, which: int, scope: str, count: int) -> None:
        expected = min(count, len(self.past[scope]))
        assert self.stores[which].undo(scope, count) == expected
        self.future[scope] += [self.past[scope].pop() for _ in range(expected)]

    @rule(which=which, scope=scope, count=st.integers(1, 3))
    def redo(self, which: int, scope: str, count: int) -> None:
        expected = min(count, len(self.future[scope]))
        assert self.stores[which].redo(scope, count) == expected
        self.past[scope] += [self.future[scope].pop() for _ in range(expected)]

    @rule(which=which, scope=scope)
    def forget(self, which: int, scope: str) -> None:
        self.stores[which].forget(scope)
        self.past[scope], self.future[scope], self.highest_id[scope] = [], [], 0

    @rule(which=which, scope=scope, entry_id=entry_ids)
    def forget_one_live_entry(self, which: int, scope: str, entry_id: int) -> None:
        def without(steps: list[Step]) -> list[Step]:
            return [
                (changed, tuple(entry for entry in state if entry.entry_id != entry_id))
                for changed, state in steps
                if changed != entry_id
            ]

        if all(entry.entry_id != entry_id for entry in self.live(scope)):
            return
        self.stores[which].forget(scope, [entry_id])
        self.past[scope], self.future[scope] = without(self.past[scope]), without(self.future[scope])

    @invariant()
    def both_connections_see_the_model(self) -> None:
        for scope in self.past:
            for store in self.stores:
                assert store.bank(scope).entries() == self.live(scope)


TwoConnections.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestTwoConnections = TwoConnections.TestCase


@pytest.mark.parametrize("name", ["log.db", ":memory:"])
def test_scopes_do_not_see_each_other(name: str, tmp_path: Path) -> None:
    with MemoryStore(name if name == ":memory:" else tmp_path / name) as store:
        store.apply("ann", [Operation(ADD, "dog")], FIRST)
        store.apply("ben", [Operation(ADD, "Rome"), Operation(ADD, "Oslo")], LATER)
        assert store.scopes() == ("ann", "ben")
        assert texts(store.bank("ann")) == ["dog"]
        assert [event.scope for event in store.events("ann")] == ["ann"]
        assert store.history("ann", 2) == []
        with pytest.raises(StoreError, match="no live entry has id 2"):
            store.apply("ann", [Operation(DELETE, None, 2)], FIRST)
        with pytest.raises(ScopeError, match="never had the entries"):
            store.forget("ann", [1, 2])
        assert store.undo("ann", 5) == 1
        assert texts(store.bank("ben")) == ["Rome", "Oslo"]
        assert store.forget("ann") == 2  # The ADD and its UNDO.
        assert store.scopes() == ("ben",)
        assert texts(store.bank("ben")) == ["Rome", "Oslo"]


@pytest.mark.parametrize("scope", ["", "  ", None])
def test_no_scope_is_refused_everywhere(store: MemoryStore, scope: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.apply(scope, [], FIRST),
        lambda: store.bank(scope),
        lambda: store.events(scope),
        lambda: store.history(scope, 1),
        lambda: store.undo(scope),
        lambda: store.redo(scope),
        lambda: store.forget(scope),
    ]
    for call in calls:
        with pytest.raises(ScopeError, match="the scope is"):
            call()


def test_a_file_keeps_what_was_written(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "log.db") as store:
        store.apply("ann", [Operation(ADD, "dog")], FIRST)
        expected = store.bank("ann").entries()
    with MemoryStore(tmp_path / "log.db") as store:
        assert store.bank("ann").entries() == expected


def test_forgotten_text_is_in_no_byte_of_the_files(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "log.db") as store:
        padding = [Operation(ADD, f"harmless {number} " + "x" * 200) for number in range(50)]
        store.apply("ann", [Operation(ADD, "SECRET-ONE"), Operation(ADD, "SECRET-TWO"), *padding], FIRST)
        store.apply("ann", [Operation(UPDATE, "SECRET-THREE", 1), Operation(DELETE, None, 2)], LATER)
        assert b"SECRET-ONE" in bytes_on_disk(tmp_path)
        assert store.forget("ann", [1, 2]) == 4
        left = bytes_on_disk(tmp_path)  # With the connection open, so that the WAL counts too.
        assert b"SECRET" not in left
        assert b"harmless 49" in left
        assert [event.kind for event in store.history("ann", 1)] == [EventKind.FORGET]
        assert store.apply("ann", [Operation(ADD, "new")], LATER)[0].entry_id == 53
        assert store.forget("ann", [1]) == 0  # Nothing is left to erase.


def test_a_forgotten_scope_leaves_not_even_its_name(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "log.db") as store:
        store.apply("user-4711", [Operation(ADD, "SECRET")], Turn("turn-4711", "Ann", ""))
        store.apply("ben", [Operation(ADD, "Rome")], FIRST)
        assert store.forget("user-4711") == 1
        left = bytes_on_disk(tmp_path)
        assert b"4711" not in left
        assert b"SECRET" not in left
        assert store.forget("user-4711") == 0


def test_forgetting_an_entry_gives_back_no_id_even_the_highest(store: MemoryStore) -> None:
    store.apply("ann", [Operation(ADD, "dog"), Operation(ADD, "Rome")], FIRST)
    store.forget("ann", [2, 1])
    assert len(store.bank("ann")) == 0
    assert store.undo("ann") == 0
    assert store.apply("ann", [Operation(ADD, "Oslo")], FIRST)[0].entry_id == 3


def test_forgetting_while_another_connection_reads_says_that_bytes_are_left(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "log.db") as store, closing(sqlite3.connect(tmp_path / "log.db")) as reader:
        store.apply("ann", [Operation(ADD, "SECRET")], FIRST)
        store._connection.execute("PRAGMA busy_timeout = 0")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        with pytest.raises(StoreError, match="forget again"):
            store.forget("ann")
        reader.execute("COMMIT")
        assert store.forget("ann") == 0
        assert b"SECRET" not in bytes_on_disk(tmp_path)


def test_a_copy_holds_every_scope_and_its_history(tmp_path: Path) -> None:
    with MemoryStore() as store:
        store.apply("ann", [Operation(ADD, "dog"), Operation(UPDATE, "cat", 1)], FIRST)
        store.apply("ben", [Operation(ADD, "Rome")], LATER)
        store.copy_to(tmp_path / "copy.db")
        store.apply("ann", [Operation(DELETE, None, 1)], LATER)
    with MemoryStore(tmp_path / "copy.db") as copy:
        assert copy.scopes() == ("ann", "ben")
        assert [event.text for event in copy.history("ann", 1)] == ["dog", "cat"]
        assert texts(copy.bank("ann")) == ["cat"]


def test_files_that_are_no_store_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, " * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        MemoryStore(tmp_path / "text")
    with pytest.raises(StoreError, match="cannot be opened"):
        MemoryStore(tmp_path / "no folder" / "log.db")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE events (x)")
        other.commit()
    with pytest.raises(StoreError, match="another program's database"):
        MemoryStore(tmp_path / "other.db")
    MemoryStore(tmp_path / "newer.db").close()
    with closing(sqlite3.connect(tmp_path / "newer.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="format 99"):
        MemoryStore(tmp_path / "newer.db")


def test_a_log_edited_from_outside_is_noticed(tmp_path: Path) -> None:
    with MemoryStore(tmp_path / "log.db") as store:
        store.apply("ann", [Operation(ADD, "dog"), Operation(ADD, "Rome")], FIRST)
        store.undo("ann")
        with closing(sqlite3.connect(tmp_path / "log.db")) as other:
            other.execute("UPDATE events SET target = 1 WHERE kind = 'UNDO'")
            other.commit()
        for _ in range(2):  # The second read must not go on from a half-played log.
            with pytest.raises(StoreError, match="changed by another program"):
                store.bank("ann")


def test_a_closed_store_says_so() -> None:
    with MemoryStore() as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        store.bank("ann")
