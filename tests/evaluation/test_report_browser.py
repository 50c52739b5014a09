"""The pages in a real browser: search, filters, links to a question, many questions, and a phone's width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry, RunInfo
from memory_r1.evaluation.report.write import write_comparison_report, write_report
from memory_r1.types import Dialogue, OperationKind, Session, Turn
from tests.report_pages import write_folder

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]

# As markup, this would load an image and rename the page.
HOSTILE = """</script><img src=x onerror="document.title='owned'"><script>document.title='owned'</script>"""
QUESTIONS = 100
RIGHT = range(0, QUESTIONS, 4)


def write_run(folder: Path, system: str = "memory-r1", right: range = RIGHT, questions: int = QUESTIONS) -> Path:
    """Write a run of one dialogue; question i has turn i as evidence, and every tenth turn was updated later."""
    turns = tuple(Turn(f"s1:{i}", "Ann", f"I own lamp{i} {HOSTILE}", "s1", "2023-05-08") for i in range(questions))
    rows, log = [], []
    for i, turn in enumerate(turns):
        entry = RecalledEntry(i, f"Ann owns memory{i} {HOSTILE}", (turn.turn_id,))
        metrics, said = {"exact_match": float(i in right), "f1_squad": 0.5}, (f"Which{i}? {HOSTILE}", "lamp")
        found = ((turn.turn_id,), (entry,), (entry,) if i % 3 else ())
        rows.append(Prediction(f"q{i}", "d1", str(i % 2), metrics, *said, f"answer{i} {HOSTILE}", *found, 10, 0.1))
        log.append(OperationRow("d1", turn.turn_id, OperationKind.ADD, i, entry.text, "applied"))
    log += [
        OperationRow("d1", "s1:99", OperationKind.UPDATE, i, f"revised{i}", "applied") for i in range(0, questions, 10)
    ]
    write_folder(folder, rows, log, RunInfo("synthetic", "test", system))
    write_report(folder, [Dialogue("d1", ("Ann",), (Session("s1", "2023-05-08", turns),))])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def dump(page: Path, profile: Path, fragment: str = "") -> str:
    """Return the page after its script has run."""
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--allow-file-access-from-files", f"--user-data-dir={profile}", "--window-size=1000,1000"),
        *("--virtual-time-budget=8000", "--dump-dom"),
    )
    command = [str(BROWSER), *options, page.as_uri() + fragment]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def chosen(**state: str) -> str:
    return "#" + urlencode(state)


def count(dom: str) -> str:
    found = re.search(r'id="count"[^>]*>([^<]*)<', dom)
    return found[1] if found else ""


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, 100),
        # Search covers the question, its answer, its recall and its turns, and all words must match.
        ({"search": "which42?"}, 1),
        ({"search": "ANSWER42"}, 1),
        ({"search": "memory42"}, 1),
        ({"search": "lamp42 owns"}, 1),
        ({"search": "lamp42 lamp43"}, 0),
        ({"verdict": "right"}, 25),
        ({"verdict": "wrong"}, 75),
        ({"category": "1"}, 50),
        ({"category": "1", "verdict": "right"}, 0),
        # Turns 0, 10, ..., 90, whose entries were updated later, and turn 99, which did it; 0, 20, ..., 80 are right.
        ({"operation": "UPDATE"}, 11),
        ({"operation": "UPDATE", "verdict": "wrong"}, 6),
        ({"step": "recalled but not selected"}, 25),
        ({"step": "no such step"}, 100),
    ],
)  # fmt: skip
def test_the_address_chooses_the_questions(folder: Path, tmp_path: Path, state: dict[str, str], expected: int) -> None:
    dom = dump(folder / "report.html", tmp_path, chosen(**state))
    assert count(dom) == f"{expected} of 100 questions"
    assert dom.count('<details class="question"') == min(expected, 40)
    assert "<title>memory-r1 on synthetic</title>" in dom and "<img" not in dom


def test_a_link_opens_its_question_even_where_the_filters_hide_it(folder: Path, tmp_path: Path) -> None:
    for state in ({}, {"verdict": "right"}):
        dom = dump(folder / "report.html", tmp_path, chosen(question="d1/q70", **state))
        [opened] = re.findall(r'<details class="question" open="">.*?</details></div>', dom, re.DOTALL)
        text = unescape(re.sub(r"<[^>]*>", " ", opened))
        # The turn with two neighbours on each side, its entry's later operations, and the unescaped text.
        assert all(f"I own lamp{i} " in text for i in range(68, 73)) and "lamp67 " not in text and "lamp73 " not in text
        assert "later, at s1:99" in text and "revised70" in text and "✓ stored" in text
        assert HOSTILE in text
        assert dom.count('<details class="question"') == 80


DRIVER = """<!doctype html><body><iframe id="frame" style="width:390px;height:800px"></iframe><pre id="found"></pre>
<script>
const frame = document.getElementById("frame");
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
frame.onload = async () => {
  const page = frame.contentDocument;
  const at = (id) => page.getElementById(id);
  const found = {};
  const tooWide = () => page.scrollingElement.scrollWidth - page.scrollingElement.clientWidth;
  found.tooWide = [tooWide()];
  found.start = page.querySelectorAll("details.question").length;
  at("more").click();
  found.more = page.querySelectorAll("details.question").length;
  page.dispatchEvent(new KeyboardEvent("keydown", { key: "/" }));
  found.focus = page.activeElement.id;
  at("search").value = "lamp4";
  at("search").dispatchEvent(new Event("input"));
  await wait(1000);
  found.typed = at("count").textContent;
  found.hash = frame.contentWindow.location.hash;
  page.querySelector("details.question > summary").click();
  await wait(200);
  found.opened = new URLSearchParams(frame.contentWindow.location.hash.slice(1)).get("question");
  found.tooWide.push(tooWide());
  at("clear").click();
  found.cleared = [at("count").textContent, frame.contentWindow.location.hash];
  document.getElementById("found").textContent = JSON.stringify(found);
};
frame.src = "PAGE";
</script>"""


def drive(page: Path, tmp_path: Path) -> dict[str, Any]:
    """Search, open and clear the page on a phone; return what happens."""
    driver = tmp_path / "driver.html"
    driver.write_text(DRIVER.replace("PAGE", page.as_uri()))
    found = re.search(r'id="found">([^<]+)<', dump(driver, tmp_path / "profile"))
    assert found, "the driver did not come to its end"
    content: dict[str, Any] = json.loads(unescape(found[1]))
    return content


def test_typing_searches_and_nothing_is_wider_than_a_phone(folder: Path, tmp_path: Path) -> None:
    found = drive(folder / "report.html", tmp_path)
    assert found["tooWide"] == [0, 0]
    assert (found["start"], found["more"]) == (40, 80)
    assert found["focus"] == "search"
    # lamp4 and lamp40 to lamp49.
    assert (found["typed"], found["hash"]) == ("11 of 100 questions", "#search=lamp4")
    assert found["opened"] == "d1/q4"
    assert found["cleared"] == ["100 of 100 questions", ""]


def test_runs_are_compared_question_by_question(folder: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", "rag", range(0, QUESTIONS, 5))
    page = write_comparison_report(tmp_path / "comparison.html", [folder, other])
    # 25 and 20 right, 5 of them (0, 20, ..., 80) in both.
    for state, expected in (
        ({"verdict": "differ"}, 35),
        ({"verdict": "right"}, 40),
        ({"verdict": "right", "run": "1"}, 20),
        ({"verdict": "differ", "run": "1", "step": "correct"}, 15),
    ):
        assert count(dump(page, tmp_path / "profile", chosen(**state))) == f"{expected} of 100 questions"
    found = drive(page, tmp_path)
    assert (found["tooWide"], found["typed"]) == ([0, 0], "11 of 100 questions")


def test_thousands_of_questions_are_shown_in_parts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", questions=3000)
    dom = dump(folder / "report.html", tmp_path / "profile", chosen(search="memory2999"))
    assert count(dom) == "1 of 3000 questions"
    found = drive(folder / "report.html", tmp_path)
    assert (found["start"], found["more"]) == (40, 80)
    # lamp4, lamp40 to lamp49 and lamp400 to lamp499.
    assert found["typed"] == "111 of 3000 questions"
