"""The graph form: how its operations are read and written, what they do to a bank, and what is near in it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from memory_r1.errors import StoreError
from memory_r1.memory.bank import MemoryBank, entries_from_json, entries_to_json
from memory_r1.memory.forms import GRAPH, operations_schema
from memory_r1.memory.graph import merged
from memory_r1.memory.operations import RefusalReason, check_completion, render_operations
from memory_r1.memory.retriever import Retriever
from memory_r1.types import ADDING, Edge, MemoryEntry, Operation, OperationKind, Turn
from tests.fakes import FakeEmbedder

ADD, UPDATE, DELETE, NOOP, LINK, ABSTRACT = OperationKind
SHOWN = (17, 4, 90)  # prompt numbers 1, 2, 3
TURN = Turn("t9", "Ann", "...", "s1", "2023-05-08T10:00:00")
EVERY = (
    Operation(ADD, "Ann lives in Rome", None, Edge("Ann", "lives in", "Rome")),
    Operation(UPDATE, "Ann's home is Oslo, 2024", 4, Edge("Ann", "'s home is", "Oslo", "2024")),
    Operation(DELETE, None, 17),
    Operation(LINK, "Gus is the same as the goat", None, Edge("Gus", "is the same as", "the goat")),
    Operation(ABSTRACT, "Ann moves often", over=(90,)),
    Operation(NOOP),
)
WRITTEN = [
    {"op": "ADD", "subject": "Ann", "relation": "lives in", "object": "Rome"},
    {"op": "UPDATE", "id": 2, "subject": "Ann", "relation": "'s home is", "object": "Oslo", "time": "2024"},
    {"op": "DELETE", "id": 1},
    {"op": "LINK", "entity": "Gus", "same_as": "the goat"},
    {"op": "ABSTRACT", "ids": [3], "text": "Ann moves often"},
    {"op": "NOOP"},
]


def test_every_operation_is_written_and_read_back() -> None:
    written = render_operations(EVERY, SHOWN, GRAPH)
    assert json.loads(written) == WRITTEN
    assert check_completion(written, SHOWN, form=GRAPH).accepted == EVERY


def test_what_the_form_does_not_allow_is_refused() -> None:
    edge = {"subject": "Ann", "relation": "lives in", "object": "Rome"}
    refused = {
        RefusalReason.MALFORMED: [
            {"op": "ADD", "text": "Ann lives in Rome"},
            {"op": "ADD", **edge, "id": 1},
            {"op": "ADD", "subject": "Ann", "relation": "lives in"},
            {"op": "ADD", **edge, "time": 2023},
            {"op": "ABSTRACT", "ids": [], "text": "x"},
            {"op": "ABSTRACT", "ids": 1, "text": "x"},
            {"op": "ABSTRACT", "ids": [True], "text": "x"},
        ],
        RefusalReason.UNKNOWN_ID: [{"op": "ABSTRACT", "ids": [1, 4], "text": "x"}, {"op": "UPDATE", "id": 9, **edge}],
        RefusalReason.EMPTY_TEXT: [{"op": "ADD", **edge, "object": " "}, {"op": "LINK", "entity": "", "same_as": "x"}],
        RefusalReason.UNKNOWN_OPERATION: [{"op": "MERGE"}],
    }
    for reason, elements in refused.items():
        for element in elements:
            (checked,) = check_completion(json.dumps([element]), SHOWN, form=GRAPH).operations
            assert checked.refusal is reason, element
    # What is gone cannot be summarised, and the flat form knows no links.
    gone = check_completion(
        '[{"op": "DELETE", "id": 1}, {"op": "ABSTRACT", "ids": [2, 1], "text": "x"}]', SHOWN, form=GRAPH
    )
    assert [item.refusal for item in gone.operations] == [None, RefusalReason.SECOND_OPERATION]
    (flat,) = check_completion(json.dumps([WRITTEN[3]]), SHOWN).operations
    assert flat.refusal is RefusalReason.UNKNOWN_OPERATION
    with pytest.raises(ValueError, match="LINK is no operation of the flat form"):
        render_operations([EVERY[3]], SHOWN)


def test_without_a_memory_there_is_nothing_to_change_or_summarise() -> None:
    kinds = [choice["properties"]["op"]["const"] for choice in operations_schema(0, GRAPH)["items"]["anyOf"]]
    assert kinds == ["ADD", "NOOP", "LINK"]


def bank_of(*edges: Edge | Operation) -> MemoryBank:
    bank = MemoryBank()
    for number, edge in enumerate(edges, 1):
        kind = LINK if isinstance(edge, Edge) and edge.relation == "is the same as" else ADD
        operation = edge if isinstance(edge, Operation) else Operation(kind, edge.text, None, edge)
        bank.apply([operation], Turn(f"t{number}", "Ann", "...", "s1", TURN.timestamp))
    return bank


def test_a_bank_holds_edges_and_what_summarises_them() -> None:
    bank = bank_of(Edge("Ann", "lives in", "Rome"), Edge("Ann", "works for", "Solmark"))
    bank.apply([Operation(ABSTRACT, "Ann works in Rome", over=(2, 1))], TURN)
    bank.apply([Operation(UPDATE, "Ann lives in Oslo", 1, Edge("Ann", "lives in", "Oslo"))], TURN)
    assert bank.entries() == (
        MemoryEntry(1, "Ann lives in Oslo", "Ann", TURN.timestamp, ("t1", "t9"), Edge("Ann", "lives in", "Oslo")),
        MemoryEntry(2, "Ann works for Solmark", "Ann", TURN.timestamp, ("t2",), Edge("Ann", "works for", "Solmark")),
        MemoryEntry(3, "Ann works in Rome", "Ann", TURN.timestamp, ("t2", "t1"), over=(2, 1)),
    )
    assert entries_from_json(entries_to_json(bank.entries())) == bank.entries()
    with pytest.raises(StoreError, match="no live entry has id 9"):
        bank.apply([Operation(ABSTRACT, "x", over=(9,))], TURN)
    assert len(bank) == 3


def test_a_flat_bank_is_written_as_before() -> None:
    entry = MemoryEntry(1, "Ann lives in Rome", "Ann", "2023", ("t1",))
    assert entries_to_json([entry]) == (
        '[{"entry_id": 1, "text": "Ann lives in Rome", "speaker": "Ann", "timestamp": "2023", '
        '"source_turn_ids": ["t1"]}]'
    )
    event = MemoryBank().event(Operation(ADD, "Ann lives in Rome"), TURN)
    assert event.payload.keys() == {"text", "speaker", "timestamp", "turn_ids"}
    assert event.kind in ADDING


def same(name: str, other: str) -> Edge:
    return Edge(name, "is the same as", other)


def test_links_make_one_entity_of_many_names() -> None:
    bank = bank_of(
        Edge("Ann", "has", "a goat"),
        same("Gus", "the goat"),
        same("Old Gus", "Gustav"),
        same("Gustav", "Gus"),
        Edge("Ben", "has", "a dog"),
    )
    groups = {
        "ann": "ann",
        "goat": "goat",
        "gus": "goat",
        "old gus": "goat",
        "gustav": "goat",
        "ben": "ben",
        "dog": "dog",
    }
    assert merged(bank.entries()) == groups
    bank.apply([Operation(DELETE, None, 4)], TURN)  # the merge of two pairs is taken back, each pair stays
    assert merged(bank.entries()) == {**groups, "old gus": "old gus", "gustav": "old gus"}


def test_names_of_which_nothing_would_be_left_stay_apart() -> None:
    bank = bank_of(Edge("The", "is", "a"), same("!", "Gus"), Edge("?", "likes", "fish"))
    assert merged(bank.entries()) == {"the": "the", "a": "a", "!": "!", "gus": "!", "?": "?", "fish": "fish"}


def recalled(bank: MemoryBank, query: str, k: int, speakers: Sequence[str] = ()) -> list[str]:
    return [entry.text for entry in Retriever(FakeEmbedder()).retrieve(query, bank.entries(), k, speakers)]


def test_recall_follows_two_hops_and_links() -> None:
    others = [Edge(name, "works for", f"{name} Limited") for name in ("Cleo", "Dan", "Eve", "Flo")]
    path = [Edge("Ann", "adopted", "a goat"), same("Gus", "the goat"), Edge("Ann", "is paid by", "Solmark")]
    bank = bank_of(*others, *path)
    question = "Who works as the owner of Gus works for?"
    assert set(recalled(bank, question, 3)) == {edge.text for edge in path}
    # Without the link the question names nothing that leads to Ann.
    unlinked = bank_of(*others, path[0], Edge("Gus", "sleeps in", "the shed"), path[2])
    assert path[2].text not in recalled(unlinked, question, 3)
    # The depth of all speakers together is free to go to one of them.
    assert len(recalled(bank, question, 1, ("Ann", "Ben"))) == 2
    assert recalled(bank, question, 3) == recalled(bank, question, 3)


def test_a_summary_is_near_what_it_summarises() -> None:
    bank = bank_of(Edge("Ann", "adopted", "a goat"), *(Edge(f"P{n}", "has", f"x{n}") for n in range(6)))
    bank.apply([Operation(ABSTRACT, "a life with animals", over=(1,))], TURN)
    assert recalled(bank, "What about Ann?", 2) == ["Ann adopted a goat", "a life with animals"]


def test_many_links_are_followed_in_seconds() -> None:
    count = 20_000
    links = [
        MemoryEntry(number, "", "Ann", "", (), Edge(f"name{number + 1}", "is the same as", f"name{number}"))
        for number in range(count)
    ]
    started = time.process_time()
    stands_for = merged(links)
    assert time.process_time() - started < 2
    assert len(stands_for) == count + 1
    assert {*stands_for.values()} == {"name1"}
