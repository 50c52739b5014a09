from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import DataError
from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry, RunInfo, write_run
from memory_r1.evaluation.scoring.results import (
    changed_figures,
    compute_results,
    judges_of,
    main,
    question_dialogues,
    question_scores,
    scored_predictions,
    write_results,
)
from memory_r1.evaluation.scoring.statistics import paired_difference
from memory_r1.jsonl import rewrite_rows, write_json
from memory_r1.types import OperationKind

RUN = RunInfo(
    benchmark="locomo",
    split="test",
    system="memory-r1",
    model="base",
    manager="outputs/manager",
    answer=None,
    seed=5,
    config={"recall_per_speaker": 30},
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
        "audited", "verdicts", "operations", "cost", "git_revision", "config",
    ]  # fmt: skip
    assert (results["audited"], results["verdicts"]) == (None, None)
    names = ["exact_match", "f1_mem0", "f1_locomo", "f1_squad", "bleu1", "judge", "evidence_recall"]
    assert list(results["overall"]) == names
    # With one dialogue, questions are resampled, and every interval says so.
    assert list(results["overall"]["exact_match"]) == ["mean", "low", "high", "interval"]
    assert results["overall"]["exact_match"]["interval"] == "within-dialogue"
    assert list(results["by_category"]) == ["1", "2", "10"]
    assert list(results["by_category"]["1"]) == ["n", "names", *names]
    assert (results["benchmark"], results["answer"], results["seed"], results["git_revision"], results["config"]) == (
        "locomo", None, 5, "abc", {"recall_per_speaker": 30},
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


def test_what_a_run_counts_besides_is_kept(folder: Path) -> None:
    write_run(folder, replace(RUN, cost={"cut_entries": 3}))
    cost = compute_results(folder)["cost"]
    assert (cost["cut_entries"], cost["write_tokens"], cost["model_calls"]) == (3, 0, 0)


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


def judge(folder: Path, rubric: str, verdicts: dict[str, bool | None], model: str = "m") -> None:
    """Append verdicts, by question id of dialogue d1."""
    path = folder / "verdicts.jsonl"
    row: dict[str, Any]
    lines = []
    for question_id, verdict in verdicts.items():
        row = {"dialogue_id": "d1", "question_id": question_id, "rubric": rubric, "judge": model, "verdict": verdict}
        lines.append(json.dumps(row | {"reason": None if verdict is not None else "garbage"}) + "\n")
    path.write_text((path.read_text() if path.exists() else "") + "".join(lines))


def test_the_only_rubric_is_the_judge_and_a_missing_verdict_is_no_wrong_answer(folder: Path) -> None:
    # q4 was never judged, q3's verdict is missing: the mean is over q1 and q2.
    judge(folder, "strict", {"q1": True, "q2": False, "q3": None})
    results = compute_results(folder)
    assert results["overall"]["judge_strict"]["mean"] == results["overall"]["judge"]["mean"] == 0.5
    assert results["verdicts"] == {"judge_strict": {"judge": "m", "right": 1, "wrong": 1, "missing": 2}}
    assert results["by_category"]["2"]["judge"] is None


def test_of_several_rubrics_the_lenient_one_is_the_judge(folder: Path) -> None:
    judge(folder, "strict", dict.fromkeys(("q1", "q2", "q3", "q4"), False))
    judge(folder, "lenient", {"q1": True}, model="other")
    scored = {row.question_id: row.metrics for row in scored_predictions(folder)}
    assert (scored["q1"]["judge"], scored["q1"]["judge_strict"]) == (1.0, 0.0)
    # Only strict verdicts: two rubrics are not mixed in one mean.
    assert (scored["q2"]["judge"], scored["q2"]["judge_lenient"]) == (None, None)
    assert judges_of(folder) == {"judge_strict": "m", "judge_lenient": "other"}


def test_no_rubric_stands_for_the_judge_where_two_are_and_none_is_lenient(folder: Path) -> None:
    judge(folder, "strict", {"q1": True})
    judge(folder, "longmemeval", {"q1": True})
    assert compute_results(folder)["overall"]["judge"] is None


def test_metrics_that_follow_from_a_row_are_added_to_folders_of_any_age(folder: Path) -> None:
    entries = (RecalledEntry(1, "a", ("s1:1",)), RecalledEntry(2, "b", ("s1:2",)))
    row = replace(PREDICTIONS[0], evidence=("s1:2",), recalled=entries, distilled=entries[:1])
    rewrite_rows(folder / "predictions.jsonl", [row.to_dict()])
    overall = compute_results(folder)["overall"]
    added = [name for name in overall if "@" in name]
    assert added == [f"evidence_recall@{k}" for k in (1, 3, 5, 10, 30)]
    assert [overall[name]["mean"] for name in added] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert overall["distilled_recall"]["mean"] == 0.0
    # The file keeps the run's measurements.
    assert "distilled_recall" not in (folder / "predictions.jsonl").read_text()


def test_scores_are_given_without_the_questions_whose_gold_is_wrong(folder: Path) -> None:
    # q1 (right, category 1) has a wrong gold, q2 a wrong citation, and q9 was not asked.
    types = {"d1/q1": "TEMPORAL_ERROR", "d1/q2": "WRONG_CITATION", "d1/q9": "HALLUCINATION"}
    write_run(folder, replace(RUN, config={"audit": {"error_types": types}}))
    results = compute_results(folder)
    audited = results["audited"]
    assert (audited["excluded"], audited["ceiling"], audited["error_types"]) == (1, 0.75, {"TEMPORAL_ERROR": 1})
    assert audited["overall"]["exact_match"]["mean"] == pytest.approx(1 / 3)
    assert results["overall"]["exact_match"]["mean"] == 0.5
    assert list(audited["overall"]) == list(results["overall"])


def test_only_longmemeval_has_its_accuracies(folder: Path) -> None:
    judge(folder, "longmemeval", {"q1": True, "q2": False, "q4": True})
    assert "longmemeval" not in compute_results(folder)
    write_run(folder, replace(RUN, benchmark="longmemeval"))
    accuracies = compute_results(folder)["longmemeval"]
    # Categories 1 (q1, q4: both right), 10 (q2: wrong), 2 (q3: not judged).
    assert accuracies["overall_accuracy"]["mean"] == pytest.approx(2 / 3)
    assert (accuracies["task_averaged_accuracy"]["mean"], accuracies["missing_verdicts"]) == (0.5, 1)


def test_a_run_without_questions_has_results(folder: Path) -> None:
    rewrite_rows(folder / "predictions.jsonl", [])
    results = compute_results(folder)
    assert (results["n_questions"], results["by_category"], results["overall"]["f1_mem0"]) == (0, {}, None)
    assert results["cost"]["answer_seconds_p95"] == 0.0


def test_a_question_answered_twice_is_refused(folder: Path) -> None:
    rewrite_rows(folder / "predictions.jsonl", [row.to_dict() for row in (*PREDICTIONS, PREDICTIONS[1])])
    with pytest.raises(DataError, match=r"line 5: question 'd1/q2' is already in line 2"):
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


def test_rescoring_says_which_figures_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    assert "there was none before" in capsys.readouterr().out
    assert main([str(folder)]) == 0
    assert "the figures are the same as before" in capsys.readouterr().out
    stale = compute_results(folder)
    stale["overall"]["exact_match"]["mean"] = 0.75
    write_json(folder / "results.json", stale)
    assert main([str(folder)]) == 0
    assert "1 figures changed (overall.exact_match.mean)" in capsys.readouterr().out
    assert compute_results(folder) == json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({"a": {"b": 1.0, "c": None}}, {"a": {"b": 1.0, "c": None}, "new": 2}, []),
        ({"a": {"b": 1.0}, "gone": 1}, {"a": {"b": 1.5}}, ["a.b", "gone"]),
        ({"a": {"b": 1.0}}, {"a": None}, ["a.b"]),
        ({"a": None, "e": {}}, {"a": {"b": 1.0}, "e": {}}, ["a"]),
    ],
)
def test_changed_figures(before: dict[str, Any], after: dict[str, Any], changed: Iterable[str]) -> None:
    assert changed_figures(before, after) == changed


def test_damaged_results_are_replaced(folder: Path) -> None:
    (folder / "results.json").write_text('{"overall": ')
    assert main([str(folder)]) == 0
    assert json.loads((folder / "results.json").read_text())["n_questions"] == 4


def test_the_command_reports_a_bad_folder_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "memory_r1.evaluation.scoring.results", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and "predictions.jsonl: cannot be read" in result.stderr
    assert result.stderr.count("\n") == 1
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
