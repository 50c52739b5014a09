"""One dialogue turn by turn: what is read of it, and the page that shows it."""

from __future__ import annotations

from html import unescape
from pathlib import Path

from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry, RunInfo
from memory_r1.evaluation.report.played import PlayedDialogue
from memory_r1.evaluation.report.write import write_stage_report
from memory_r1.types import Dialogue, OperationKind, Session, Turn
from tests.report_pages import HOSTILE, Page, write_folder

DIALOGUE = Dialogue(
    "d1",
    ("Ann", "Ben"),
    (
        Session("s1", "2023-05-08", (Turn("s1:1", "Ann", f"I moved {HOSTILE}"), Turn("s1:2", "Ben", "Oh."))),
        Session("s2", "2023-06-01", (Turn("s2:1", "Ann", "And again."), Turn("s2:2", "Ben", "Again?"))),
    ),
)
OSLO = RecalledEntry(1, f"Ann moved to Oslo {HOSTILE}", ("s1:1",))
TEA = RecalledEntry(2, "Ann likes tea", ("s2:1",))


def question(number: int, category: str, dialogue_id: str = "d1") -> Prediction:
    asked, gold, given = f"Question {number}?", f"gold {number}", f"given {number}"
    return Prediction(
        f"q{number}", dialogue_id, category, {}, asked, gold, given, recalled=(OSLO, TEA), distilled=(OSLO,)
    )


def played(folder: Path) -> PlayedDialogue:
    log = [
        OperationRow("d1", "s1:1", OperationKind.ADD, 1, f"Ann moved to Oslo {HOSTILE}", "applied"),
        OperationRow("d1", "s1:1", None, None, None, "refused", "unknown_id"),
        OperationRow("d2", "s1:1", OperationKind.ADD, 7, "of another dialogue", "applied"),
        OperationRow("d1", "s1:2", OperationKind.NOOP, None, None, "applied"),
        OperationRow("d1", "s2:1", OperationKind.DELETE, 1, None, "applied"),
        OperationRow("d1", "s2:2", None, None, None, "parse_failure", "not_json", "not_json"),
    ]
    rows = [question(0, "recall", "d2"), *(question(n, name) for n, name in enumerate("aabcd", start=1))]
    return PlayedDialogue.read(write_folder(folder, rows, log, RunInfo("own", "all", "memory-r1")), DIALOGUE)


def test_operations_stand_by_their_turn_and_questions_differ_in_category(tmp_path: Path) -> None:
    shown = played(tmp_path)
    assert shown.operations == {
        "s1:1": (f"ADD #1: Ann moved to Oslo {HOSTILE}", "nothing (refused: unknown id)"),
        "s1:2": ("NOOP",),
        "s2:1": ("DELETE #1",),
        "s2:2": ("nothing (parse failure: not json)",),
    }
    assert [row.question_id for row in shown.questions] == ["q1", "q3", "q4"]


def test_the_stage_page_shows_turns_operations_and_questions_as_text(tmp_path: Path) -> None:
    page = Page(write_stage_report(tmp_path / "report.html", [], played=played(tmp_path / "run")))
    assert (page.count("script"), page.count("img")) == (0, 0)
    assert "2023-06-01" in page.text and unescape(HOSTILE) in page.text
    for text in ("And again.", "DELETE #1", "Question 3?", "given 3", "gold 3", "Ann likes tea"):
        assert text in page.text
    assert "Question 2?" not in page.text and "of another dialogue" not in page.text
    assert page.text.count("#1selected") == 3 and "#2selected" not in page.text
