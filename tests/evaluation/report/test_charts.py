from __future__ import annotations

import math
from itertools import pairwise
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_r1.evaluation.report.charts import Spot, _ticks, is_logarithmic, lines, scatter, stacked_columns


def elements(svg: str, tag: str) -> list[Element]:
    return list(fromstring(svg).iter(tag))


def test_columns_stack_parts_in_order_and_to_scale() -> None:
    svg = stacked_columns([("1", {"ADD": 1.0, "NOOP": 3.0}), ("2", {"ADD": 0.0, "NOOP": 2.0})], "turn", "operations")
    rects = elements(svg, "rect")
    # A part of no height is not drawn.
    assert [rect.get("class") for rect in rects] == ["part-add", "part-noop", "part-noop"]
    add, noop, second = ({name: float(rect.get(name, "")) for name in ("x", "y", "height")} for rect in rects)
    assert noop["height"] == pytest.approx(3 * add["height"], abs=0.1)
    assert second["height"] == pytest.approx(2 * add["height"], abs=0.1)
    assert noop["y"] + noop["height"] == pytest.approx(add["y"], abs=0.1)
    assert second["x"] > add["x"] == noop["x"]


def test_parts_become_css_classes() -> None:
    svg = stacked_columns([("1", {"parse failures": 1.0})], "turn", "operations")
    assert elements(svg, "rect")[0].get("class") == "part-parse-failures"


def test_few_column_labels_are_shown_the_last_among_them() -> None:
    svg = stacked_columns([(str(i), {"ADD": 1.0}) for i in range(1, 41)], "turn", "operations")
    labels = [text.text for text in elements(svg, "text") if text.get("text-anchor") == "middle"]
    # Every eighth of 40 (39 / 5 rounded up), the last, and the name of the axis.
    assert sorted(labels) == sorted(["turn", "1", "9", "17", "25", "33", "40"])


def test_lines_rise_to_the_right_and_leave_out_what_is_not_finite() -> None:
    svg = lines({"reward": [(0, 0.0), (1, math.nan), (2, 0.5), (3, math.inf), (4, 1.0)]}, "step", "reward")
    [line] = elements(svg, "polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    assert len(points) == 3
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    # SVG counts downwards.
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)


def test_the_sixth_line_takes_the_first_colour_again() -> None:
    svg = lines({str(i): [(0, i), (1, i)] for i in range(6)}, "step", "value")
    assert [line.get("class") for line in elements(svg, "polyline")][-2:] == ["line-4", "line-0"]


@pytest.mark.parametrize("series", [{}, {"loss": []}, {"loss": [(3.0, 0.0)]}, {"loss": [(0.0, -2.0), (1.0, -2.0)]}])
def test_charts_of_next_to_nothing_can_be_drawn(series: dict[str, list[tuple[float, float]]]) -> None:
    assert elements(lines(series, "step", "loss"), "line")


def test_an_empty_column_chart_can_be_drawn() -> None:
    assert not elements(stacked_columns([], "turn", "operations"), "rect")


def test_text_is_escaped() -> None:
    hostile = "</svg><script>alert(1)</script>\x00"
    for svg in (
        lines({hostile: [(0, 1), (1, 2)]}, hostile, hostile),
        stacked_columns([(hostile, {"ADD": 1})], "x", "y"),
        scatter([Spot(hostile, 1.0, 1.0, 1.0, 1.0)], "x", "y"),
    ):
        assert "<script" not in svg
        assert not elements(svg, "script")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 4, [0, 1, 2, 3, 4]), (-0.1, 0.8, [-0.5, 0, 0.5, 1]), (0, 0, [0, 0.5, 1])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    # Steps of 1, 2 or 5 times a power of ten, at least (high - low) / 4.
    assert _ticks(low, high) == expected


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_span_the_values(first: float, second: float) -> None:
    low, high = min(first, second), max(first, second)
    ticks = _ticks(low, high)
    slack = 1e-6 * max(1.0, high - low)
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 7


SPOTS = [Spot("cheap", 10.0, 20.0, 15.0, 30.0), Spot("dear", 1000.0, 40.0, 30.0, 50.0)]


def test_spots_stand_where_cost_and_quality_put_them() -> None:
    svg = scatter([*SPOTS, Spot("between", 100.0, 30.0, 30.0, 30.0)], "tokens", "F1")
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in elements(svg, "circle")]
    (best_x, best_y), (middle_x, _), (cheap_x, cheap_y) = dots
    assert best_x > cheap_x and best_y < cheap_y
    # 10, 100 and 1000 stand at equal distances: the axis is logarithmic.
    assert middle_x == pytest.approx((best_x + cheap_x) / 2, abs=0.1)
    whiskers = [line for line in elements(svg, "line") if line.get("class") == "whisker"]
    assert len(whiskers) == 3


def test_a_narrow_span_of_costs_is_linear() -> None:
    svg = scatter([Spot(str(x), x, 1.0, 1.0, 1.0) for x in (100.0, 200.0, 300.0)], "tokens", "F1")
    first, second, third = (float(dot.get("cx", "")) for dot in elements(svg, "circle"))
    assert second - first == pytest.approx(third - second, abs=0.1)


@pytest.mark.parametrize(("values", "expected"), [([], False), ([0, 5, 500], False), ([1, 9], False), ([1, 10], True)])
def test_costs_that_span_a_power_of_ten_are_logarithmic(values: list[float], expected: bool) -> None:
    assert is_logarithmic(values) is expected


def test_names_of_equal_spots_do_not_cover_each_other() -> None:
    svg = scatter([Spot(f"run {i}", 5.0, 1.0, 1.0, 1.0) for i in range(4)], "tokens", "F1")
    heights = sorted(float(text.get("y", "")) for text in elements(svg, "text") if (text.text or "").startswith("run"))
    assert len(heights) == 4
    assert all(later - earlier >= 13 for earlier, later in pairwise(heights))


@pytest.mark.parametrize("spots", [[], SPOTS[:1], [Spot("free", 0.0, 0.0, 0.0, 0.0)]])
def test_scatters_of_next_to_nothing_can_be_drawn(spots: list[Spot]) -> None:
    assert len(elements(scatter(spots, "tokens", "F1"), "circle")) == len(spots)


def test_large_costs_are_written_short() -> None:
    labels = {text.text for text in elements(scatter(SPOTS, "tokens", "F1"), "text")}
    assert {"10", "100", "1k"} <= labels
