"""Retrieval metrics of a row of `predictions.jsonl`: evidence recall@k, recall of distilled entries, and rankings.

Every system that searches ranks `recalled` best first. For two speakers the best of each are merged into one ranking,
so the first k entries are the best k of both; entries of other speakers come last. Other systems
(`SystemSpec.ranks`) order recalled entries by time, so nothing "at k" is measured for them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from memory_r1.evaluation.records import Prediction, RecalledEntry
from memory_r1.metrics import evidence_recall
from memory_r1.systems.table import SYSTEMS

RECALL_AT = (1, 3, 5, 10, 30)
"""Numbers of entries counted by `evidence_recall@k`."""
RANKING_AT = (5, 10)
"""Numbers of distinct sessions or turns counted by LongMemEval's retrieval metrics, as printed by its authors."""


def row_metrics(prediction: Prediction, benchmark: str, system: str) -> dict[str, float | None]:
    """Derive metrics from a row's evidence and entries; a row without evidence has none.

    `distilled_recall` is the evidence recall of the entries that the Answer Agent selected, `evidence_recall@k` that of
    the first k recalled. On LongMemEval, `session_*` and `turn_*` are `ranking_metrics`, which skip abstention
    questions as the authors do.
    """
    if not prediction.evidence:
        return {}
    metrics = {"distilled_recall": evidence_recall(prediction.evidence, source_turns(prediction.distilled))}
    if system in SYSTEMS and not SYSTEMS[system].ranks:
        return metrics
    for k in RECALL_AT:
        metrics[f"evidence_recall@{k}"] = evidence_recall(prediction.evidence, source_turns(prediction.recalled[:k]))
    if benchmark == "longmemeval" and not is_abstention(prediction.question_id):
        turns = source_turns(prediction.recalled)
        sessions = dict.fromkeys(session_of(turn_id) for turn_id in turns)
        wanted = {session_of(turn_id) for turn_id in prediction.evidence}
        metrics |= _named("session", wanted, list(sessions)) | _named("turn", set(prediction.evidence), turns)
    return metrics


def ranking_metrics(wanted: Collection[str], ranking: Sequence[str], k: int) -> dict[str, float]:
    """Compute LongMemEval's `recall_any`, `recall_all` and `ndcg` of the first `k` of a ranking (`eval_utils.py`).

    Its gain is discounted from rank 3 on: rank 1 counts 1, and rank i >= 2 counts 1 / log2(i).

    Args:
        wanted: Ids to find, at least one.
        ranking: Ids without repetition, best first. If the authors rank turns to score sessions, a session counts once
            per turn; here it counts once, at its first turn.
        k: Number of leading ids that count.
    """
    hits = [item in wanted for item in ranking[:k]]
    best = sum(_gain(place) for place in range(1, min(len(wanted), k) + 1))
    return {
        "recall_any": float(any(hits)),
        "recall_all": float(sum(hits) == len(wanted)),
        "ndcg": sum(_gain(place) for place, hit in enumerate(hits, start=1) if hit) / best,
    }


def source_turns(entries: Iterable[RecalledEntry]) -> list[str]:
    """Return the source turns of these entries, each once, in order of first occurrence."""
    return list(dict.fromkeys(turn_id for entry in entries for turn_id in entry.source_turn_ids))


def session_of(turn_id: str) -> str:
    """Return the session of a turn: the part of its id before the last colon."""
    return turn_id.rpartition(":")[0]


def is_abstention(question_id: str) -> bool:
    """Return whether this is one of LongMemEval's unanswerable questions."""
    return question_id.endswith("_abs")


def _named(unit: str, wanted: Collection[str], ranking: Sequence[str]) -> dict[str, float | None]:
    return {
        f"{unit}_{name}@{k}": value for k in RANKING_AT for name, value in ranking_metrics(wanted, ranking, k).items()
    }


def _gain(place: int) -> float:
    return 1.0 if place == 1 else 1 / math.log2(place)
