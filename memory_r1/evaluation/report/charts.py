"""The charts of evaluations and trainings: each is drawn once, as a matplotlib figure, for a PNG file and for a page.

No pyplot, whose global state outlives the call. Matplotlib is slow to import, so only what draws imports it.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from markupsafe import Markup

from memory_r1.evaluation.report.pages import category_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
Columns = Sequence[tuple[str, Mapping[str, float]]]
Intervals = Mapping[str, Mapping[str, Any] | None]
"""Label to mean, low and high, as in `results.json`; None where nothing was measured."""

_SERIES = ("#2a78d6", "#1baf7a", "#8468cf", "#d98a1f", "#d05590")
_DASHES = ("-", ":", "--", "-.", (0, (6, 1, 1, 1, 1, 1)))
_PARTS = {
    **dict(zip(("ADD", "UPDATE", "DELETE", "LINK", "ABSTRACT"), _SERIES, strict=True)),
    **{"NOOP": "#c3c1b8", "refused": "#e0a021", "parse failures": "#d9482f"},
}
_INK, _GRID = "#000000", "#e4e3dd"
# A drawing's colours to the style sheet's, which differ in a light and in a dark page.
_PAGE_COLOURS = {
    **{colour: f"var(--series-{place})" for place, colour in enumerate(_SERIES)},
    **{_PARTS[part]: f"var(--{part.replace(' ', '-').lower()})" for part in ("NOOP", "refused", "parse failures")},
    **{_INK: "var(--muted)", "#ffffff": "var(--card)", _GRID: "var(--line)"},
}
# Marks the ids of a drawing that are texts to show under the pointer.
_TIP = "tip:"


@dataclass(frozen=True, slots=True)
class Spot:
    """A dot of the tradeoff chart; `low` and `high` bound its `y`."""

    name: str
    x: float
    y: float
    low: float
    high: float


def save_png(figure: Figure, path: Path, dpi: float = 160) -> None:
    """Write a chart as a PNG file of 64 colours, a quarter as large as with all that its smooth edges have."""
    from PIL import Image

    drawn = io.BytesIO()
    # Without the library's version in it, the same numbers give the same file.
    with _boxes_for_missing_glyphs():
        figure.savefig(drawn, format="png", metadata={"Software": None}, dpi=dpi)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def inline_svg(figure: Figure, label: str) -> Markup:
    """A chart as an SVG element to put into a page, in the page's font and colours.

    Only shapes, words and tooltips are taken over: ids, styles and clips would be those of the whole page.

    Args:
        figure: the chart.
        label: what it shows, for those who cannot see it.
    """
    from matplotlib import rc_context

    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "none"}), _boxes_for_missing_glyphs():
        figure.savefig(drawn, format="svg")
    root = fromstring(drawn.getvalue())
    paths = {f"#{element.get('id')}": element.get("d", "") for element in root.iterfind(".//{*}path")}
    svg = Element("svg", {"class": "chart", "role": "img", "aria-label": _printable(label)})
    svg.set("viewBox", root.get("viewBox", ""))
    for child in root.iterfind("{*}g"):
        _copy(child, svg, paths)
    return Markup(tostring(svg, encoding="unicode"))


def draw_lines(
    panels: Mapping[str, Mapping[str, Points]],
    x_label: str,
    legend: bool = True,
    columns: int | None = None,
    *,
    logarithmic: bool = False,
) -> Figure:
    """Draw one panel a title, in it a line for each series that has a finite point.

    A series has one colour in all panels; there are five, and every five series the lines are broken otherwise. Panels
    stand side by side, or in rows of `columns`. With `logarithmic`, both axes are.
    """
    figure, axes = _figure(panels, (4.6, 2.7), columns)
    drawn: dict[str, Any] = {}
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    for axis, series in zip(axes, panels.values(), strict=False):
        for name, points in series.items():
            finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
            if not finite:
                continue
            repeats, place = divmod(names.index(name), len(_SERIES))
            dashes, colour = _DASHES[repeats % len(_DASHES)], _SERIES[place]
            [drawn[name]] = axis.plot(*zip(*finite, strict=True), ls=dashes, color=colour, gid=_tip(name))
            for x, y in finite if len(finite) <= 60 else ():
                axis.plot([x], [y], ".", color=colour, gid=_tip(f"{name}, {x_label} {x:g}: {y:.4g}"))
        axis.set_xlabel(_plain(x_label))
        axis.grid(axis="y", color=_GRID)
        if logarithmic:
            axis.set_xscale("log")
            axis.set_yscale("log")
    if legend:
        _add_legend(figure, drawn)
    return figure


def draw_operations(runs: Mapping[str, Columns], legend: bool = True, width: float = 6.4) -> Figure:
    """Draw one panel a run: its operations per turn, stacked, by the turn's place in its dialogue.

    Args:
        runs: the panels' titles and columns: a turn's place, and the height of each part.
        legend: say beside the panels which colour is which part.
        width: of the chart, in inches; a panel is 2.2 high.
    """
    figure, axes = _figure(runs, (width, 2.2), columns=1)
    drawn: dict[str, Any] = {}
    for axis, columns in zip(axes, runs.values(), strict=False):
        step = int(columns[1][0]) - int(columns[0][0]) if len(columns) > 1 else 1
        for label, parts in columns:
            base = 0.0
            for part in (part for part in _PARTS if parts.get(part)):
                [drawn[part]] = axis.bar(int(label), parts[part], 0.84 * step, bottom=base, color=_PARTS[part])
                drawn[part].set_gid(_tip(f"turn {label}: {part} {parts[part]:.2f}"))
                base += parts[part]
        axis.set_ylabel("operations per turn")
        axis.grid(axis="y", color=_GRID)
        axis.locator_params(axis="x", integer=True)
    axes[-1].set_xlabel("turn")
    if legend:
        _add_legend(figure, {part: drawn[part] for part in _PARTS if part in drawn})
    return figure


def draw_tradeoff(spots: Sequence[Spot], x_label: str, y_label: str) -> Figure:
    """Draw quality against cost, one dot with its interval a run; a wide span of costs is logarithmic."""
    from matplotlib.ticker import EngFormatter, LogLocator

    figure, (axes,) = _figure([""], (8, 3.2))
    for spot in spots:
        spans = [[spot.y - spot.low], [spot.high - spot.y]]
        dot, *_ = axes.errorbar([spot.x], [spot.y], spans, fmt="o", color=_SERIES[0], ecolor=_INK, capsize=2)
        dot.set_gid(_tip(f"{spot.name}: {x_label} {spot.x:,.0f}, {y_label} {spot.y:.1f}"))
    if is_logarithmic([spot.x for spot in spots]):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
    else:
        axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color=_GRID)
    axes.margins(0.1)
    axes.set_xlabel(_plain(x_label))
    axes.set_ylabel(_plain(y_label))
    with _boxes_for_missing_glyphs():
        _name_spots(figure, axes, spots)
    return figure


def draw_scores(panels: Mapping[str, Intervals]) -> Figure:
    """Draw one panel a title, in it a dot with its interval for every label; labels without a value are left out."""
    shown = {title: {label: row for label, row in rows.items() if row} for title, rows in panels.items()}
    height = 0.9 + 0.34 * max((len(rows) for rows in shown.values()), default=1)
    figure, axes = _figure(shown, (4.4, max(1.8, height)))
    for axis, rows in zip(axes, shown.values(), strict=False):
        places = range(len(rows))
        means = [100 * row["mean"] for row in rows.values()]
        spans = _spans(list(rows.values()))
        axis.errorbar(means, places, xerr=spans, fmt="o", color=_SERIES[0], ecolor=_INK, capsize=2)
        axis.set_yticks(places, [_plain(label) for label in rows])
        axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axis.set_xlim(0, 100)
        axis.set_xlabel("score, times 100")
    return figure


def draw_categories(by_category: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, str]) -> Figure:
    """Draw categories as groups of bars with intervals.

    Args:
        by_category: as in `results.json`: `n`, `names` and an interval a metric.
        metrics: which of them to draw, name to label.
    """
    width = 0.8 / max(len(metrics), 1)
    inches = 2.7 + max(1.4, 0.24 * len(metrics)) * len(by_category)
    figure, (axes,) = _figure([""], (max(6.5, inches), 3.4))
    drawn: dict[str, Any] = {}
    for number, (metric, label) in enumerate(metrics.items()):
        found = {place: row[metric] for place, row in enumerate(by_category.values()) if row.get(metric)}
        if not found:
            continue
        places = [place + (number - (len(metrics) - 1) / 2) * width for place in found]
        rows = list(found.values())
        means = [100 * row["mean"] for row in rows]
        style: dict[str, Any] = {"color": _SERIES[number % len(_SERIES)], "error_kw": {"color": _INK, "capsize": 2}}
        drawn[label] = axes.bar(places, means, width * 0.9, yerr=_spans(rows), **style)
    titles = [category_title(name, row.get("names", {})).split(", ") for name, row in by_category.items()]
    counts = [f"n={row['n']}" for row in by_category.values()]
    ticks = ["\n".join([*map(_plain, title), count]) for title, count in zip(titles, counts, strict=True)]
    axes.set_xticks(range(len(by_category)), ticks)
    axes.set_ylabel("score, times 100")
    axes.set_ylim(0, 100)
    _add_legend(figure, drawn)
    return figure


def draw_cost(tokens: Mapping[str, float], seconds: Sequence[float]) -> Figure:
    """Draw what a run cost: tokens a question by what they were spent on, and how long the answers took."""
    figure, (left, right) = _figure(["", ""], (3.6, 2.6))
    left.barh(list(tokens), list(tokens.values()), color=_SERIES[0])
    left.invert_yaxis()
    left.set_xlabel("tokens a question")
    right.hist(seconds, bins=20, color=_SERIES[1])
    right.set_xlabel("seconds to answer")
    right.set_ylabel("questions")
    return figure


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether an axis of these values is to be logarithmic: where all are positive and they span a power of ten."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= 10


def _figure(
    titles: Iterable[str], inches: tuple[float, float], columns: int | None = None
) -> tuple[Figure, Sequence[Axes]]:
    """A figure of one panel a title, but of at least one, each `inches` wide and high, in rows of `columns` or one."""
    from matplotlib.figure import Figure

    titles = list(titles) or [""]
    columns = min(columns or len(titles), len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(inches[0] * columns, inches[1] * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place) for place in range(1, len(titles) + 1)]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(_plain(title, 40), fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize="small")
    return figure, axes


def _add_legend(figure: Figure, drawn: Mapping[str, Any]) -> None:
    """Name what is drawn, beside the panels, where it covers nothing."""
    if drawn:
        names = [_plain(name) for name in drawn]
        figure.legend(drawn.values(), names, frameon=False, fontsize="small", loc="outside right upper")


def _name_spots(figure: Figure, axes: Axes, spots: Sequence[Spot]) -> None:
    """Write each name beside its dot, towards the middle, and so low that it covers no other."""
    figure.draw_without_rendering()  # until then it is not known where the dots are
    taken: list[Any] = []
    for spot in sorted(spots, key=lambda spot: -spot.y):
        across, _ = axes.transAxes.inverted().transform(axes.transData.transform((spot.x, spot.y)))
        x, y, side = (6, 4, "left") if across < 0.6 else (-6, 4, "right")
        style: dict[str, Any] = {"textcoords": "offset points", "ha": side, "fontsize": "small", "in_layout": False}
        name = axes.annotate(_plain(spot.name), (spot.x, spot.y), (x, y), **style)
        while any(name.get_window_extent().overlaps(other) for other in taken):
            y -= 2
            name.set_position((x, y))
        taken.append(name.get_window_extent())


def _copy(element: Element, parent: Element, paths: Mapping[str, str]) -> None:
    """Copy a drawing's element below another: without namespaces, and a repeated mark as the path that it repeats."""
    tag, attributes = element.tag.rpartition("}")[2], {name.rpartition("}")[2]: x for name, x in element.items()}
    if tag == "defs":
        return
    if tag == "use":
        place = f"translate({attributes.pop('x')} {attributes.pop('y')})"
        tag, attributes = "path", attributes | {"d": paths[attributes["href"]], "transform": place}
    kept = {name: value for name, value in attributes.items() if name in ("d", "x", "y", "transform")}
    if style := re.sub(r"font-family: [^;]*(; )?", "", attributes.get("style", "")):
        kept["style"] = re.sub("#[0-9a-f]{6}", lambda colour: _PAGE_COLOURS[colour[0]], style)
    copy = SubElement(parent, tag, kept)
    copy.text = element.text if tag == "text" else None
    if (name := attributes.get("id", "")).startswith(_TIP):
        SubElement(copy, "title").text = name.removeprefix(_TIP)
    for child in element:
        _copy(child, copy, paths)


@contextmanager
def _boxes_for_missing_glyphs() -> Iterator[None]:
    """Let names in scripts that the default font lacks become boxes in a PNG; a page has a font for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing")
        yield


def _spans(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """How far the bounds of intervals lie below and above their means, times 100."""
    return [[abs(100 * (row[bound] - row["mean"])) for row in rows] for bound in ("low", "high")]


def _tip(text: str) -> str:
    return _TIP + _printable(text)


def _plain(text: str, longest: int = 28) -> str:
    """Text that matplotlib draws as it stands ("$" would start a formula); of a long one, such as a path, the end."""
    printable = _printable(text)
    return (printable if len(printable) <= longest else f"…{printable[-longest:]}").replace("$", r"\$")


def _printable(text: str) -> str:
    """Without the control characters and lone surrogates that XML does not allow."""
    return "".join(character for character in text if character.isprintable())
