"""The log, in memory and in a file: its fold under undo, redo, forget and several writers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memory_r1.errors import ScopeError, StoreError
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.list_log import ListLog
from memory_r1.memory.log import Log
from memory_r1.memory.record import WRITTEN, Event, Record, Refusal
from memory_r1.memory.sqlite_log import SqliteLog, save_log
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind
FIRST = Turn("s1:1", "Ann", "I have a dog.", "s1", "2023-05-08T13:56:00")
LATER = Turn("s2:4", "Ben", "It is a cat.", "s2", "2023-06-01T09:00:00")

Step = tuple[int, tuple[MemoryEntry, ...]]
AnyLog = Log[ScopeState]


def open_store(path: Path) -> SqliteLog[ScopeState]:
    return SqliteLog(path, ScopeState(), system="test")


@pytest.fixture(params=["list", "store"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyLog]:
    with ListLog(ScopeState()) if request.param == "list" else open_store(tmp_path / "log.db") as opened:
        yield opened


def edit(log: AnyLog, scope: str, *operations: Operation, turn: Turn = FIRST) -> Record:
    """Write a turn's operations (with bank ids), like a system."""

    def decide(state: ScopeState) -> Record:
        bank, events = state.bank.view(), []
        for operation in operations:
            events.append(bank.event(operation, turn))
            bank.play(events[-1])
        return Record(turn, tuple(events))

    return log.write([(scope, decide)])[0]


def entries(log: AnyLog, scope: str, at: int | None = None) -> tuple[MemoryEntry, ...]:
    return log.state(scope, at).bank.entries()


def texts(log: AnyLog, scope: str = "ann", at: int | None = None) -> list[str]:
    return [entry.text for entry in entries(log, scope, at)]


def test_a_record_comes_back_whole(log: AnyLog) -> None:
    told = Record(
        FIRST,
        (
            Event("ADD", 1, {"text": "dog", "speaker": "Ann", "timestamp": "", "turn_ids": ["s1:1"]}),
            Event("PORTRAIT", 7),
        ),
        (Refusal(1, "unknown_id", '{"op": "DELETE", "id": 9}'),),
        "[what it wrote]",
        "",
        *(120, 14, 1, 2),
    )
    tensors = Record(events=(Event("LATENT", 8, {"shape": [2]}, b"\x00\x01"),))
    log.write([("ann", lambda _: told), ("ann", lambda _: tensors)])
    first, second = log.records("ann")
    assert first == Record(**{**_fields(told), "events": _numbered(told.events, 1)})
    assert second == Record(events=_numbered(tensors.events, 3))
    assert first.written_at.startswith("20")
    assert log.records("ann", 1) == (second,)
    assert [event.kind for _, event in log.history("ann", 7)] == ["PORTRAIT"]
    assert texts(log) == ["dog"]  # A kind that banks do not know changes nothing,
    assert log.state("ann").bank.highest_id == 8  # and its id is taken.


def _fields(record: Record) -> dict[str, object]:
    return {name: getattr(record, name) for name in Record.__slots__}


def _numbered(events: tuple[Event, ...], first: int) -> tuple[Event, ...]:
    return tuple(
        Event(event.kind, event.item, event.payload, event.tensor, number)
        for number, event in enumerate(events, start=first)
    )


def test_any_past_state_can_be_had(log: AnyLog) -> None:
    edit(log, "ann", Operation(ADD, "dog"))
    edit(log, "ann", Operation(UPDATE, "cat", 1), Operation(ADD, "Rome"), turn=LATER)
    log.undo("ann")
    assert [texts(log, at=number) for number in range(4)] == [[], ["dog"], ["cat", "Rome"], ["cat"]]
    with pytest.raises(StoreError, match="no record 4; allowed are 0 to 3"):
        log.state("ann", 4)


