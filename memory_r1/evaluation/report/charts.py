"""Charts of the reports: inline SVG that follows the page's colours.

SVG is built as an element tree, which escapes every text in it; colours are CSS classes, so that one drawing serves
the light and the dark page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

Points = Sequence[tuple[float, float]]
Columns = Sequence[tuple[str, Mapping[str, float]]]

# Wide charts span the page; narrow ones stand two in a row, or alone on a phone.
_WIDE, _NARROW = 720, 440
_HEIGHT = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 36
_SERIES_COLOURS = 5
# Values closer than this are drawn as one.
_FLAT = 1e-8
# From this ratio of the largest to the smallest on, a scatter's horizontal axis is logarithmic.
_LOGARITHMIC_FROM = 10


@dataclass(frozen=True, slots=True)
class _Plane:
    """Maps data to the drawing; the vertical axis goes from `low` to `high`, the horizontal from `start` to `end`."""

    start: float
    end: float
    low: float
    high: float
    width: int

    def x(self, value: float) -> float:
        share = (value - self.start) / ((self.end - self.start) or 1)
        return round(_LEFT + share * (self.width - _LEFT - _RIGHT), 2)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 2)


@dataclass(frozen=True, slots=True)
class Spot:
    """A dot of a scatter chart; `low` and `high` bound its `y`."""

    name: str
    x: float
    y: float
    low: float
    high: float


def stacked_columns(columns: Columns, x_label: str, y_label: str, narrow: bool = False) -> Markup:
    """Stacked columns: one (label, part to height) a column, parts stacked in the order of the mapping.

    A part named "parse failures" has the CSS class `part-parse-failures`.
    """
    ticks = _ticks(0, max((sum(parts.values()) for _, parts in columns), default=1.0))
    plane = _Plane(0, max(len(columns), 1), 0, ticks[-1], _NARROW if narrow else _WIDE)
    svg = _canvas(f"{y_label} by {x_label}", plane, ticks, x_label)
    width = plane.x(1) - plane.x(0)
    for number, (label, parts) in enumerate(columns):
        base = 0.0
        for part, height in parts.items():
            if height > 0:
                top, bottom = plane.y(base + height), plane.y(base)
                style = f"part-{part.replace(' ', '-').lower()}"
                place = {"x": plane.x(number) + width * 0.08, "width": width * 0.84, "y": top, "height": bottom - top}
                rect = _element(svg, "rect", **place, **{"class": style})
                _element(rect, "title").text = _printable(f"{x_label} {label}: {part} {height:.2f}")
                base += height
    # About six labels fit; the first and the last are always among them.
    step = max(1, math.ceil((len(columns) - 1) / 5))
    for number in sorted({*range(0, len(columns), step), len(columns) - 1} if columns else ()):
        _text(svg, (plane.x(number) + plane.x(number + 1)) / 2, _HEIGHT - _BOTTOM + 15, columns[number][0], "middle")
    return _markup(svg)


def lines(series: Mapping[str, Points], x_label: str, y_label: str) -> Markup:
    """Line chart: the (x, y) points of each series by its name; points that are not finite are left out.

    The first five series have the CSS classes `line-0` to `line-4`; further ones repeat them.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    everything = [point for points in finite.values() for point in points]
    xs, ys = [x for x, _ in everything] or [0, 1], [y for _, y in everything] or [0, 1]
    ticks, x_ticks = _ticks(min(ys), max(ys)), _ticks(min(xs), max(xs))
    plane = _Plane(min(xs), max(xs), ticks[0], ticks[-1], _NARROW)
    svg = _canvas(f"{y_label} by {x_label}", plane, ticks, x_label)
    for tick in x_ticks:
        if plane.start <= tick <= plane.end:
            _text(svg, plane.x(tick), _HEIGHT - _BOTTOM + 15, f"{tick:g}", "middle")
    for number, (name, points) in enumerate(finite.items()):
        style = f"line-{number % _SERIES_COLOURS}"
        path = " ".join(f"{plane.x(x)},{plane.y(y)}" for x, y in points)
        line = _element(svg, "polyline", points=path, fill="none", **{"class": style})
        _element(line, "title").text = _printable(name)
        for x, y in points if len(points) <= 60 else ():
            dot = _element(svg, "circle", cx=plane.x(x), cy=plane.y(y), r=2.5, **{"class": style})
            _element(dot, "title").text = _printable(f"{name}, {x_label} {x:g}: {y:.4g}")
    return _markup(svg)


