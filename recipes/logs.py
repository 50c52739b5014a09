"""Read curves and sampled completions from a training run's folder, for a report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memory_r1.evaluation.report.write import Curve, Sample
from memory_r1.jsonl import read_json, read_rows

# Chart title to its series, by their names in a run's log.
CHARTS = {
    "reward": ("reward", "eval_score"),
    "groups without a signal": ("groups/flat", "groups/zero_variance", "groups/all_zero"),
    "operations": tuple(f"completions/share_{kind}" for kind in ("ADD", "UPDATE", "DELETE", "NOOP")),
}
SAMPLES = 8


def curves(agent: str, folder: Path) -> Iterator[Curve]:
    """Yield the charts of a run that have a series in its log."""
    history = read_json(folder / "training_summary.json")["log_history"]
    for title, names in CHARTS.items():
        series = {
            name.rsplit("/", 1)[-1]: [(row["step"], row[name]) for row in history if row.get(name) is not None]
            for name in names
        }
        shown = {name: points for name, points in series.items() if points}
        if shown:
            yield Curve(f"{agent}: {title}", shown)


def samples(agent: str, folder: Path, stage: str = "grpo") -> Iterator[Sample]:
    """Yield the best and worst completions of the first and last step."""
    rows = read_rows(folder / "completions.jsonl")
    for step in sorted({rows[0]["step"], rows[-1]["step"]}) if rows else ():
        sampled = sorted((row for row in rows if row["step"] == step), key=lambda row: -_outcome(row))
        for row in sampled[: SAMPLES // 4] + sampled[-SAMPLES // 4 :]:
            yield Sample(agent, f"{stage}, step {step}", row["prompt"], row["completion"], _outcome(row))


def _outcome(row: dict[str, Any]) -> float:
    """Return the first reward of a row, which in our recipes is the one on the final answer."""
    return next(iter(row["rewards"].values())) or 0.0
