"""What charts look like is for the eye; here: what they say, and that anything can be drawn, the same each time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, fromstring

import pytest

from memory_r1.evaluation.report import charts
from memory_r1.evaluation.report.charts import Spot, inline_svg, is_logarithmic, save_png
from memory_r1.evaluation.report.pages import _environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERVAL = {"mean": 0.5, "low": 0.2, "high": 0.8}
ROW = {"n": 3, "names": {"locomo": "multi-hop", "mem0": "single-hop"}, "exact_match": INTERVAL, "judge": None}
# Markup, a broken formula to matplotlib, a script that its font lacks, what cannot be printed, and long.
HOSTILE = "x" * 200 + "\u8a18\u61b6 \x00\ud800 $\\frac{1$ </svg><script>alert(1)</script>"
COLUMNS = [("1", {"ADD": 1.0, "NOOP": 0.5}), ("4", {"ADD": 0.0, "NOOP": 1.0})]
SPOTS = [Spot("cheap", 10.0, 20.0, 15.0, 30.0), Spot("dear", 1000.0, 40.0, 30.0, 50.0)]

FIGURES: dict[str, Callable[[], Figure]] = {
    "scores": lambda: charts.draw_scores({HOSTILE: {HOSTILE: INTERVAL, "b": None}, "": {}}),
    "no scores": lambda: charts.draw_scores({}),
    "categories": lambda: charts.draw_categories(
        {HOSTILE: ROW, "2": ROW | {"exact_match": None}}, {"exact_match": HOSTILE, "judge": "J"}
    ),
    "no categories": lambda: charts.draw_categories({}, {}),
    "operations": lambda: charts.draw_operations({HOSTILE: COLUMNS, "one turn": COLUMNS[:1]}),
    "no operations": lambda: charts.draw_operations({}),
    "cost": lambda: charts.draw_cost({"answering": 3.0}, [0.1, 0.2]),
    "no cost": lambda: charts.draw_cost({"answering": 0.0}, []),
    "tradeoff": lambda: charts.draw_tradeoff([*SPOTS, Spot(HOSTILE, 50.0, 2.0, 2.0, 2.0)], HOSTILE, HOSTILE),
    "one free run": lambda: charts.draw_tradeoff([Spot("free", 0.0, 0.0, 0.0, 0.0)], "tokens", "F1"),
    "no tradeoff": lambda: charts.draw_tradeoff([], "tokens", "F1"),
    "lines": lambda: charts.draw_lines({HOSTILE: {HOSTILE: [(0, 1), (1, 2)], "b": [(3.0, -2.0)]}}, HOSTILE),
    "no lines": lambda: charts.draw_lines({"": {"loss": []}}, "step"),
    "no panels": lambda: charts.draw_lines({}, "step"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_chart_is_the_same_for_the_same_numbers_and_safe_in_a_page(name: str, tmp_path: Path) -> None:
    for number in (1, 2):
        save_png(FIGURES[name](), tmp_path / f"{number}.png")
    content = (tmp_path / "1.png").read_bytes()
    assert content.startswith(b"\x89PNG") and content == (tmp_path / "2.png").read_bytes()
    svg = inline_svg(FIGURES[name](), HOSTILE)
    assert svg == inline_svg(FIGURES[name](), HOSTILE)
    # Nothing but shapes and words, described, and nothing that reaches beyond the drawing.
    assert {element.tag for element in fromstring(svg).iter()} <= {"svg", "g", "defs", "path", "use", "text", "title"}
    assert fromstring(svg).get("role") == "img" and "<script" not in svg
    assert str(fromstring(svg).get("aria-label")).endswith("alert(1)</script>")
    assert "url(" not in svg and "://" not in svg and not [e for e in fromstring(svg).iter() if "id" in e.attrib]


def test_markup_and_formulas_in_a_name_are_shown_as_they_stand() -> None:
    name = r"<script> \$x$ & $\alpha$"
    drawings = (
        charts.draw_tradeoff([Spot(name, 1.0, 2.0, 2.0, 2.0)], "tokens", "F1"),
        charts.draw_lines({name: {"a": [(0, 1)]}}, "step"),
        charts.draw_lines({"": {name: [(0, 1)]}}, "step"),
        charts.draw_scores({"": {name: INTERVAL}}),
    )
    for figure in drawings:
        assert name in [text.text for text in fromstring(inline_svg(figure, "chart")).iter("text")]


def test_a_drawing_has_the_colours_of_its_page_light_or_dark() -> None:
    style = _environment().get_template("style.css.jinja").render()
    for draw in FIGURES.values():
        svg = inline_svg(draw(), "chart")
        assert not re.search('#[0-9a-f]{6}[;"]', svg)
        assert all(f"--{name}:" in style for name in re.findall(r"var\(--([a-z0-9-]+)\)", svg))


def tooltips(figure: Figure) -> list[str]:
    return [title.text or "" for title in fromstring(inline_svg(figure, "chart")).iter("title")]


def test_marks_say_what_they_stand_for_and_parts_of_no_height_are_not_drawn() -> None:
    figure = charts.draw_operations({"": COLUMNS}, legend=False)
    assert tooltips(figure) == ["turn 1: ADD 1.00", "turn 1: NOOP 0.50", "turn 4: NOOP 1.00"]
    # The turns stand where they belong, and NOOP upon ADD.
    middles = [(bar.get_x() + bar.get_width() / 2, bar.get_y(), bar.get_height()) for bar in figure.axes[0].patches]
    assert middles == [pytest.approx(place) for place in ((1, 0, 1), (1, 1, 0.5), (4, 0, 1))]


def test_a_spot_stands_at_its_cost_and_quality_within_its_interval() -> None:
    figure = charts.draw_tradeoff(SPOTS, "tokens", "F1")
    assert tooltips(figure) == ["cheap: tokens 10, F1 20.0", "dear: tokens 1,000, F1 40.0"]
    whiskers = [whisker.get_segments()[0].tolist() for whisker in figure.axes[0].collections]
    assert whiskers == [[[10, 15], [10, 30]], [[1000, 30], [1000, 50]]]
    assert figure.axes[0].get_xscale() == "log"


def test_points_that_are_not_finite_are_left_out() -> None:
    points = [(0, 0.0), (1, math.nan), (2, 0.5), (3, math.inf), (4, 1.0)]
    found = tooltips(charts.draw_lines({"": {"reward": points}}, "step"))
    assert found == ["reward", "reward, step 0: 0", "reward, step 2: 0.5", "reward, step 4: 1"]


def test_a_series_has_one_colour_in_all_panels() -> None:
    points = [(0.0, 1.0), (1.0, 2.0)]
    svg = inline_svg(charts.draw_lines({"both": {"a": points, "b": points}, "one": {"a": [], "b": points}}, "step"), "")
    groups = [group for group in fromstring(svg).iter("g") if group.findtext("title") in ("a", "b")]
    colours = [re.findall(r"stroke: var\(--([^)]+)", group.findall("path")[0].get("style", "")) for group in groups]
    assert colours == [["series-0"], ["series-1"], ["series-1"]]


@pytest.mark.parametrize(("values", "expected"), [([], False), ([0, 5, 500], False), ([1, 9], False), ([1, 10], True)])
def test_costs_that_span_a_power_of_ten_are_logarithmic(values: list[float], expected: bool) -> None:
    assert is_logarithmic(values) is expected


def test_names_of_equal_spots_do_not_cover_each_other() -> None:
    svg = inline_svg(charts.draw_tradeoff([Spot(f"run {i}", 5.0, 1.0, 1.0, 1.0) for i in range(4)], "tokens", "F1"), "")
    texts: list[Element] = [text for text in fromstring(svg).iter("text") if (text.text or "").startswith("run")]
    heights = sorted(float(text.get("y", "")) for text in texts)
    assert len(heights) == 4
    assert all(later - earlier > 9 for earlier, later in pairwise(heights))
