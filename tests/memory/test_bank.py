"""The in-memory bank: ids, order, views, and all-or-nothing edits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_r1.errors import DataError, StoreError
from memory_r1.memory.bank import MemoryBank, entries_from_json, entries_to_json
from memory_r1.memory.operations import check_completion
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind
FIRST = Turn("s1:1", "Ann", "I have a dog.", "s1", "2023-05-08T13:56:00")
LATER = Turn("s2:4", "Ben", "It is a cat.", "s2", "2023-06-01T09:00:00")

operations = st.builds(
    Operation, st.sampled_from(OperationKind), st.none() | st.text(max_size=5), st.none() | st.integers(0, 8)
)
batches = st.lists(st.lists(operations, max_size=4), max_size=8)


def bank_of(*texts: str) -> MemoryBank:
    bank = MemoryBank()
    bank.apply([Operation(ADD, text) for text in texts], FIRST)
    return bank


def play(bank: MemoryBank, edits: list[list[Operation]]) -> None:
    """Apply every operation that can be applied, like a careless caller."""
    for batch in edits:
        try:
            bank.apply(batch, LATER)
        except StoreError:
            continue


def test_add_takes_speaker_time_and_source_from_the_turn() -> None:
    bank = MemoryBank()
    added = bank.apply([Operation(ADD, "Ann has a dog."), Operation(NOOP)], FIRST)
    assert added == (MemoryEntry(1, "Ann has a dog.", "Ann", "2023-05-08T13:56:00", ("s1:1",)),)
    assert bank.entries() == added


def test_update_keeps_id_and_place_and_adds_the_source() -> None:
    bank = bank_of("dog", "Rome")
    updated = bank.apply([Operation(UPDATE, "cat", 1)], LATER)
    assert updated == (MemoryEntry(1, "cat", "Ben", "2023-06-01T09:00:00", ("s1:1", "s2:4")),)
    assert [entry.text for entry in bank.entries()] == ["cat", "Rome"]
    bank.apply([Operation(UPDATE, "lion", 1)], LATER)
    assert bank.get(1).source_turn_ids == ("s1:1", "s2:4")  # The same turn is not named twice.


def test_ids_are_never_given_twice() -> None:
    bank = bank_of("a", "b")
    bank.apply([Operation(DELETE, None, 2)], LATER)
    assert bank.apply([Operation(ADD, "c")], LATER)[0].entry_id == 3
    assert MemoryBank(bank.entries(), highest_id=9).apply([Operation(ADD, "d")], LATER)[0].entry_id == 10


def test_an_entry_touched_and_then_deleted_is_not_returned() -> None:
    bank = bank_of("a", "b")
    edits = [
        Operation(UPDATE, "x", 1),
        Operation(UPDATE, "y", 2),
        Operation(UPDATE, "z", 2),
        Operation(DELETE, None, 1),
    ]
    assert [entry.text for entry in bank.apply(edits, LATER)] == ["z"]


def test_looking_up() -> None:
    bank = bank_of("a")
    assert (len(bank), 1 in bank, 2 in bank) == (1, True, False)
    with pytest.raises(StoreError, match="no live entry has id 2"):
        bank.get(2)


def test_two_entries_with_one_id_are_refused() -> None:
    with pytest.raises(StoreError, match="2 entries have only 1 different ids"):
        MemoryBank([MemoryEntry(1, "a", "Ann", ""), MemoryEntry(1, "b", "Ann", "")])


@pytest.mark.parametrize(
    "bad",
    [
        Operation(DELETE, None, 9),
        Operation(UPDATE, "x", 9),
        Operation(DELETE),
        Operation(UPDATE, "x"),
        Operation(UPDATE, " ", 1),
        Operation(UPDATE, None, 1),
        Operation(ADD),
        Operation(ADD, ""),
    ],
)
def test_a_bad_operation_leaves_the_whole_batch_unapplied(bad: Operation) -> None:
    bank = bank_of("a", "b")
    before = bank.entries()
    with pytest.raises(StoreError):
        bank.apply([Operation(ADD, "c"), Operation(DELETE, None, 1), bad], LATER)
    assert bank.entries() == before
    assert bank.highest_id == 2


@settings(deadline=None)
@given(batches)
def test_a_refused_batch_never_changes_the_bank(edits: list[list[Operation]]) -> None:
    bank = bank_of("a", "b", "c")
    for batch in edits:
        before = (bank.entries(), bank.highest_id)
        try:
            bank.apply(batch, LATER)
        except StoreError:
            assert (bank.entries(), bank.highest_id) == before


@settings(deadline=None)
@given(batches, batches)
def test_a_view_and_its_parent_never_see_each_other(
    to_parent: list[list[Operation]], to_view: list[list[Operation]]
) -> None:
    def alone(edits: list[list[Operation]]) -> tuple[MemoryEntry, ...]:
        bank = bank_of("a", "b", "c")
        play(bank, edits)
        return bank.entries()

    parent = bank_of("a", "b", "c")
    view = parent.view()
    for step in range(max(len(to_parent), len(to_view))):  # Interleaved, so that each could disturb the other.
        play(parent, to_parent[step : step + 1])
        play(view, to_view[step : step + 1])
    assert parent.entries() == alone(to_parent)
    assert view.entries() == alone(to_view)


@settings(deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(
        st.fixed_dictionaries(
            {"op": st.sampled_from(OperationKind)}, optional={"id": st.integers(-1, 5), "text": st.text(max_size=3)}
        ),
        max_size=10,
    ).map(json.dumps)
)
def test_whatever_a_completion_says_can_be_applied(completion: str) -> None:
    bank = bank_of("a", "b", "c")
    checked = check_completion(completion, [3, 1])
    bank.apply(checked.accepted, LATER)
    assert 2 in bank  # It was not recalled, so no completion can reach it.
    if not checked.accepted:
        assert bank.entries() == bank_of("a", "b", "c").entries()


@settings(deadline=None)
@given(st.lists(st.builds(MemoryEntry, st.integers(), st.text(), st.text(), st.text(), st.lists(st.text()).map(tuple))))
def test_entries_survive_json(entries: list[MemoryEntry]) -> None:
    assert entries_from_json(entries_to_json(entries)) == tuple(entries)


def test_a_shortened_update_joins_the_sources_of_its_entry_and_adds_it_where_there_is_none() -> None:
    bank = bank_of("Ann has a dog")
    update = bank.shortened(bank.event(Operation(UPDATE, "Ann has a cat", 1), LATER))
    bank.play(update)
    assert bank.get(1).source_turn_ids == (FIRST.turn_id, LATER.turn_id)
    other = MemoryBank()  # as in a rollout whose completion did not add the entry
    other.play(update)
    assert other.get(1).source_turn_ids == (LATER.turn_id,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[3]",
        "[" * 100_000,
        '[{"entry_id": 1}]',
        '[{"entry_id": "1", "text": "a", "speaker": "b", "timestamp": "", "source_turn_ids": []}]',
        '[{"entry_id": 1, "text": null, "speaker": "b", "timestamp": "", "source_turn_ids": []}]',
        '[{"entry_id": 1, "text": "a", "speaker": "b", "timestamp": "", "source_turn_ids": "abc"}]',
        '[{"entry_id": 1, "text": "a", "speaker": "b", "timestamp": "", "source_turn_ids": [], "more": 1}]',
    ],
)
def test_json_that_holds_no_entries_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="memory entries cannot be read"):
        entries_from_json(text)
