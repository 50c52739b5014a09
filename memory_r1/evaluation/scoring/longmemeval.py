"""LongMemEval's own accuracies, from its rubric's verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_r1.evaluation.records import Prediction
from memory_r1.evaluation.scoring.retrieval_metrics import is_abstention
from memory_r1.evaluation.scoring.statistics import Interval, averaged_interval, bootstrap_interval

VERDICT = "judge_longmemeval"


def longmemeval_accuracies(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return overall, task-averaged and abstention accuracy as the authors define them (`print_qa_metrics.py`).

    Overall is the mean over all questions, including abstention questions. Task-averaged is the mean of the means by
    question type, in which an abstention question counts under its type. Abstention is the mean over abstention
    questions. All are None without verdicts of LongMemEval's rubric. Missing verdicts are excluded and counted.
    """
    by_type: dict[str, list[float | None]] = {}
    for prediction in predictions:
        by_type.setdefault(prediction.category, []).append(_verdict(prediction))
    abstention = [prediction for prediction in predictions if is_abstention(prediction.question_id)]
    return {
        "overall_accuracy": _accuracy(predictions),
        "task_averaged_accuracy": _to_dict(averaged_interval(list(by_type.values()))),
        "abstention_accuracy": _accuracy(abstention),
        "n_abstention": len(abstention),
        "missing_verdicts": sum(_verdict(prediction) is None for prediction in predictions),
    }


def _accuracy(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    groups = [prediction.dialogue_id for prediction in predictions]
    return _to_dict(bootstrap_interval([_verdict(prediction) for prediction in predictions], groups))


def _verdict(prediction: Prediction) -> float | None:
    return prediction.metrics.get(VERDICT)


def _to_dict(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else interval.to_dict()
