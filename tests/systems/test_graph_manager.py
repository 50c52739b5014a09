"""memory-r1-graph: what its operations do to memory, and how to look back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.errors import ConfigurationError
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.forms import GRAPH
from memory_r1.memory.graph import Version
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.banked import Proposal, record_of
from memory_r1.systems.graph_manager import GraphMemory
from memory_r1.systems.state import ScopeState
from memory_r1.systems.table import build_system
from memory_r1.types import Edge, Operation, OperationKind, Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

ADD, UPDATE, DELETE, NOOP, LINK, ABSTRACT = OperationKind
DAYS = [f"2023-05-0{day}T10:00:00" for day in range(1, 9)]


def edge(subject: str, relation: str, thing: str, **more: Any) -> dict[str, Any]:
    return {"op": "ADD", "subject": subject, "relation": relation, "object": thing, **more}


def link(name: str, other: str) -> dict[str, Any]:
    return {"op": "LINK", "entity": name, "same_as": other}


def told(*turns: list[dict[str, Any]]) -> GraphMemory:
    """Return a memory whose manager wrote these operations, one day a turn."""
    replies = iter(turns)
    model = ScriptedLanguageModel(lambda prompt, adapter: json.dumps(next(replies)))
    retriever = Retriever(FakeEmbedder())
    manager = MemoryManager(model, retriever, recall_per_speaker=5, form=GRAPH)
    system = GraphMemory(manager, retriever, recall_per_speaker=3)
    for number, day in enumerate(DAYS[: len(turns)], 1):
        system.observe(Turn(f"t{number}", "Ann", "...", "s1", day), "a")
    return system


def texts(system: GraphMemory) -> list[str]:
    return [entry.text for entry in system.entries("a")]


def test_an_update_supersedes_and_a_deletion_retracts_but_both_stay_known() -> None:
    rome, oslo = edge("Ann", "lives in", "Rome"), edge("Ann", "lives in", "Oslo", op="UPDATE", id=1, time="May")
    system = told([rome], [oslo], [{"op": "DELETE", "id": 1}])
    assert texts(system) == []
    past = [
        Version("Ann lives in Rome", Edge("Ann", "lives in", "Rome"), DAYS[0], DAYS[1]),
        Version("Ann lives in Oslo, May", Edge("Ann", "lives in", "Oslo", "May"), DAYS[1], DAYS[2]),
    ]
    assert system.versions("a", 1) == past
    system.log.undo("a", 2)  # the deletion and the update were never made
    assert texts(system) == ["Ann lives in Rome"]
    assert system.versions("a", 1) == [Version("Ann lives in Rome", Edge("Ann", "lives in", "Rome"), DAYS[0])]
    system.log.redo("a")
    assert system.versions("a", 1) == [past[0], Version(past[1].text, past[1].edge, DAYS[1])]


def test_links_merge_aliases_and_undo_takes_each_merge_back() -> None:
    system = told(
        [edge("Ann", "adopted", "a goat"), edge("Gustav", "sleeps in", "the shed")],
        [link("Gus", "the goat")],
        [link("Gustav", "Gus")],
    )
    assert system.aliases("a") == [("goat", "gustav", "gus")]
    question = "Where does the goat sleep?"
    assert "Gustav sleeps in the shed" in [entry.text for entry in system.recall(question, "a").items]
    system.log.undo("a")
    assert system.aliases("a") == [("goat", "gus")]
    system.log.undo("a")
    assert (system.aliases("a"), len(texts(system))) == ([], 2)
    system.log.redo("a", 2)
    assert system.aliases("a") == [("goat", "gustav", "gus")]
    assert [event.kind for record in system.records("a") for event in record.events][:4] == [
        "ADD",
        "ADD",
        "LINK",
        "LINK",
    ]


def test_a_summary_outlives_its_edges_but_is_forgotten_with_them() -> None:
    summary = {"op": "ABSTRACT", "ids": [2, 1], "text": "Ann works in Rome"}
    operations = [edge("Ann", "lives in", "Rome"), edge("Ann", "works for", "Solmark")], [summary]
    system = told(*operations, [{"op": "DELETE", "id": 1}])
    assert "Ann works in Rome" in texts(system)
    assert system.entries("a")[-1].source_turn_ids == ("t1",)
    system.forget("a", {1})
    assert "Ann works in Rome" not in texts(system)
    assert not any(record.completion for record in system.records("a")[:2])


def test_a_summary_over_what_another_writer_changed_is_refused() -> None:
    turn = Turn("t9", "Ann", "...", "s1", DAYS[7])
    read, now = ScopeState(MemoryBank()), ScopeState(MemoryBank())
    for state in (read, now):
        state.bank.apply([Operation(ADD, "Ann lives in Rome"), Operation(ADD, "Ann works for Solmark")], turn)
    now.bank.apply([Operation(DELETE, None, 2)], turn)
    proposal = Proposal(
        (Operation(ABSTRACT, "Ann works in Rome", over=(1, 2)), Operation(LINK, "Bo is the same as Ben"))
    )
    record = record_of(turn, proposal, read, now)
    assert [event.kind for event in record.events] == ["LINK"]
    assert [(refusal.index, refusal.reason) for refusal in record.refusals] == [(0, "conflict")]
    assert json.loads(record.refusals[0].raw)["entry"] == 2  # so that forgetting that entry erases the text here too


def test_a_manager_of_another_form_is_refused() -> None:
    retriever = Retriever(FakeEmbedder())
    flat, graph = (MemoryManager(ScriptedLanguageModel(), retriever, **form) for form in ({}, {"form": GRAPH}))
    for name, manager in (("memory-r1-graph", flat), ("memory-r1", graph)):
        with pytest.raises(ConfigurationError, match=f"{name!r} needs a manager that writes"):
            build_system(name, retriever=retriever, manager=manager)
