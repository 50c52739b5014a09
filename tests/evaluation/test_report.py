from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry, RunInfo, write_run
from memory_r1.evaluation.report import Curve, Sample, Stage, write_report, write_stage_report
from memory_r1.evaluation.report_data import cost_rows, operation_columns, part_counts, summed_parts
from memory_r1.evaluation.results import write_results
from memory_r1.evaluation.statistics import paired_difference
from memory_r1.jsonl import rewrite_rows
from memory_r1.types import Dialogue, OperationKind, Session, Turn

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"
METRICS = {"exact_match": 0.0, "f1_squad": 0.5, "f1_mem0": 0.25, "evidence_recall": None}
ENTRY = RecalledEntry(4, f"Ann moved {HOSTILE}", ("t1",))
OPERATIONS = (
    OperationRow("d1", "t1", OperationKind.ADD, 4, f"Ann moved {HOSTILE}", "applied"),
    OperationRow("d1", "t1", OperationKind.UPDATE, None, "x", "refused", "unknown_id"),
    OperationRow("d1", "t2", None, None, None, "parse_failure", "not_json", "not_json"),
    OperationRow("d1", "t3", None, None, None, "empty"),
    OperationRow("d2", "t1", OperationKind.NOOP, None, None, "applied"),
)
DIALOGUE = Dialogue(
    "d1", ("Ann",), (Session("s1", "2023-05-08", (Turn("t1", "Ann", f"I moved {HOSTILE}", "s1", "2023"),)),)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    common: dict[str, Any] = {"question": f"Where? {HOSTILE}", "gold": "Oslo", "prediction": HOSTILE}
    common |= {"evidence": ("t1",), "recalled": (ENTRY,), "distilled": (ENTRY,), "tokens": 40, "seconds": 0.5}
    rows = [Prediction(f"q{i}", f"d{i % 2 + 1}", HOSTILE, METRICS, **common) for i in range(4)]
    rows.append(Prediction("q9", "d1", "2", METRICS | {"exact_match": 1.0}, "Who?", "Ann", "Ann"))
    rewrite_rows(tmp_path / "predictions.jsonl", [row.to_dict() for row in rows])
    rewrite_rows(tmp_path / "operations.jsonl", [row.to_dict() for row in OPERATIONS])
    write_run(tmp_path, RunInfo("synthetic", "heldout", HOSTILE, config={"note": HOSTILE}))
    return tmp_path


class Page(HTMLParser):
    """Collects the tags of a page, and the content of its scripts as a browser would cut them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts.append(data)
        else:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def embedded(page: Page) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(page.scripts[0])
    return content


def test_hostile_text_never_becomes_markup(folder: Path) -> None:
    page = Page(write_report(folder, [DIALOGUE]))
    # The data and the page's own script; no image from the dialogue; no attribute that runs code.
    assert (page.count("script"), page.count("img")) == (2, 0)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert embedded(page)["questions"][0]["prediction"] == HOSTILE


def test_the_page_may_run_its_own_script_and_load_nothing(folder: Path) -> None:
    path = write_report(folder)
    page = Page(path)
    [policy] = [a["content"] or "" for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not [a for _, a in page.tags if a.get("src") or (a.get("href") or "").startswith("http")]
    assert "url(" not in path.read_text() and "@import" not in path.read_text()


def test_the_report_shows_scores_steps_and_figure(folder: Path) -> None:
    path = write_report(folder)
    page = Page(path)
    assert path == folder / "report.html"
    assert (folder / "by_category.png").read_bytes().startswith(b"\x89PNG")
    # One right answer of five: exact match 20.0; two dialogues: the interval is over questions.
    assert "20.0" in page.text and "over questions" in page.text
    assert [question["step"] for question in embedded(page)["questions"]] == ["selected but misread"] * 4 + ["correct"]
    steps = {attributes["data-step"] for _, attributes in page.tags if "data-step" in attributes}
    assert steps == {"selected but misread", "correct"}


def test_questions_refer_to_entries_and_evidence_turns_by_number_and_id(folder: Path) -> None:
    data = embedded(Page(write_report(folder, [DIALOGUE])))
    # Four questions recalled the same entry: it is embedded once.
    assert data["entries"] == [{"id": 4, "text": ENTRY.text, "sources": ["t1"]}]
    assert data["questions"][0]["recalled"] == [0] and data["questions"][0]["distilled"] == [4]
    turn = data["turns"]["d1"]["t1"]
    assert (turn["speaker"], turn["text"]) == ("Ann", f"I moved {HOSTILE}")
    assert [(row["op"], row["status"]) for row in turn["operations"]] == [("ADD", "applied"), ("UPDATE", "refused")]
    # Nothing is known of what was said in the other dialogue.
    assert "text" not in data["turns"]["d2"]["t1"]


def test_a_run_without_questions_or_operations_has_a_report(tmp_path: Path) -> None:
    rewrite_rows(tmp_path / "predictions.jsonl", [])
    rewrite_rows(tmp_path / "operations.jsonl", [])
    write_run(tmp_path, RunInfo("locomo", "test", "none"))
    text = Page(write_report(tmp_path)).text
    assert "No question was asked" in text and "no log of operations" in text


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
    assert page.count("polyline") == 2
    assert [a["href"] for tag, a in page.tags if tag == "a"] == ["../runs/a%20b/report.html"]
    # Of a prompt only the end is shown.
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
