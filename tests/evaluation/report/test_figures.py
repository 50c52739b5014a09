"""What figures show is for the eye; here: they are drawn of anything, and are the same for the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memory_r1.evaluation.report import figures
from memory_r1.evaluation.report.charts import Spot

INTERVAL = {"mean": 0.5, "low": 0.2, "high": 0.8}
ROW = {"n": 3, "names": {"locomo": "multi-hop", "mem0": "single-hop"}, "exact_match": INTERVAL, "judge": None}
# A broken formula to matplotlib, in a script that its font lacks, with what cannot be printed, and long.
TITLE = "$\\frac{1$ \u8a18\u61b6 \x00" + "x" * 200
COLUMNS = [("1", {"ADD": 1.0, "NOOP": 0.5}), ("4", {"ADD": 0.0, "NOOP": 1.0})]

FIGURES: dict[str, Callable[[Path], None]] = {
    "scores": lambda path: figures.save_score_figure({TITLE: {"a": INTERVAL, "b": None}, "": {}}, path),
    "no scores": lambda path: figures.save_score_figure({}, path),
    "categories": lambda path: figures.save_category_figure(
        {TITLE: ROW, "2": ROW | {"exact_match": None}}, {"exact_match": TITLE, "judge": "J"}, path
    ),
    "no categories": lambda path: figures.save_category_figure({}, {}, path),
    "operations": lambda path: figures.save_operations_figure({TITLE: COLUMNS, "one turn": COLUMNS[:1]}, path),
    "no operations": lambda path: figures.save_operations_figure({}, path),
    "cost": lambda path: figures.save_cost_figure({"answering": 3.0}, [0.1, 0.2], path),
    "no cost": lambda path: figures.save_cost_figure({"answering": 0.0}, [], path),
    "tradeoff": lambda path: figures.save_tradeoff_figure(
        [Spot(TITLE, 1.0, 2.0, 1.0, 3.0), Spot("b", 50.0, 2.0, 2.0, 2.0)], "tokens", "F1", path
    ),
    "no tradeoff": lambda path: figures.save_tradeoff_figure([], "tokens", "F1", path),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_png_that_depends_on_its_numbers_alone(name: str, tmp_path: Path) -> None:
    FIGURES[name](tmp_path / "first.png")
    FIGURES[name](tmp_path / "second.png")
    content = (tmp_path / "first.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content == (tmp_path / "second.png").read_bytes()
