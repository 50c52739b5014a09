"""Parsed report pages, and small evaluation folders to draw them from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry, RunInfo, write_run
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


def write_folder(folder: Path, rows: Sequence[Prediction], operations: Sequence[OperationRow], run: RunInfo) -> Path:
    """Write an evaluation folder with only these records."""
    rewrite_rows(folder / "predictions.jsonl", [row.to_dict() for row in rows])
    rewrite_rows(folder / "operations.jsonl", [row.to_dict() for row in operations])
    write_run(folder, run)
    return folder


def write_hostile_folder(folder: Path) -> Path:
    """Write five questions, four of them wrong, with markup in every text of the evaluation."""
    common: dict[str, Any] = {"question": f"Where? {HOSTILE}", "gold": "Oslo", "prediction": HOSTILE}
    common |= {"evidence": ("t1",), "recalled": (ENTRY,), "distilled": (ENTRY,), "tokens": 40, "seconds": 0.5}
    rows = [Prediction(f"q{i}", f"d{i % 2 + 1}", HOSTILE, METRICS, **common) for i in range(4)]
    rows.append(Prediction("q9", "d1", "2", METRICS | {"exact_match": 1.0}, "Who?", "Ann", "Ann"))
    return write_folder(folder, rows, OPERATIONS, RunInfo("synthetic", "heldout", HOSTILE, config={"note": HOSTILE}))


class Page(HTMLParser):
    """Collects the tags of a page and its scripts as a browser would cut them."""

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
    """Return the data that the page's script reads."""
    content: dict[str, Any] = json.loads(page.scripts[0])
    return content
