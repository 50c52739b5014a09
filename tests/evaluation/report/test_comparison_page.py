from __future__ import annotations

import re
from pathlib import Path

import pytest

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.records import OperationRow, Prediction, RunInfo
from memory_r1.evaluation.report.__main__ import main
from memory_r1.evaluation.report.comparison_page import by_category, differences, read_runs, tradeoff
from memory_r1.evaluation.report.write import write_comparison_report, write_report
from memory_r1.jsonl import rewrite_rows
from memory_r1.types import OperationKind
from tests.report_pages import HOSTILE, Page, embedded, write_folder

QUESTIONS = 10
LOG = [OperationRow("d1", "t1", OperationKind.ADD, 1, "Ann lives in Oslo", "applied")]


def evaluation(folder: Path, system: str, right: int, tokens: int = 100, questions: int = QUESTIONS) -> Path:
    """Write an evaluation whose first `right` questions are right; every other one is of category 2."""
    rows = []
    for number in range(questions):
        metrics = {"exact_match": float(number < right), "f1_squad": float(number < right)}
        rows.append(Prediction(f"q{number}", "d1", str(1 + number % 2), metrics, f"Which {HOSTILE}?", "Oslo", system))
    run = RunInfo("synthetic", "test", system, cost={"write_tokens": 0, "read_tokens": tokens, "model_calls": 1})
    return write_folder(folder, rows, LOG if system != "none" else [], run)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        evaluation(tmp_path / "runs" / name, system, right, tokens)
        for name, system, right, tokens in (("a", "none", 1, 100), ("b", "rag", 4, 2000), ("c", HOSTILE, 9, 500))
    ]


def test_the_page_shows_runs_side_by_side(folders: list[Path], tmp_path: Path) -> None:
    write_report(folders[1])
    page = Page(write_comparison_report(tmp_path / "page.html", folders, ["none", "rag", HOSTILE]))
    assert (page.count("script"), page.count("img")) == (2, 0)
    # Only the second run has a page to link to.
    assert [a["href"] for tag, a in page.tags if tag == "a" and ".html" in (a["href"] or "")] == ["runs/b/report.html"]
    # 3 and 8 of 10 questions more than the first run.
    assert "+30.0" in page.text and "+80.0" in page.text
    data = embedded(page)
    assert data["runs"] == ["none", "rag", HOSTILE]
    assert [answer["prediction"] for answer in data["questions"][3]["answers"]] == ["none", "rag", HOSTILE]
    assert [answer["step"] == "correct" for answer in data["questions"][3]["answers"]] == [False, True, True]
    for name in ("scoreboard", "by_category", "operations", "cost"):
        assert (tmp_path / f"page_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_less_the_first_run_on_the_same_questions(folders: list[Path]) -> None:
    first, second = differences(read_runs(folders), "exact_match")
    assert first is not None and second is not None
    assert (first.difference, first.wins, first.losses, first.ties) == (pytest.approx(0.3), 3, 0, 7)
    assert second.difference == pytest.approx(0.8)


def test_verdicts_of_two_judges_are_not_compared(folders: list[Path]) -> None:
    for folder, judge in zip(folders, ("one", "other", "one"), strict=True):
        rows = [
            {"dialogue_id": "d1", "question_id": f"q{i}", "rubric": "strict", "judge": judge, "verdict": True}
            for i in range(QUESTIONS)
        ]
        rewrite_rows(folder / "verdicts.jsonl", rows)
    other, same = differences(read_runs(folders), "judge")
    assert other is None
    assert same is not None and same.ties == QUESTIONS


def test_the_page_says_what_is_right_where_only_some_runs_were_judged(folders: list[Path], tmp_path: Path) -> None:
    row = {"dialogue_id": "d1", "question_id": "q0", "rubric": "strict", "judge": "one", "verdict": True}
    rewrite_rows(folders[0] / "verdicts.jsonl", [row])
    text = Page(write_comparison_report(tmp_path / "page.html", folders)).text
    assert "Right is what the judge accepted or, in a run without a judge, matches exactly" in text


def test_categories_hold_every_run_by_its_place(folders: list[Path]) -> None:
    rows = by_category(read_runs(folders), "exact_match")
    assert {category: row["n"] for category, row in rows.items()} == {"1": 5, "2": 5}
    # Of q0 to q3, which the second run gets right, two are of each category.
    assert [rows["1"][place]["mean"] for place in "012"] == pytest.approx([0.2, 0.4, 1.0])


def test_cost_counts_everything_that_a_question_needed(folders: list[Path]) -> None:
    assert [(spot.name, spot.x, round(spot.y)) for spot in tradeoff(read_runs(folders), "exact_match")] == [
        ("none", 10.0, 10), ("rag", 200.0, 40), (HOSTILE, 50.0, 90),
    ]  # fmt: skip


def test_runs_of_one_system_are_called_by_their_folders(folders: list[Path], tmp_path: Path) -> None:
    again = evaluation(tmp_path / "again", "rag", 5)
    assert [run.title for run in read_runs([folders[1], again])] == [str(folders[1]), str(again)]


def test_one_run_can_stand_alone(folders: list[Path], tmp_path: Path) -> None:
    text = Page(write_comparison_report(tmp_path / "page.html", folders[:1])).text
    assert "Differences" not in text and "keeps a log of operations" in text


@pytest.mark.parametrize(
    ("titles", "message"),
    [
        (("a", "b"), "2 titles for 3 folders"),
        (("a", "b", "a"), "two runs are called 'a'"),
    ],
)
def test_titles_that_do_not_fit_are_refused(folders: list[Path], titles: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_runs(folders, titles)


def test_other_questions_are_refused(folders: list[Path], tmp_path: Path) -> None:
    fewer = evaluation(tmp_path / "fewer", "bm25", 1, questions=9)
    with pytest.raises(DataError, match="questions were asked of one only, such as 'd1/q9'"):
        read_runs([*folders, fewer])
    with pytest.raises(ConfigurationError, match="no folder"):
        read_runs([])


def test_the_command_compares_several_folders(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "page.html"
    assert main([*map(str, folders), "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert re.search("3 runs on synthetic", path.read_text())
