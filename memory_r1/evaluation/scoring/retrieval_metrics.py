"""What a row of `predictions.jsonl` says about retrieval: evidence recall@k, recall of the distilled, and rankings.

`recalled` is ranked best first by every system that searches. On two speakers it is one ranking of the best `top_k` of
each, merged, so the first k entries are the best k of both together; entries of nobody who speaks in the dialogue come
last. Systems in `UNRANKED_SYSTEMS` put what they recall in the order of time, so nothing "at k" is measured for them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from memory_r1.evaluation.records import Prediction, RecalledEntry
from memory_r1.metrics import evidence_recall

RECALL_AT = (1, 3, 5, 10, 30)
"""Entries counted by `evidence_recall@k`."""
RANKING_AT = (5, 10)
"""Distinct sessions or turns counted by LongMemEval's retrieval metrics, the two cuts that its authors print."""
UNRANKED_SYSTEMS = frozenset({"full-context", "oracle", "sliding-window", "add-only-newest-first"})


def row_metrics(prediction: Prediction, benchmark: str, system: str) -> dict[str, float | None]:
    """Metrics that follow from a row's evidence and entries; none where the row has no evidence to look for.

    `distilled_recall` is `evidence_recall` of the entries the Answer Agent selected, `evidence_recall@k` that of the
    first k recalled. On LongMemEval `session_*` and `turn_*` are `ranking_metrics`, which skip its abstention questions
    as the authors do.
    """
    if not prediction.evidence:
        return {}
    metrics = {"distilled_recall": evidence_recall(prediction.evidence, source_turns(prediction.distilled))}
    if system in UNRANKED_SYSTEMS:
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
    """LongMemEval's `recall_any`, `recall_all` and `ndcg` of the first `k` of a ranking (its `eval_utils.py`).

    Its gain discounts from the third place on: places 1 and 2 both count in full, place i >= 2 counts 1 / log2(i).

    Args:
        wanted: ids that should be found, at least one.
        ranking: ids without repetition, best first. Authors who rank turns to score sessions let a session count once a
            turn; here it stands once, where its first turn does.
        k: how many ids of the ranking count.
    """
    hits = [item in wanted for item in ranking[:k]]
    best = sum(_gain(place) for place in range(1, min(len(wanted), k) + 1))
    return {
        "recall_any": float(any(hits)),
        "recall_all": float(sum(hits) == len(wanted)),
        "ndcg": sum(_gain(place) for place, hit in enumerate(hits, start=1) if hit) / best,
    }


def source_turns(entries: Iterable[RecalledEntry]) -> list[str]:
    """The turns that these entries come from, each once, in the order in which they first occur."""
    return list(dict.fromkeys(turn_id for entry in entries for turn_id in entry.source_turn_ids))


def session_of(turn_id: str) -> str:
    """The session of a turn: what stands before the last colon of its id."""
    return turn_id.rpartition(":")[0]


def is_abstention(question_id: str) -> bool:
    """Whether this is one of LongMemEval's questions that cannot be answered."""
    return question_id.endswith("_abs")


def _named(unit: str, wanted: Collection[str], ranking: Sequence[str]) -> dict[str, float | None]:
    return {
        f"{unit}_{name}@{k}": value for k in RANKING_AT for name, value in ranking_metrics(wanted, ranking, k).items()
    }


def _gain(place: int) -> float:
    return 1.0 if place == 1 else 1 / math.log2(place)