def test_a_decision_that_fails_leaves_nothing_of_its_transaction(log: AnyLog) -> None:
    edit(log, "ann", Operation(ADD, "dog"))

    def refuse(state: ScopeState) -> Record:
        raise StoreError("no")

    with pytest.raises(StoreError, match="no"):
        log.write([("ann", lambda _: Record(LATER)), ("ben", lambda _: Record(LATER)), ("ann", refuse)])
    assert (len(log.records("ann")), log.scopes(), log.state("ann").recent) == (1, ("ann",), (FIRST,))


def test_undo_steps_over_edits_and_keeps_turn_and_id(log: AnyLog) -> None:
    edit(log, "ann", Operation(ADD, "dog"), Operation(NOOP), Operation(ADD, "Rome"))
    assert log.undo("ann") == 1
    assert texts(log) == ["dog"]
    assert log.state("ann").recent == (FIRST,)  # the turn was still said
    assert log.redo("ann", 5) == 1
    assert log.undo("ann", 9) == 2
    assert edit(log, "ann", Operation(ADD, "Oslo"), turn=LATER).events[0].item == 3
    assert log.redo("ann") == 0
    with pytest.raises(StoreError, match="count is 0"):
        log.undo("ann", 0)


def test_scopes_do_not_see_each_other(log: AnyLog) -> None:
    edit(log, "ann", Operation(ADD, "dog"))
    edit(log, "ben", Operation(ADD, "Rome"), Operation(ADD, "Oslo"))
    assert log.scopes() == ("ann", "ben")
    assert log.history("ann", 2) == []
    with pytest.raises(StoreError, match="no live entry has id 2"):
        edit(log, "ann", Operation(DELETE, None, 2))
    with pytest.raises(StoreError, match=r"'ann' never held the entries \[2\]"):
        log.forget("ann", [1, 2])
    assert log.undo("ann", 5) == 1
    assert log.forget("ann") == 0  # undone entries are not remembered
    assert (log.scopes(), texts(log, "ben")) == (("ben",), ["Rome", "Oslo"])


@pytest.mark.parametrize("scope", ["", "  ", None])
def test_no_scope_is_refused_everywhere(log: AnyLog, scope: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: log.write([("ann", lambda _: Record(FIRST)), (scope, lambda _: Record(FIRST))]),
        lambda: log.state(scope),
        lambda: log.records(scope),
        lambda: log.history(scope, 1),
        lambda: log.undo(scope),
        lambda: log.forget(scope),
        lambda: log.extend(scope, []),
    ]
    for call in calls:
        with pytest.raises(ScopeError, match="non-empty"):
            call()
    assert log.scopes() == ()


def test_a_forgotten_entry_takes_the_words_behind_it_along_and_its_id_stays_taken(log: AnyLog) -> None:
    edit(log, "ann", Operation(ADD, "dog"), Operation(ADD, "Rome"))
    edit(log, "ann", Operation(UPDATE, "cat", 1), turn=LATER)
    log.undo("ann")
    assert log.forget("ann", [1]) == 1
    assert (texts(log), log.forget("ann", [1])) == (["Rome"], 0)
    left = [(record.turn, [event.kind for event in record.events]) for record in log.records("ann")]
    wordless = [replace(turn, text="") for turn in (FIRST, LATER)]
    assert left == [(wordless[0], ["FORGET", "ADD"]), (wordless[1], ["FORGET"]), (None, [])]
    assert (log.state("ann").recent, log.redo("ann")) == ((), 0)
    log.forget("ann", [2])
    assert edit(log, "ann", Operation(ADD, "Oslo")).events[0].item == 3


def test_what_forgetting_leaves_cannot_bring_back_what_was_redone_over(log: AnyLog) -> None:
    edit(log, "ann", Operation(ADD, "dog"))
    log.undo("ann")
    edit(log, "ann", Operation(ADD, "Rome"))
    log.forget("ann", [2])
    assert (log.redo("ann"), texts(log)) == (0, [])


def test_a_log_takes_over_another_ones_scope_only_where_it_is_empty(log: AnyLog, tmp_path: Path) -> None:
    edit(log, "ann", Operation(ADD, "dog"))
    log.undo("ann")
    with open_store(tmp_path / "other.db") as other:
        other.extend("ann", log.records("ann"))
        assert (other.records("ann"), other.redo("ann"), texts(other)) == (log.records("ann"), 1, ["dog"])
        with pytest.raises(StoreError, match="holds records already"):
            other.extend("ann", log.records("ann"))


