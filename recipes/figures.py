"""Draw every curve of the committed records, or those of finished runs beside each other.

    make figures
    python recipes/figures.py outputs/smollm2-135m/manager_grpo outputs/smollm2-135m/manager_ppo --output outputs/curves

Without a run, PNG files go beside the records in docs/results: `everyday-seed<N>-<agent>.png` over the CPU seconds of
training, `everyday.png` with the scores over all seeds, `curves-*.png`, and `bench-systems.png` with the growth of
memory systems. With runs, curves.json and curves.png are
over the completions that each has sampled: methods are comparable at equal numbers of those, not at equal steps, since
PPO and GRPO with `num_iterations` above 1 learn from each batch several times.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memory_r1.entry import run_main
from memory_r1.errors import DataError
from memory_r1.evaluation.report.charts import Intervals, draw_lines, draw_scores, save_png
from memory_r1.jsonl import read_json, write_json
from recipes.records import training_record
from recipes.renderers import BENCH_SYSTEMS, GROWTH, grown, seeds
from recipes.tables import TABLES, Record, lines_of

PANELS = {
    "eval_score": "validation score",
    "reward": "mean reward of sampled completions",
    "entropy": "entropy",
    "teaching": "share of groups that teach",
    "kl": "KL to the start",
    "critic/explained_variance": "explained variance of the critic",
    "eval_loss": "validation loss of SFT",
}
HEADLINE = {"both agents": "both", "Answer Agent, same banks": "answer", "manager, same Answer Agent": "manager"}
CPU_SECONDS, COMPLETIONS = "CPU seconds of training", "completions sampled"
COLUMNS = 2
DPI = 120  # keeps six panels below 100 kB

Runs = Mapping[str, Mapping[str, Any]]
"""Names to what `training_record` returns."""


def draw_runs(runs: Runs, axis: str, path: Path) -> None:
    """Draw the curves of runs, one panel for each quantity that any of them has."""
    panels = {title: {label: _points(run, key, axis) for label, run in runs.items()} for key, title in PANELS.items()}
    shown = {title: series for title, series in panels.items() if any(series.values())}
    save_png(draw_lines(shown, axis, columns=COLUMNS), path, DPI)


def draw_headline(records: Sequence[Record], path: Path) -> None:
    """Draw the token F1 of each row, with its interval over seeds and chats."""
    panels: dict[str, Intervals] = {
        title: {line.name: line.f1.to_dict() for line in lines_of(TABLES[stage][0], records)}
        for title, stage in HEADLINE.items()
    }
    save_png(draw_scores({f"{title}, F1": rows for title, rows in panels.items() if rows}), path, DPI)


def draw_growth(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what the benchmark of memory systems measured over the turns played, a line for each system."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {title: {} for title in GROWTH}
    for row in rows:
        for title, of_row in GROWTH.items():
            if value := grown(row, *of_row):
                panels[title].setdefault(row["system"], []).append((row["turns"], value))
    save_png(draw_lines(panels, "turns", columns=COLUMNS, logarithmic=True), path, DPI)


def _points(run: Mapping[str, Any], key: str, axis: str) -> list[tuple[float, float]]:
    points = []
    for row in run["curves"]:
        place = row.get("cpu_seconds", 0.0) if axis == CPU_SECONDS else row["step"] * run["completions"] / run["steps"]
        value = 1 - row["groups/flat"] if key == "teaching" and "groups/flat" in row else row.get(key)
        if value is not None:
            points.append((place, value))
    return points


def draw_committed(folder: Path) -> list[Path]:
    """Draw what a folder of records holds, and return the files."""
    drawn = []
    records = seeds(folder)
    for record in records:
        for agent in ("manager", "answer"):
            prefix = f"{agent}_"
            runs = {
                name.removeprefix(prefix): run for name, run in record["training"].items() if name.startswith(prefix)
            }
            drawn.append(folder / f"everyday-seed{record['seed']}-{agent}.png")
            draw_runs(runs, CPU_SECONDS, drawn[-1])
    if any(record["evaluations"] for record in records):
        drawn.append(folder / "everyday.png")
        draw_headline(records, drawn[-1])
    for path in sorted(folder.glob("curves-*.json")):
        drawn.append(path.with_suffix(".png"))
        draw_runs(read_json(path), COMPLETIONS, drawn[-1])
    if (benchmark := folder / BENCH_SYSTEMS).is_file():
        drawn.append(benchmark.with_suffix(".png"))
        draw_growth(read_json(benchmark)["rows"], drawn[-1])
    return drawn


def read_runs(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the records of finished RL runs, by the folders' names where these differ.

    Raises:
        DataError: A folder holds no finished RL run.
    """
    names = [folder.name for folder in folders]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    runs = {label: training_record(folder) for label, folder in zip(labels, folders, strict=True)}
    for folder, run in zip(folders, runs.values(), strict=True):
        if not run["completions"]:
            raise DataError(
                f"{folder}: a run of method '{run['method']}' samples no completions; name runs of GRPO or PPO"
            )
    return runs


def main(argv: Sequence[str]) -> int:
    """Draw, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="FOLDER", help="output_dir of a finished GRPO or PPO run")
    parser.add_argument(
        "--results", type=Path, default=Path("docs/results"), metavar="FOLDER", help="committed records"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/curves"), metavar="FOLDER", help="of given runs")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    if options.runs:
        drawn = [options.output / "curves.png"]
        runs = read_runs(options.runs)
        write_json(options.output / "curves.json", runs)
        draw_runs(runs, COMPLETIONS, drawn[0])
    else:
        drawn = draw_committed(options.results)
    sys.stdout.writelines(f"{path}\n" for path in drawn)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
