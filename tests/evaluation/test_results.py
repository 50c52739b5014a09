from __future__ import annotations

import json
from pathlib import Path

import pytest

from memory_r1.errors import DataError
from memory_r1.evaluation.records import OperationRow, Prediction, RunInfo, write_run
from memory_r1.evaluation.results import (
    compute_results,
    main,
    question_dialogues,
    question_scores,
    write_results,
)
from memory_r1.evaluation.statistics import paired_difference
from memory_r1.jsonl import rewrite_rows
from memory_r1.types import OperationKind

RUN = RunInfo(
    benchmark="locomo",
    split="test",
    system="memory-r1",
    model="base",
    manager="outputs/manager",
    answer=None,
    seed=5,
    config={"top_k": 30},
    git_revision="abc",
    versions={"torch": "2"},
    cost={"write_tokens": 100, "read_tokens": 40, "model_calls": 7},
    category_names={"1": {"locomo": "multi-hop", "mem0": "single-hop"}},
)


def prediction(number: int, category: str, exact: float, recall: float | None, dialogue: str = "d1") -> Prediction:
    metrics = dict.fromkeys(("exact_match", "f1_mem0", "f1_locomo", "f1_squad", "bleu1"), exact)
    return Prediction(
        f"q{number}", dialogue, category, {**metrics, "evidence_recall": recall}, seconds=float(number), tokens=10
    )


