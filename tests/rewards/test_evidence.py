"""Rewards on the memories that the Answer Agent names."""

from __future__ import annotations

import pytest

from rewards.evidence import EvidenceReward, precision_share, recall_share

RECALL = EvidenceReward("evidence_recall", recall_share)
PRECISION = EvidenceReward("evidence_precision", precision_share)
# Four memories; the second comes from two turns, the last from no known one.
SOURCES = [["t1"], ["t2", "t3"], ["t4"], []]


def reward(
    function: EvidenceReward,
    text: str,
    evidence: list[str],
    sources: list[list[str]] = SOURCES,
    style: str = "ids",
) -> float | None:
    shown = [f"memory of {' and '.join(turn_ids) or 'nobody'}" for turn_ids in sources]
    (value,) = function(
        completions=[[{"role": "assistant", "content": text}]],
        evidence=[evidence],
        sources=[sources],
        texts=[shown],
        answer_style=[style],
        answer=[""],
    )
    return value


@pytest.mark.parametrize(
    ("named", "recall", "precision"),
    [
        ("1, 2", 1.0, 1.0),
        ("1", 0.5, 1.0),
        ("2", 0.5, 1.0),  # of t1 and t2, memory 2 has t2
        ("1, 3", 0.5, 0.5),
        ("3", 0.0, 0.0),
        ("1, 1, 1", 0.5, 1.0),  # repeats count once
        ("none", 0.0, 0.0),
        ("7, 0", 0.0, 0.0),  # not shown
        ("1, 2, 3, 4", 1.0, 0.5),  # naming all earns recall but costs precision
    ],
)
def test_named_memories_are_measured_by_their_turns(named: str, recall: float, precision: float) -> None:
    text = f"Memories: {named}\n**Answer:** Rome"
    assert reward(RECALL, text, ["t1", "t2"]) == recall
    assert reward(PRECISION, text, ["t1", "t2"]) == precision


@pytest.mark.parametrize("text", ["", "**Answer:** 1", "1, 2", "\x00\ud800", "**Answer:** x\nMemories: 1"])
def test_what_names_nothing_earns_nothing(text: str) -> None:
    assert reward(RECALL, text, ["t1"]) == reward(PRECISION, text, ["t1"]) == 0.0


def test_quoted_memories_are_measured_as_named_ones_are() -> None:
    text = "Memories:\nmemory of t1\nMemory of t4\n**Answer:** memory of t2 and t3"
    assert reward(RECALL, text, ["t1", "t2"], style="quotes") == 0.5
    assert reward(PRECISION, text, ["t1", "t2"], style="quotes") == 0.5
    assert reward(RECALL, "Memories: 1, 2\n**Answer:** x", ["t1", "t2"], style="quotes") == 0.0


def test_evidence_that_no_memory_has_lowers_recall_for_all() -> None:
    assert reward(RECALL, "Memories: 1\n**Answer:** x", ["t1", "t9"]) == 0.5


@pytest.mark.parametrize(("evidence", "sources"), [([], SOURCES), (["t9"], SOURCES), (["t1"], []), (["t1"], [[]])])
def test_rows_that_no_completion_could_score_on_are_left_out(evidence: list[str], sources: list[list[str]]) -> None:
    for function in (RECALL, PRECISION):
        assert reward(function, "Memories: 1\n**Answer:** x", evidence, sources) is None


def test_each_completion_is_measured_by_its_own_row() -> None:
    completions = [[{"role": "assistant", "content": "Memories: 1\n**Answer:** x"}]] * 2
    sources = [[["t1"]], [["t2"], ["t1"]]]
    shown = {"texts": [["a"], ["b", "a"]], "answer_style": ["ids"] * 2}
    assert RECALL(completions=completions, evidence=[["t1"], ["t1"]], sources=sources, **shown) == [1.0, 0.0]
    assert RECALL(completions=[], evidence=[], sources=[], texts=[], answer_style=[]) == []
