"""Draw the training curves of several runs beside each other, over the completions that each has sampled.

    python recipes/curves.py outputs/smollm2-135m/manager_grpo outputs/smollm2-135m/manager_ppo

Runs of different methods are comparable at equal numbers of sampled completions, not at equal steps: PPO and GRPO with
`num_iterations` above 1 learn from each batch several times. Writes curves.png and curves.json, and prints a table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memory_r1.entry import run_main
from memory_r1.errors import DataError
from memory_r1.evaluation.report.charts import draw_lines, save_png
from memory_r1.jsonl import read_json, write_json

# Name in a run's log to the title of its panel.
PANELS = {
    "eval_score": "validation score",
    "reward": "mean reward of sampled completions",
    "kl": "KL to the start",
    "critic/explained_variance": "explained variance of the critic",
}
console = Console()


def read_run(folder: Path) -> dict[str, Any]:
    """Curves of a finished run over sampled completions, and what it learned from.

    Raises:
        DataError: The folder holds no finished RL run.
    """
    path = folder / "training_summary.json"
    summary = read_json(path)
    recipe = summary["recipe"]
    if "generation_batch_size" not in recipe:
        raise DataError(
            f"{path}: a run of method '{summary['method']}' samples no completions; name runs of GRPO or PPO"
        )
    uses = recipe.get("steps_per_generation", 1) * recipe.get("num_iterations", 1)
    a_step = recipe["generation_batch_size"] * recipe.get("gradient_accumulation_steps", 1) / uses
    history = summary["log_history"]
    series = {
        name: [(round(row["step"] * a_step), row[name]) for row in history if row.get(name) is not None]
        for name in PANELS
    }
    return {
        "method": summary["method"],
        "agent": summary["agent"],
        "seed": summary["seed"],
        "completions": round(summary["steps"] * a_step),
        "wall_seconds": round(summary["wall_seconds"], 1),
        **{key: recipe.get(key) for key in ("learning_rate", "value_learning_rate")},
        **{key: summary[key] for key in ("start_validation", "best_validation", "kept_start")},
        "curves": series,
    }


def main(argv: Sequence[str]) -> int:
    """Read the runs, draw them, and print what came of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="FOLDER", help="output_dir of a finished GRPO or PPO run")
    parser.add_argument("--output", type=Path, default=Path("outputs/curves"), metavar="FOLDER")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    names = [folder.name for folder in options.runs]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in options.runs]
    runs = {label: read_run(folder) for label, folder in zip(labels, options.runs, strict=True)}
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "curves.json", runs)
    panels = {title: {label: run["curves"][name] for label, run in runs.items()} for name, title in PANELS.items()}
    shown = {title: series for title, series in panels.items() if any(series.values())}
    save_png(draw_lines(shown, "completions sampled"), options.output / "curves.png")
    table = Table(title="validation score")
    for heading in ("run", "completions", "at the start", "best", "minutes"):
        table.add_column(heading)
    for name, run in runs.items():
        scores = ["-" if run[key] is None else f"{run[key]:.3f}" for key in ("start_validation", "best_validation")]
        table.add_row(name, str(run["completions"]), *scores, f"{run['wall_seconds'] / 60:.1f}")
    console.print(table)
    console.print(f"wrote {options.output / 'curves.png'}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
