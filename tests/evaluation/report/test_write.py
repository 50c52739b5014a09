from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from memory_r1.evaluation.records import OperationRow, Prediction, RunInfo
from memory_r1.evaluation.report.__main__ import main
from memory_r1.evaluation.report.operations import cost_rows, operation_columns, part_counts, summed_parts
from memory_r1.evaluation.report.write import Curve, Sample, Stage, write_report, write_stage_report
from memory_r1.evaluation.scoring.results import write_results
from memory_r1.evaluation.scoring.statistics import paired_difference
from memory_r1.jsonl import rewrite_rows
from memory_r1.types import OperationKind
from tests.report_pages import (
    DIALOGUE,
    HOSTILE,
    OPERATIONS,
    Page,
    embedded,
    write_folder,
    write_hostile_folder,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hostile_folder(tmp_path)


def test_hostile_text_never_becomes_markup(folder: Path) -> None:
    page = Page(write_report(folder, [DIALOGUE]))
    # The data and the page's own script; no image from the dialogue; no attribute that runs code.
    assert (page.count("script"), page.count("img")) == (2, 0)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert embedded(page)["questions"][0]["answers"][0]["prediction"] == HOSTILE


def test_the_page_may_run_its_own_script_and_load_nothing(folder: Path) -> None:
    path = write_report(folder)
    page = Page(path)
    [policy] = [a["content"] or "" for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not [a for _, a in page.tags if a.get("src") or (a.get("href") or "").startswith("http")]
    assert "url(" not in path.read_text() and "@import" not in path.read_text()


def test_the_report_shows_scores_steps_and_figures(folder: Path) -> None:
    path = write_report(folder)
    page = Page(path)
    assert path == folder / "report.html"
    for name in ("scoreboard.png", "by_category.png", "operations.png", "cost.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    # One right answer of five: exact match 20.0; two dialogues: the interval is over questions.
    assert "20.0" in page.text and "over questions" in page.text
    ends = [question["answers"][0]["step"] for question in embedded(page)["questions"]]
    assert ends == ["selected but misread"] * 4 + ["correct"]
    steps = {attributes["data-step"] for _, attributes in page.tags if "data-step" in attributes}
    assert steps == {"selected but misread", "correct"}


def test_a_run_without_questions_or_operations_has_a_report(tmp_path: Path) -> None:
    text = Page(write_report(write_folder(tmp_path, [], [], RunInfo("locomo", "test", "none")))).text
    assert "No question was asked" in text and "no log of operations" in text


def test_drawn_again_from_the_folder_alone_the_page_is_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_report(folder, [DIALOGUE]).read_bytes()
    assert b"I moved" in before
    assert main([str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == before
    assert capsys.readouterr().out == f"wrote {folder / 'report.html'}\n"


def test_the_command_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "memory_r1.evaluation.report", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and "predictions.jsonl" in result.stderr
    assert result.stderr.count("\n") == 1


def test_both_namings_of_a_category_stand_beside_its_number(tmp_path: Path) -> None:
    names = {"1": {"locomo": "multi-hop", "mem0": "single-hop"}, "2": {"locomo": "temporal", "mem0": "temporal"}}
    rows = [Prediction(f"q{i}", "d1", str(i), {"f1_mem0": 0.5}) for i in (1, 2)]
    run = RunInfo("locomo", "test", "rag", category_names=names)
    page = Page(write_report(write_folder(tmp_path, rows, [], run)))
    assert "1, multi-hop (LoCoMo), single-hop (Mem0)" in page.text
    assert "2, temporaln = 1" in page.text


def test_verdicts_audited_gold_and_cuts_are_shown_where_there_are_any(tmp_path: Path) -> None:
    rows = [Prediction(f"q{i}", "d1", "1", {"f1_mem0": i / 4}) for i in range(5)]
    config = {"audit": {"error_types": {"d1/q0": "HALLUCINATION"}}}
    folder = write_folder(tmp_path, rows, [], RunInfo("locomo", "test", "rag", config=config, cost={"cut_entries": 7}))
    verdict = {"dialogue_id": "d1", "rubric": "strict", "judge": HOSTILE}
    rewrite_rows(folder / "verdicts.jsonl", [verdict | {"question_id": f"q{i}", "verdict": i > 2} for i in range(4)])
    text = re.sub(r"\s+", " ", Page(write_report(folder)).text)
    # Four of five golds are sound; without q0 the mean F1 is (1 + 2 + 3 + 4) / 16 instead of 10 / 20.
    assert "found the gold answer of 1 of these questions wrong: a perfect system would be right on 80.0%" in text
    assert "F1 (Mem0)50.062.5" in text
    # One right, three wrong, and the last question without a verdict.
    assert f"Judge, strict{HOSTILE}131" in text
    assert "Right is what the judge accepted" in text
    assert "to keep within the budget71.4" in text


def test_longmemeval_shows_its_own_accuracies(tmp_path: Path) -> None:
    rows = [Prediction(f"q{i}", f"q{i}", "multi-session", {"exact_match": 0.0}) for i in range(4)]
    folder = write_folder(tmp_path, rows, [], RunInfo("longmemeval", "test", "rag"))
    verdicts = [
        {"dialogue_id": f"q{i}", "question_id": f"q{i}", "rubric": "longmemeval", "judge": "m", "verdict": i == 0}
        for i in range(4)
    ]
    rewrite_rows(folder / "verdicts.jsonl", verdicts)
    text = Page(write_report(folder)).text
    assert "As LongMemEval scores it" in text and "Task-averaged25.0" in re.sub(r"\s+", "", text)


def test_operations_by_turn_are_means_over_dialogues() -> None:
    # First turns: d1 has an ADD and a refused UPDATE, d2 a NOOP; second and third turns exist in d1 only.
    columns = operation_columns(OPERATIONS)
    assert [label for label, _ in columns] == ["1", "2", "3"]
    assert columns[0][1] == {"ADD": 0.5, "UPDATE": 0, "DELETE": 0, "NOOP": 0.5, "refused": 0.5, "parse failures": 0}
    assert columns[1][1]["parse failures"] == 1.0
    assert set(columns[2][1].values()) == {0}


def test_long_dialogues_share_columns() -> None:
    # 81 turns in at most 40 columns: three turns each, 27 columns.
    rows = [OperationRow("d1", f"t{i}", OperationKind.ADD, i, "x", "applied") for i in range(81)]
    columns = operation_columns(rows)
    assert [label for label, _ in columns][:3] == ["1", "4", "7"]
    assert len(columns) == 27
    assert columns[0][1]["ADD"] == 1.0


def test_turns_that_were_only_played_make_no_chart() -> None:
    assert operation_columns(OPERATIONS[3:4]) == []


def test_parts_are_counted_apart() -> None:
    assert part_counts(OPERATIONS) == {
        "ADD": 1, "UPDATE": 0, "DELETE": 0, "NOOP": 1, "refused": 1, "parse failures": 1,
    }  # fmt: skip
    counts = {"ADD": 2, "UPDATE": 1, "DELETE": 0, "NOOP": 4, "parse_failures": 3, "unknown_ids": 5}
    assert summed_parts(counts) == {
        "ADD": 2, "UPDATE": 1, "DELETE": 0, "NOOP": 4, "unknown ids": 5, "parse failures": 3,
    }  # fmt: skip


def test_costs_are_shared_out_over_the_questions() -> None:
    cost = {
        "write_tokens": 1000, "read_tokens": 50, "model_calls": 4, "answer_seconds_p50": 0.25, "answer_seconds_p95": 1,
    }  # fmt: skip
    rows = cost_rows(cost, 4)
    assert rows[0] == ("Tokens, building memory", "1,000", "250.0")
    assert rows[3] == ("Seconds to answer, median", "", "0.250")
    assert len(rows) == 5
    cut = cost_rows(cost | {"cut_entries": 2, "cut_writing": 0}, 4)
    assert [row[1:] for row in cut[3:4]] == [("2", "0.5")] and len(cut) == 6


def interval(mean: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "interval": "within-dialogue"}


def test_the_stage_report_compares_stages(tmp_path: Path) -> None:
    stages = [
        Stage("base", 40, {"exact_match": interval(0.125), "judge": None}, {"ADD": 9, "parse_failures": 3}),
        Stage("GRPO <b>", 40, {"exact_match": interval(0.5)}, report=tmp_path / "runs" / "a b" / "report.html"),
    ]
    worse, better = dict.fromkeys("abcdefghij", 0.0), dict.fromkeys("abcdefghij", 1.0)
    path = write_stage_report(
        tmp_path / "out" / "report.html",
        stages,
        samples=[
            Sample("memory manager", "base", "x" * 5000 + "END", HOSTILE, 0.5),
            Sample("answer", "base", "p", "c"),
        ],
        curves=[Curve("Mean reward", {"manager": [(1, 0.1), (2, 0.4)], "answer agent": [(1, 0.2), (2, 0.3)]})],
        differences={"exact match, GRPO less base": paired_difference(better, worse), "judge": None},
        facts={"model": HOSTILE, "absent": None},
        title="Demo",
    )
    page = Page(path)
    assert (page.count("script"), page.count("img"), page.count("b")) == (0, 0, 2)
    assert "12.5" in page.text and "2.5 \u2013 22.5" in page.text and "GRPO <b>" in page.text
    # Ten wins of ten: p = 2 / 2**10 = 0.00195.
    assert "+100.0" in page.text and "0.002" in page.text
    assert "reward 0.50" in page.text and page.text.count("reward ") == 1
    assert "over questions" in page.text and "absent" not in page.text
    assert page.count("svg") == 1 and "manager, step 2: 0.4" in page.text
    assert [a["href"] for tag, a in page.tags if tag == "a"] == ["../runs/a%20b/report.html"]
    # Only the end of a prompt is shown.
    assert "xEND" in page.text and page.text.count("x" * 1497 + "END") == 1 and "x" * 1498 not in page.text
    assert unescape(HOSTILE) in page.text


def test_a_stage_is_read_from_an_evaluation_folder(folder: Path) -> None:
    write_results(folder)
    assert Stage.from_folder("base", folder).report is None
    write_report(folder)
    stage = Stage.from_folder("base", folder)
    assert (stage.n_questions, stage.report) == (5, folder / "report.html")
    assert stage.metrics["exact_match"] is not None and stage.metrics["exact_match"]["mean"] == pytest.approx(0.2)
    assert stage.operations["ADD"] == 1


def test_the_smallest_stage_report_can_be_drawn(tmp_path: Path) -> None:
    text = Page(write_stage_report(tmp_path / "report.html", [])).text
    assert "Before and after" in text and not re.search("Training|Completions|Differences", text)
