from __future__ import annotations

import pytest

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.evaluation.records import Prediction, RecalledEntry
from memory_r1.evaluation.scoring.retrieval_metrics import (
    row_metrics,
)
from memory_r1.memory.forms import FORMS
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.banked import BankedSystem
from memory_r1.systems.table import SYSTEMS, build_system
from tests.fakes import FakeEmbedder, FakeWeaver, KeepNewest, ScriptedLanguageModel


def entry(number: int, *turn_ids: str) -> RecalledEntry:
    return RecalledEntry(number, f"entry {number}", turn_ids)


# Evidence in two sessions; the second and sixth of seven entries hold it, and the last repeats an earlier turn.
RECALLED = (
    entry(1, "s9:1"),
    entry(2, "s1:2", "s1:3"),
    entry(3, "s8:1"),
    entry(4),
    entry(5, "s7:1", "s8:1"),
    entry(6, "s2:1"),
    entry(7, "s1:2"),
)
ROW = Prediction(
    "q1", "d1", "multi-session", {}, evidence=("s1:2", "s2:1"), recalled=RECALLED, distilled=(RECALLED[5], RECALLED[0])
)


def test_evidence_recall_at_k_counts_entries_from_the_best() -> None:
    metrics = row_metrics(ROW, "locomo", "rag")
    assert metrics == {
        "distilled_recall": 0.5,  # s2:1 of two
        "evidence_recall@1": 0.0,
        "evidence_recall@3": 0.5,  # the second entry
        "evidence_recall@5": 0.5,
        "evidence_recall@10": 1.0,  # the sixth
        "evidence_recall@30": 1.0,
    }


def test_nothing_is_measured_without_evidence() -> None:
    row = Prediction("q1", "d1", "1", {}, recalled=RECALLED, distilled=RECALLED[:1])
    assert row_metrics(row, "longmemeval", "rag") == {}


def test_what_was_not_recalled_counts_as_missed() -> None:
    row = Prediction("q1", "d1", "1", {}, evidence=("s1:2",))
    assert set(row_metrics(row, "locomo", "none").values()) == {0.0}


@pytest.mark.parametrize("system", ["full-context", "oracle", "add-only-newest-first"])
def test_no_recall_at_k_where_entries_come_in_order_of_the_dialogue(system: str) -> None:
    assert list(row_metrics(ROW, "longmemeval", system)) == ["distilled_recall"]


def test_systems_that_rearrange_their_recall_are_those_said_not_to_rank() -> None:
    retriever = Retriever(FakeEmbedder())
    for name, spec in SYSTEMS.items():
        manager = MemoryManager(ScriptedLanguageModel(), retriever, form=FORMS[spec.operations])
        system = build_system(name, retriever=retriever, manager=manager, weaver=FakeWeaver(), slot_policy=KeepNewest())
        assert isinstance(system, BankedSystem)
        by_rank = (
            type(system)._arrange is BankedSystem._arrange and not spec.needs_weaver
        )  # its tokens are in turn order
        assert spec.ranks == by_rank, name