def test_a_rollout_starts_from_a_state_and_leaves_it_alone() -> None:
    with open_store(Path(":memory:")) as store:
        edit(store, "ann", Operation(ADD, "dog"))
        state = store.state("ann")
        forks = [ListLog(ScopeState(), {"ann": state}) for _ in range(2)]
        edit(forks[0], "ann", Operation(UPDATE, "cat", 1), Operation(ADD, "Rome"))
        edit(forks[1], "ann", Operation(DELETE, None, 1))
        assert [texts(log) for log in (*forks, store)] == [["cat", "Rome"], [], ["dog"]]
        forks[0].undo("ann", 2)
        assert texts(forks[0]) == ["dog"]
        assert texts(forks[0], "ben") == []


entry_ids = st.integers(1, 4)
possible_operations = st.one_of(
    st.builds(Operation, st.just(ADD), st.text(min_size=1, max_size=3).filter(str.strip)),
    st.builds(Operation, st.just(UPDATE), st.text(min_size=1, max_size=3).filter(str.strip), entry_ids),
    st.builds(Operation, st.just(DELETE), st.none(), entry_ids),
)
which, scopes = st.integers(0, 1), st.sampled_from(["ann", "ben"])


class TwoConnections(RuleBasedStateMachine):
    """Two open stores on one file against a model: per scope, the steps of an editor's undo and redo.

    A step is the id of the entry that it changed and the state after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.stores = [open_store(Path(self.folder.name) / "log.db") for _ in range(2)]
        self.past: dict[str, list[Step]] = {"ann": [], "ben": []}
        self.future: dict[str, list[Step]] = {"ann": [], "ben": []}
        self.highest_id = {"ann": 0, "ben": 0}

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    def live(self, scope: str) -> tuple[MemoryEntry, ...]:
        return self.past[scope][-1][1] if self.past[scope] else ()

    @rule(which=which, scope=scopes, operation=possible_operations)
    def edit(self, which: int, scope: str, operation: Operation) -> None:
        bank = MemoryBank(self.live(scope), highest_id=self.highest_id[scope])
        if operation.entry_id is not None and operation.entry_id not in bank:
            with pytest.raises(StoreError):
                edit(self.stores[which], scope, operation, turn=LATER)
            return
        bank.apply([operation], LATER)
        edit(self.stores[which], scope, operation, turn=LATER)
        self.past[scope].append((operation.entry_id or bank.highest_id, bank.entries()))
        self.future[scope].clear()
        self.highest_id[scope] = bank.highest_id

    @rule(which=which, scope=scopes, count=st.integers(1, 3))
    def undo(self, which: int, scope: str, count: int) -> None:
        expected = min(count, len(self.past[scope]))
        assert self.stores[which].undo(scope, count) == expected
        self.future[scope] += [self.past[scope].pop() for _ in range(expected)]

    @rule(which=which, scope=scopes, count=st.integers(1, 3))
    def redo(self, which: int, scope: str, count: int) -> None:
        expected = min(count, len(self.future[scope]))
        assert self.stores[which].redo(scope, count) == expected
        self.past[scope] += [self.future[scope].pop() for _ in range(expected)]

    @rule(which=which, scope=scopes)
    def forget(self, which: int, scope: str) -> None:
        self.stores[which].forget(scope)
        self.past[scope], self.future[scope], self.highest_id[scope] = [], [], 0

    @rule(which=which, scope=scopes, entry_id=entry_ids)
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
                assert entries(store, scope) == self.live(scope)
                assert store.state(scope).bank.highest_id == self.highest_id[scope]


TwoConnections.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestTwoConnections = TwoConnections.TestCase


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_a_file_keeps_what_was_written(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store:
        edit(store, "ann", Operation(ADD, "dog"))
        expected = store.records("ann"), store.state("ann").recent, entries(store, "ann")
    with open_store(tmp_path / "log.db") as store:
        assert (store.records("ann"), store.state("ann").recent, entries(store, "ann")) == expected


def test_forgotten_text_is_in_no_byte_of_the_files(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store:
        padding = [Operation(ADD, f"harmless {number} " + "x" * 200) for number in range(50)]
        secret = Turn("s1:1", "Ann", "SECRET-SAID", "s1")
        edit(store, "ann", Operation(ADD, "SECRET-ONE"), Operation(ADD, "SECRET-TWO"), turn=secret)
        edit(store, "ann", *padding, turn=LATER)
        edit(store, "ann", Operation(UPDATE, "SECRET-THREE", 1), Operation(DELETE, None, 2), turn=LATER)
        store.keep_vectors("ann", "embedder", [(1, b"key-one", b"SECRET-VECTOR"), (3, b"key-two", b"kept vector")])
        assert b"SECRET-ONE" in bytes_on_disk(tmp_path)
        assert store.forget("ann", [1, 2]) == 1
        left = bytes_on_disk(tmp_path)  # Measure with the connection open, so that the WAL counts too.
        assert b"SECRET" not in left
        assert b"harmless 49" in left
        assert store.vectors("ann", "embedder") == {b"key-two": b"kept vector"}


def test_forgetting_an_entry_takes_what_was_refused_about_it_too(log: AnyLog) -> None:
    edit(log, "ann", Operation(ADD, "dog"))
    raw = '{"op": "UPDATE", "entry": 1, "text": "SECRET"}'
    refused = Record(LATER, refusals=(Refusal(0, "conflict", raw),), completion="SECRET")
    log.write([("ann", lambda _: refused)])
    log.forget("ann", [1])
    assert "SECRET" not in str(log.records("ann"))


def test_forgetting_takes_the_replies_that_were_not_carried_out_since_they_may_quote_anything(log: AnyLog) -> None:
    edit(log, "ann", Operation(ADD, "a SECRET"))
    reply = Record(replace(LATER, text="kept turn"), completion="the SECRET")
    unread = [
        replace(reply, failure="not_json"),
        replace(reply, refusals=(Refusal(0, "unknown_id", '{"op": "UPDATE", "id": 7, "text": "the SECRET"}'),)),
        replace(reply, events=(Event(WRITTEN, payload={"task": "facts", "by": "rules"}),)),
        replace(reply, events=(Event(WRITTEN, payload={"task": "insights", "by": "model", "refused": 1}),)),
    ]
    carried_out = replace(reply, completion="kept", events=(Event(WRITTEN, payload={"task": "facts", "by": "model"}),))
    for record in (*unread, carried_out):
        log.write([("ann", lambda _, record=record: record), ("ben", lambda _, record=record: record)])
    log.forget("ann", [1])
    assert "SECRET" not in str(log.records("ann"))
    later = log.records("ann")[1:]
    assert [record.turn.text for record in later if record.turn] == ["kept turn"] * 5
    assert (later[0].failure, later[1].refusals[0].reason, later[-1].completion) == ("not_json", "unknown_id", "kept")
    assert "SECRET" in str(log.records("ben"))


def test_vectors_of_what_was_forgotten_meanwhile_are_not_kept(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store:
        edit(store, "ann", Operation(ADD, "dog"), Operation(ADD, "Rome"))
        store.forget("ann", [1])
        store.keep_vectors("ann", "embedder", [(1, b"one", b"SECRET"), (2, b"two", b"vector")])
        store.keep_vectors("ben", "embedder", [(1, b"one", b"SECRET")])
        assert store.vectors("ann", "embedder") == {b"two": b"vector"}
        assert b"SECRET" not in bytes_on_disk(tmp_path)


def test_a_forgotten_scope_leaves_not_even_its_name(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store:
        edit(store, "user-4711", Operation(ADD, "SECRET"), turn=Turn("turn-4711", "Ann", ""))
        store.keep_vectors("user-4711", "embedder", [(1, b"key", b"vector")])
        edit(store, "ben", Operation(ADD, "Rome"))
        assert store.forget("user-4711") == 1
        left = bytes_on_disk(tmp_path)
        assert b"4711" not in left
        assert b"SECRET" not in left


def test_forgetting_while_another_connection_reads_says_that_bytes_are_left(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store, closing(sqlite3.connect(tmp_path / "log.db")) as reader:
        edit(store, "ann", Operation(ADD, "SECRET"))
        store._connection.execute("PRAGMA busy_timeout = 0")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        with pytest.raises(StoreError, match="forget again"):
            store.forget("ann")
        reader.execute("COMMIT")
        assert store.forget("ann") == 0
        assert b"SECRET" not in bytes_on_disk(tmp_path)


def test_a_backup_holds_every_scope_and_its_history(log: AnyLog, tmp_path: Path) -> None:
    edit(log, "ann", Operation(ADD, "dog"))
    edit(log, "ann", Operation(UPDATE, "cat", 1), turn=LATER)
    edit(log, "ben", Operation(ADD, "Rome"))
    save_log(log, tmp_path / "new" / "copy.db", system="test")
    edit(log, "ann", Operation(DELETE, None, 1))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy.db"]
    with open_store(tmp_path / "new" / "copy.db") as copy:
        assert copy.scopes() == ("ann", "ben")
        assert [event.payload["text"] for _, event in copy.history("ann", 1)] == ["dog", "cat"]
        assert texts(copy) == ["cat"]


def test_a_backup_replaces_what_others_read(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store, open_store(tmp_path / "copy.db") as reader:
        edit(reader, "ann", Operation(ADD, "old"))
        edit(store, "ann", Operation(ADD, "new"))
        assert texts(reader) == ["old"]
        save_log(store, tmp_path / "copy.db", system="test")
        assert texts(reader) == ["new"]


def test_a_backup_over_a_file_that_another_writes_to_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(tmp_path / "copy.db").close()
    monkeypatch.setattr("memory_r1.memory.sqlite_log._BUSY_SECONDS", 0.1)
    with open_store(tmp_path / "log.db") as store, closing(sqlite3.connect(tmp_path / "copy.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program is writing to it"):
            save_log(store, tmp_path / "copy.db", system="test")


def test_a_store_saved_to_its_own_path_goes_on_there(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store:
        save_log(store, tmp_path / "log.db", system="test")
        edit(store, "ann", Operation(ADD, "dog"))
    with open_store(tmp_path / "log.db") as again:
        assert texts(again) == ["dog"]


def test_files_that_are_no_store_are_refused_with_a_way_on(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, " * 100)
    for name in ("text", "no folder/log.db"):
        with pytest.raises(StoreError, match="cannot be opened"):
            open_store(tmp_path / name)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE events (x)")
        other.commit()
    with pytest.raises(StoreError, match="another program's database"):
        open_store(tmp_path / "other.db")
    open_store(tmp_path / "older.db").close()
    with pytest.raises(StoreError, match=r"written by system 'test'; open it with that, not 'rag'"):
        SqliteLog(tmp_path / "older.db", ScopeState(), system="rag")
    with closing(sqlite3.connect(tmp_path / "older.db")) as older:
        older.execute("PRAGMA user_version = 1")
    with pytest.raises(StoreError, match=r"format 1, .* play its dialogues into a new file"):
        open_store(tmp_path / "older.db")


def test_a_log_edited_from_outside_is_noticed(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store:
        edit(store, "ann", Operation(ADD, "dog"), Operation(ADD, "Rome"))
        store.undo("ann")
    with closing(sqlite3.connect(tmp_path / "log.db")) as other:
        other.execute("""UPDATE events SET payload = '{"target": 1}' WHERE kind = 'UNDO'""")
        other.commit()
    with open_store(tmp_path / "log.db") as store:
        for _ in range(2):  # The second read must not continue from a half-played log.
            with pytest.raises(StoreError, match="another program changed"):
                store.state("ann")


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with open_store(tmp_path / "log.db") as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        store.state("ann")
