"""Curves and sampled completions out of a training run's folder, for a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from memory_r1.evaluation.report import Curve, Sample

# Chart title to the names (in a run's log) of the series it shows.
CHARTS = {
    "reward": ("reward", "eval_score"),
    "groups without a signal": ("frac_reward_zero_std", "groups/all_zero"),
    "operations": tuple(f"completions/share_{kind}" for kind in ("ADD", "UPDATE", "DELETE", "NOOP")),
}
SAMPLES = 8


def curves(agent: str, folder: Path) -> Iterator[Curve]:
    """The charts of a run for which its log has a series."""
    history = json.loads((folder / "training_summary.json").read_text())["log_history"]
    for title, names in CHARTS.items():
        series = {
            name.rsplit("/", 1)[-1]: [(row["step"], row[name]) for row in history if row.get(name) is not None]
            for name in names
        }
        shown = {name: points for name, points in series.items() if points}
        if shown:
            yield Curve(f"{agent}: {title}", shown)


def samples(agent: str, folder: Path, stage: str = "grpo") -> Iterator[Sample]:
    """Sampled completions of the first and the last logged step, the best and the worst of each."""
    import pandas  # type: ignore[import-untyped]

    files = sorted((folder / "completions").glob("completions_*.parquet"))
    for path in files[:1] + files[1:][-1:]:
        table = pandas.read_parquet(path).to_dict("records")
        rewards = [name for name in table[0] if name.startswith("answer_")]
        table.sort(key=lambda row: -(row[rewards[0]] or 0.0))
        step = table[0]["step"]
        for row in table[: SAMPLES // 4] + table[-SAMPLES // 4 :]:
            yield Sample(
                agent,
                f"{stage}, step {step}",
                row["prompt"][-1]["content"],
                row["completion"][-1]["content"],
                row[rewards[0]],
            )
