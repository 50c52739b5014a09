from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from memory_r1.evaluation.records import Prediction, RecalledEntry
from memory_r1.evaluation.scoring.retrieval_metrics import (
    UNRANKED_SYSTEMS,
    is_abstention,
    ranking_metrics,
    row_metrics,
    session_of,
    source_turns,
)
from memory_r1.systems import system_spec
from memory_r1.systems.banked import BankedSystem


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


@pytest.mark.parametrize("system", sorted(UNRANKED_SYSTEMS))
def test_no_recall_at_k_where_entries_come_in_order_of_the_dialogue(system: str) -> None:
    assert list(row_metrics(ROW, "longmemeval", system)) == ["distilled_recall"]


def named_systems(base: type[BankedSystem] = BankedSystem) -> Iterator[type[BankedSystem]]:
    for system in base.__subclasses__():
        if system.__module__.startswith("memory_r1.") and system.name:
            yield system
        yield from named_systems(system)


def test_every_system_that_rearranges_its_recall_is_known_to() -> None:
    assert all(system_spec(name) for name in ("rag", "add-only"))  # imports them all
    rearranging = {system.name for system in named_systems() if system._arrange is not BankedSystem._arrange}
    ranking = {system.name for system in named_systems()} - rearranging
    assert {"full-context", "oracle", "add-only-newest-first"} <= rearranging <= UNRANKED_SYSTEMS
    assert not ranking & UNRANKED_SYSTEMS


def test_longmemeval_ranks_distinct_sessions_and_turns() -> None:
    metrics = row_metrics(ROW, "longmemeval", "rag")
    # Sessions in order: s9, s1, s8, s7, s2; found at places 2 and 5: 1/log2(2) + 1/log2(5), ideal 1 + 1.
    assert metrics["session_ndcg@5"] == pytest.approx((1 + 1 / math.log2(5)) / 2)
    assert (metrics["session_recall_any@5"], metrics["session_recall_all@5"]) == (1.0, 1.0)
    # Turns in order: s9:1, s1:2, s1:3, s8:1, s7:1, s2:1; the second at place 2, s2:1 at 6, past five.
    assert metrics["turn_ndcg@5"] == pytest.approx(1 / 2)
    assert (metrics["turn_recall_any@5"], metrics["turn_recall_all@5"]) == (1.0, 0.0)
    assert metrics["turn_ndcg@10"] == pytest.approx((1 + 1 / math.log2(6)) / 2)
    assert metrics["turn_recall_all@10"] == 1.0


def test_abstention_questions_are_no_retrieval_questions() -> None:
    row = Prediction("q1_abs", "d1", "multi-session", {}, evidence=("s1:2",), recalled=RECALLED)
    names = row_metrics(row, "longmemeval", "rag")
    assert "evidence_recall@5" in names
    assert not [name for name in names if name.startswith(("session_", "turn_"))]


@pytest.mark.parametrize(
    ("ranking", "k", "expected"),
    [
        # Both at the top: the ideal order.
        (["a", "b", "x"], 3, (1.0, 1.0, 1.0)),
        (["b", "a", "x"], 3, (1.0, 1.0, 1.0)),
        # Places 1 and 2 count alike, place 3 is worth 1/log2(3): (1 + 0.631) / 2.
        (["x", "a", "b"], 3, (1.0, 1.0, (1 + 1 / math.log2(3)) / 2)),
        # One place only: the ideal has one of them in it.
        (["a", "b"], 1, (1.0, 0.0, 1.0)),
        (["x", "y", "z", "a"], 3, (0.0, 0.0, 0.0)),
        ([], 5, (0.0, 0.0, 0.0)),
    ],
)
def test_ranking_metrics(ranking: list[str], k: int, expected: tuple[float, float, float]) -> None:
    metrics = ranking_metrics({"a", "b"}, ranking, k)
    assert (metrics["recall_any"], metrics["recall_all"], metrics["ndcg"]) == pytest.approx(expected)


def test_gold_evidence_as_recall_gives_one_everywhere() -> None:
    recalled = (entry(1, "s1:2"), entry(2, "s2:1"))
    row = Prediction("q1", "d1", "1", {}, evidence=("s1:2", "s2:1"), recalled=recalled, distilled=recalled)
    metrics = row_metrics(row, "longmemeval", "rag")
    # One entry cannot hold both turns.
    assert metrics.pop("evidence_recall@1") == 0.5
    assert set(metrics.values()) == {1.0}
    assert len(metrics) == 1 + 4 + 2 * 2 * 3


def test_ids_and_their_parts() -> None:
    assert source_turns(RECALLED) == ["s9:1", "s1:2", "s1:3", "s8:1", "s7:1", "s2:1"]
    assert (session_of("answer:4:12"), session_of("D10:3")) == ("answer:4", "D10")
    assert is_abstention("gpt4_1_abs") and not is_abstention("abs_1")