PREDICTIONS = (
    prediction(1, "1", 1.0, 0.5),
    prediction(2, "10", 0.0, None),
    prediction(3, "2", 1.0, None),
    prediction(4, "1", 0.0, 1.0),
)
OPERATIONS = (
    OperationRow("d1", "s1:1", OperationKind.ADD, 1, "a", "applied"),
    OperationRow("d1", "s1:1", OperationKind.ADD, 2, "b", "applied"),
    OperationRow("d1", "s1:2", OperationKind.UPDATE, 1, "c", "applied"),
    OperationRow("d1", "s1:2", OperationKind.DELETE, None, None, "refused", "unknown_id"),
    OperationRow("d1", "s1:2", OperationKind.ADD, None, "", "refused", "empty_text"),
    OperationRow("d1", "s1:3", None, None, None, "refused", "not_json", "not_json"),
    OperationRow("d1", "s1:4", None, None, None, "parse_failure", "empty"),
    OperationRow("d1", "s1:5", OperationKind.NOOP, None, None, "applied"),
    OperationRow("d1", "s1:6", None, None, None, "empty"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rewrite_rows(tmp_path / "predictions.jsonl", [row.to_dict() for row in PREDICTIONS])
    rewrite_rows(tmp_path / "operations.jsonl", [row.to_dict() for row in OPERATIONS])
    write_run(tmp_path, RUN)
    return tmp_path


def test_results_have_exactly_the_published_shape(folder: Path) -> None:
    results = compute_results(folder)
    assert list(results) == [
        "benchmark", "split", "system", "model", "manager", "answer", "seed", "n_questions", "overall", "by_category",
        "operations", "cost", "git_revision", "config",
    ]  # fmt: skip
    names = ["exact_match", "f1_mem0", "f1_locomo", "f1_squad", "bleu1", "judge", "evidence_recall"]
    assert list(results["overall"]) == names
    # One dialogue: questions are resampled, and every interval says so.
    assert list(results["overall"]["exact_match"]) == ["mean", "low", "high", "interval"]
    assert results["overall"]["exact_match"]["interval"] == "within-dialogue"
    assert list(results["by_category"]) == ["1", "2", "10"]
    assert list(results["by_category"]["1"]) == ["n", "names", *names]
    assert (results["benchmark"], results["answer"], results["seed"], results["git_revision"], results["config"]) == (
        "locomo", None, 5, "abc", {"top_k": 30},
    )  # fmt: skip


def test_means_are_over_the_questions_to_which_a_metric_applies(folder: Path) -> None:
    results = compute_results(folder)
    assert results["n_questions"] == 4
    assert results["overall"]["exact_match"]["mean"] == 0.5
    # 0.5 and 1.0; two questions have no evidence.
    assert results["overall"]["evidence_recall"]["mean"] == 0.75
    assert results["overall"]["judge"] is None
    assert results["by_category"]["1"]["n"] == 2
    assert results["by_category"]["1"]["names"] == {"locomo": "multi-hop", "mem0": "single-hop"}
    assert results["by_category"]["2"]["names"] == {}
    assert results["by_category"]["2"]["f1_squad"]["mean"] == 1.0
    assert results["by_category"]["2"]["evidence_recall"] is None


def test_operations_are_counted_by_what_became_of_them(folder: Path) -> None:
    assert compute_results(folder)["operations"] == {
        "ADD": 2, "UPDATE": 1, "DELETE": 0, "NOOP": 1, "parse_failures": 2, "unknown_ids": 1,
    }  # fmt: skip


def test_cost_comes_from_the_run_and_the_seconds_of_its_questions(folder: Path) -> None:
    # Seconds 1, 2, 3, 4: the median lies between 2 and 3, the 95th percentile at position 0.95 * 3 = 2.85.
    cost = compute_results(folder)["cost"]
    assert cost == pytest.approx(
        {
            "write_tokens": 100, "read_tokens": 40, "model_calls": 7, "answer_seconds_p50": 2.5,
            "answer_seconds_p95": 3.85,
        }
    )  # fmt: skip


def test_twenty_dialogues_are_resampled_as_such(folder: Path) -> None:
    rows = [prediction(i, "1", float(i % 2), None, f"d{i % 20}") for i in range(60)]
    rewrite_rows(folder / "predictions.jsonl", [row.to_dict() for row in rows])
    assert "interval" not in compute_results(folder)["overall"]["exact_match"]


def test_judge_and_other_metrics_show_once_the_rows_carry_them(folder: Path) -> None:
    row = PREDICTIONS[0].to_dict()
    row["metrics"] = {"judge": True, "distilled_recall": 0.25}
    rewrite_rows(folder / "predictions.jsonl", [row])
    overall = compute_results(folder)["overall"]
    assert overall["judge"]["mean"] == 1.0
    assert list(overall)[-1] == "distilled_recall" and overall["distilled_recall"]["mean"] == 0.25
    assert overall["exact_match"] is None


def test_a_run_without_questions_has_results(folder: Path) -> None:
    rewrite_rows(folder / "predictions.jsonl", [])
    results = compute_results(folder)
    assert (results["n_questions"], results["by_category"], results["overall"]["f1_mem0"]) == (0, {}, None)
    assert results["cost"]["answer_seconds_p95"] == 0.0


def test_a_question_answered_twice_is_refused(folder: Path) -> None:
    rewrite_rows(folder / "predictions.jsonl", [row.to_dict() for row in (*PREDICTIONS, PREDICTIONS[1])])
    with pytest.raises(DataError, match=r"line 5: question 'd1/q2' stands in line 2 already"):
        compute_results(folder)


def test_the_same_question_id_in_two_dialogues_is_two_questions(folder: Path) -> None:
    rows = [prediction(1, "1", 1.0, None, "d1"), prediction(1, "1", 0.0, None, "d2")]
    rewrite_rows(folder / "predictions.jsonl", [row.to_dict() for row in rows])
    assert compute_results(folder)["n_questions"] == 2


def test_rescoring_an_unchanged_folder_changes_no_byte(folder: Path) -> None:
    path = write_results(folder)
    first = path.read_bytes()
    assert main([str(folder)]) == 0
    assert path.read_bytes() == first
    assert json.loads(first) == compute_results(folder)


def test_the_command_reports_a_bad_folder_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path)]) == 1
    assert "predictions.jsonl: cannot be read" in caplog.text
    assert not (tmp_path / "results.json").exists()


def test_two_runs_compare_question_by_question() -> None:
    worse = [prediction(i, "1", 0.0, None) for i in range(1, 5)]
    keys = [f"d1/q{i}" for i in range(1, 5)]
    assert question_scores(worse, "exact_match") == dict.fromkeys(keys, 0.0)
    assert question_scores(worse, "judge") == dict.fromkeys(keys)
    better = [prediction(i, "1", float(i < 4), None) for i in range(1, 5)]
    result = paired_difference(
        question_scores(better, "exact_match"), question_scores(worse, "exact_match"), question_dialogues(worse)
    )
    assert result is not None
    assert (result.difference, result.wins, result.ties, result.interval.within_dialogue) == (0.75, 3, 1, True)