def scatter(spots: Sequence[Spot], x_label: str, y_label: str) -> Markup:
    """One dot a spot with the interval of its `y`; the horizontal axis is logarithmic where it spans much."""
    lows, highs = [spot.low for spot in spots] or [0.0], [spot.high for spot in spots] or [1.0]
    ticks = _ticks(min(lows), max(highs))
    xs = [spot.x for spot in spots] or [1.0]
    scale = math.log10 if is_logarithmic(xs) else float
    start, end = scale(min(xs)), scale(max(xs))
    margin = 0.06 * (end - start) or 0.1 * abs(end) or 1.0
    plane = _Plane(start - margin, end + margin, ticks[0], ticks[-1], _WIDE)
    svg = _canvas(f"{y_label} by {x_label}", plane, ticks, x_label)
    x_ticks = _decades(min(xs), max(xs)) if scale is math.log10 else _ticks(plane.start, plane.end)
    for tick in x_ticks:
        if plane.start <= scale(tick) <= plane.end:
            _text(svg, plane.x(scale(tick)), _HEIGHT - _BOTTOM + 15, _compact(tick), "middle")
    taken: list[tuple[float, float, float]] = []
    for spot in sorted(spots, key=lambda spot: -spot.y):
        x, y = plane.x(scale(spot.x)), plane.y(spot.y)
        _element(svg, "line", x1=x, x2=x, y1=plane.y(spot.low), y2=plane.y(spot.high), **{"class": "whisker"})
        dot = _element(svg, "circle", cx=x, cy=y, r=4.5, **{"class": "spot"})
        _element(dot, "title").text = _printable(f"{spot.name}: {x_label} {spot.x:,.0f}, {y_label} {spot.y:.1f}")
        _place_label(svg, spot.name, x, y, taken)
    return _markup(svg)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether an axis of these values is to be logarithmic: where all are positive and they span a power of ten."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= _LOGARITHMIC_FROM


def _place_label(svg: Element, name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> None:
    """Write a name beside its dot, moved down until it covers no other; `taken` are left end, right end and height."""
    width = 7.0 * len(name)
    anchor = "start" if x + 9 + width < _WIDE else "end"
    left = x + 9 if anchor == "start" else x - 9 - width
    height = y + 4
    while any(left < end and start < left + width and abs(height - other) < 13 for start, end, other in taken):
        height += 2
    taken.append((left, left + width, height))
    _text(svg, x + 9 if anchor == "start" else x - 9, height, name, anchor)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around [low, high]; only the powers where that spans more than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [factor * 10.0**power for power in powers for factor in factors]


def _compact(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values that span [low, high], about `count` steps of 1, 2 or 5 times a power of ten."""
    if high - low < _FLAT:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < _FLAT:
        high = low + 1.0
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _canvas(title: str, plane: _Plane, ticks: Sequence[float], x_label: str) -> Element:
    shape = "chart wide" if plane.width == _WIDE else "chart"
    box = f"0 0 {plane.width} {_HEIGHT}"
    svg = Element("svg", {"viewBox": box, "role": "img", "class": shape, "aria-label": _printable(title)})
    right = plane.width - _RIGHT
    for tick in ticks:
        _element(svg, "line", x1=_LEFT, x2=right, y1=plane.y(tick), y2=plane.y(tick), **{"class": "grid"})
        _text(svg, _LEFT - 7, plane.y(tick) + 4, f"{tick:g}", "end")
    _text(svg, (_LEFT + right) / 2, _HEIGHT - 4, x_label, "middle")
    return svg


def _element(parent: Element, tag: str, **attributes: Any) -> Element:
    return SubElement(parent, tag, {name: _number(value) for name, value in attributes.items()})


def _number(value: Any) -> str:
    return f"{round(value, 2):g}" if isinstance(value, (int, float)) else str(value)


def _text(parent: Element, x: float, y: float, text: str, anchor: str) -> None:
    _element(parent, "text", x=x, y=y, **{"text-anchor": anchor}).text = _printable(text)


def _printable(text: str) -> str:
    """Without the control characters and lone surrogates that XML does not allow."""
    return "".join(character for character in text if character.isprintable())


def _markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))
