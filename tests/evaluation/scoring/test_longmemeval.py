from __future__ import annotations

import pytest

from memory_r1.evaluation.records import Prediction
from memory_r1.evaluation.scoring.longmemeval import longmemeval_accuracies


def judged(name: str, kind: str, verdict: float | None) -> Prediction:
    return Prediction(name, name, kind, {"judge_longmemeval": verdict})


ROWS = [
    judged("q1", "temporal-reasoning", 1.0),
    judged("q2", "temporal-reasoning", 1.0),
    judged("q3", "temporal-reasoning", 0.0),
    judged("q4_abs", "temporal-reasoning", 0.0),
    judged("q5", "multi-session", 1.0),
    judged("q6_abs", "multi-session", 1.0),
    judged("q7", "multi-session", None),
    judged("q8_abs", "knowledge-update", None),
]


def test_accuracies_are_those_of_the_authors_script() -> None:
    found = longmemeval_accuracies(ROWS)
    assert found["overall_accuracy"]["mean"] == pytest.approx(4 / 6)
    # Temporal 2/4, multi-session 2/2 (its missing verdict is left out); knowledge-update has no verdict.
    assert found["task_averaged_accuracy"]["mean"] == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert found["abstention_accuracy"]["mean"] == 0.5
    assert (found["n_abstention"], found["missing_verdicts"]) == (3, 2)


def test_without_verdicts_there_is_no_accuracy() -> None:
    rows = [Prediction("q1", "q1", "multi-session", {"judge": 1.0, "judge_lenient": 1.0})]
    assert longmemeval_accuracies(rows) == {
        "overall_accuracy": None,
        "task_averaged_accuracy": None,
        "abstention_accuracy": None,
        "n_abstention": 0,
        "missing_verdicts": 1,
    }
