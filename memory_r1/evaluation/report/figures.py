"""PNG figures beside a report, for papers and slides: scores, categories, operations and cost."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.evaluation.report.charts import Columns, Spot, is_logarithmic
from memory_r1.evaluation.report.pages import category_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#2a78d6", "#1baf7a", "#8b7fd9", "#d98a1f", "#d05590")
_PART_COLOURS = {
    "ADD": "#2a78d6",
    "UPDATE": "#1baf7a",
    "DELETE": "#8468cf",
    "NOOP": "#c3c1b8",
    "refused": "#e0a021",
    "parse failures": "#d9482f",
}
_INK = "#52514e"
# Characters of a name; longer ones leave no room for what they name.
_LONGEST = 28

Intervals = Mapping[str, Mapping[str, Any] | None]
"""Label to mean, low and high, as in `results.json`; None where nothing was measured."""


def save_score_figure(panels: Mapping[str, Intervals], path: Path) -> None:
    """Draw one panel a title, in it a dot with its interval for every label; labels without a value are left out."""
    shown = {title: {label: row for label, row in rows.items() if row} for title, rows in panels.items()}
    height = 0.9 + 0.34 * max((len(rows) for rows in shown.values()), default=1)
    figure, axes = _figure(max(1, len(shown)), (0.6 + 4.2 * max(1, len(shown)), max(1.8, height)))
    for axis, (title, rows) in zip(axes, shown.items(), strict=False):
        places = range(len(rows))
        means = [100 * row["mean"] for row in rows.values()]
        axis.errorbar(means, places, xerr=_spans(rows.values()), fmt="o", color=_COLOURS[0], ecolor=_INK, capsize=2)
        axis.set_yticks(places, [_plain(label) for label in rows])
        axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axis.set_xlim(0, 100)
        axis.set_title(_plain(title), fontsize="medium")
        axis.set_xlabel("score, times 100")
    _save(figure, path)


def save_category_figure(by_category: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, str], path: Path) -> None:
    """Draw categories as groups of bars with intervals.

    Args:
        by_category: as in `results.json`: `n`, `names` and an interval a metric.
        metrics: which of them to draw, name to label.
        path: the PNG file.
    """
    width = 0.8 / max(len(metrics), 1)
    inches = 1.2 + max(1.4, 0.24 * len(metrics)) * len(by_category)
    figure, (axes,) = _figure(1, (max(5.0, inches), 3.4))
    for number, (metric, label) in enumerate(metrics.items()):
        found = [(place, row[metric]) for place, row in enumerate(by_category.values()) if row.get(metric)]
        places = [place + (number - (len(metrics) - 1) / 2) * width for place, _ in found]
        rows = [row for _, row in found]
        means = [100 * row["mean"] for row in rows]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.bar(
            places, means, width * 0.9, yerr=_spans(rows), capsize=2, ecolor=_INK, color=colour, label=_plain(label)
        )
    titles = [category_title(name, row.get("names", {})) for name, row in by_category.items()]
    counts = [row["n"] for row in by_category.values()]
    ticks = ["\n".join([*map(_plain, title.split(", ")), f"n={n}"]) for title, n in zip(titles, counts, strict=True)]
    axes.set_xticks(range(len(by_category)), ticks, fontsize="small")
    axes.set_ylabel("score, times 100")
    axes.set_ylim(0, 100)
    if by_category and metrics:
        axes.legend(frameon=False, fontsize="small")
    _save(figure, path)


def save_operations_figure(runs: Mapping[str, Columns], path: Path) -> None:
    """Draw one panel a run: its operations per turn, stacked, by the turn's place in its dialogue."""
    figure, axes = _figure(max(1, len(runs)), (6.4, 0.6 + 2.2 * max(1, len(runs))), stacked=True)
    for axis, (title, columns) in zip(axes, runs.items(), strict=False):
        base = [0.0] * len(columns)
        labels = [int(label) for label, _ in columns]
        width = 0.84 * (labels[1] - labels[0] if len(labels) > 1 else 1)
        for part, colour in _PART_COLOURS.items():
            heights = [parts.get(part, 0.0) for _, parts in columns]
            if any(heights):
                axis.bar(labels, heights, width, bottom=base, color=colour, label=part)
            base = [below + height for below, height in zip(base, heights, strict=True)]
        axis.set_title(_plain(title), fontsize="medium")
        axis.set_ylabel("operations per turn")
        axis.locator_params(axis="x", integer=True)
    axes[-1].set_xlabel("turn")
    keys = {label: bar for axis in axes for bar, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    ordered = {part: keys[part] for part in _PART_COLOURS if part in keys}
    if ordered:
        figure.legend(ordered.values(), ordered.keys(), frameon=False, fontsize="small", loc="outside right upper")
    _save(figure, path)


def save_cost_figure(tokens: Mapping[str, float], seconds: Sequence[float], path: Path) -> None:
    """Draw what a run cost: tokens a question by what they were spent on, and how long the answers took."""
    figure, (left, right) = _figure(2, (7.2, 2.6))
    left.barh(list(tokens), list(tokens.values()), color=_COLOURS[0])
    left.invert_yaxis()
    left.set_xlabel("tokens a question")
    right.hist(seconds, bins=20, color=_COLOURS[1])
    right.set_xlabel("seconds to answer")
    right.set_ylabel("questions")
    _save(figure, path)


def save_tradeoff_figure(spots: Sequence[Spot], x_label: str, y_label: str, path: Path) -> None:
    """Draw quality against cost, one dot with its interval a run; a wide span of costs is logarithmic."""
    figure, (axes,) = _figure(1, (6.4, 4.0))
    for spot in spots:
        spans = [[spot.y - spot.low], [spot.high - spot.y]]
        axes.errorbar([spot.x], [spot.y], yerr=spans, fmt="o", color=_COLOURS[0], ecolor=_INK, capsize=2)
        axes.annotate(_plain(spot.name), (spot.x, spot.y), (6, 4), textcoords="offset points", fontsize="small")
    if is_logarithmic([spot.x for spot in spots]):
        axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _save(figure, path)


def _figure(panels: int, inches: tuple[float, float], stacked: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """A figure with its panels side by side or stacked; no pyplot, whose global state outlives the call."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    rows, columns = (panels, 1) if stacked else (1, panels)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # Names in scripts that the default font lacks become boxes; the page beside the figure has them.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing")
        # Without the library's version in it, the same numbers give the same file.
        figure.savefig(path, metadata={"Software": None})


def _spans(rows: Any) -> list[list[float]]:
    """How far the bounds of intervals lie below and above their means, times 100."""
    rows = list(rows)
    return [[abs(100 * (row[bound] - row["mean"])) for row in rows] for bound in ("low", "high")]


def _plain(text: str) -> str:
    """Text that matplotlib draws as it stands ("$" would start a formula); of a long one, such as a path, the end."""
    printable = "".join(character for character in text if character.isprintable())
    return (printable if len(printable) <= _LONGEST else f"…{printable[-_LONGEST:]}").replace("$", r"\$")
