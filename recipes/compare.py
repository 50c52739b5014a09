"""Compare evaluations question by question, or merge the seeds of one.

    python recipes/compare.py outputs/eval/locomo-test-rag outputs/eval/locomo-test-memory-r1
    python recipes/compare.py --merge-seeds 'outputs/reproduce/seed*/eval/rag' 'outputs/reproduce/seed*/eval/memory-r1'

The others are compared with the first: each difference is theirs minus the first's on the same questions, with a 95%
bootstrap interval and a sign test. With --merge-seeds every FOLDER is a quoted pattern that matches the seeds of one
run; intervals then come from a hierarchical bootstrap over seeds and dialogues. Prints a table and writes
comparison.json, with every metric and category, and comparison.html into the output folder.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError

if TYPE_CHECKING:
    from memory_r1.evaluation.scoring.comparison import Side

SHOWN = ("exact_match", "f1_mem0", "f1_locomo", "f1_squad", "bleu1", "judge", "evidence_recall", "distilled_recall")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of an evaluation; the first is the base")
    parser.add_argument("--merge-seeds", action="store_true", help="FOLDER is a pattern that matches a run's seeds")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="one per FOLDER (default: its system or folder)")
    parser.add_argument("--metrics", nargs="+", default=SHOWN, metavar="NAME", help="metrics in the printed table")
    parser.add_argument("--output", type=Path, default=Path("outputs/compare"), help="default: outputs/compare")
    parser.add_argument("--no-report", action="store_true", help="write no comparison.html")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if len(options.folders) == 1 and not options.merge_seeds:
        parser.error("one FOLDER cannot be compared: give another, or --merge-seeds and a pattern")
    if options.names and len(options.names) != len(options.folders):
        parser.error(f"found {len(options.names)} names for {len(options.folders)} folders: give one each")
    return options


def matches(pattern: str, merge_seeds: bool) -> list[Path]:
    """Return the evaluation folders that one argument names, in natural order.

    Raises:
        ConfigurationError: A pattern matches no evaluation.
    """
    from memory_r1.evaluation.records import RUN
    from memory_r1.evaluation.scoring.results import natural_order

    if not merge_seeds:
        return [Path(pattern)]
    found = [Path(match) for match in sorted(glob(pattern), key=natural_order) if (Path(match) / RUN).is_file()]
    if not found:
        raise ConfigurationError(
            f"{pattern!r} matches no evaluation (a folder with {RUN}): give a quoted pattern of the seeds' folders"
        )
    return found


def names_of(folders: Sequence[Sequence[Path]], patterns: Sequence[str]) -> list[str]:
    """Return a name per side: its memory system, or its command-line argument if sides share a system.

    Either says so if rules wrote most of the texts of all its seeds.
    """
    from memory_r1.evaluation.records import read_run
    from memory_r1.systems.writer import shown_name

    sides = [[read_run(folder) for folder in of_side] for of_side in folders]
    costs = [sum((Counter(run.cost) for run in runs), Counter()) for runs in sides]
    systems = [shown_name(runs[0].system, cost) for runs, cost in zip(sides, costs, strict=True)]
    counts = Counter(systems)
    return [
        system if counts[system] == 1 else shown_name(given, cost)
        for system, given, cost in zip(systems, patterns, costs, strict=True)
    ]


def show(comparison: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Print all sides' scores, their differences from the first, and the metrics left out."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    runs = comparison["runs"]
    seeds = max(len(run["folders"]) for run in runs)
    title = f"{comparison['benchmark']} {comparison['split']}, {comparison['n_questions']} questions"
    table = Table(title=title + (f", up to {seeds} seeds" if seeds > 1 else ""), caption="95% intervals")
    base = f"less {runs[0]['name']}" if comparison["differences"] else ""
    for heading in ("metric", "run", "mean", base, "wins/losses/ties", "p"):
        table.add_column(heading, overflow="fold")
    for metric in (name for name in metrics if name in comparison["overall"]):
        for place, (run, value) in enumerate(zip(runs, comparison["overall"][metric], strict=True)):
            cells = ["", "", ""]
            if place > 0:
                cells = _difference(comparison["differences"][place - 1]["overall"][metric])
            table.add_row("" if place else metric, run["name"], _interval(value, "mean"), *cells)
    console.print(table)
    if "within-dialogue" in str(comparison["overall"]):
        console.print("Fewer than 20 dialogues: intervals are over questions and speak of these dialogues only.")
    for metric, reason in comparison["left_out"].items():
        console.print(f"{metric} is left out: {reason}", soft_wrap=True)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)

    from memory_r1.evaluation.scoring.comparison import COMPARISON, compare, read_side
    from memory_r1.jsonl import write_json

    folders = [matches(pattern, options.merge_seeds) for pattern in options.folders]
    names = options.names or names_of(folders, options.folders)
    sides = [read_side(name, of_side) for name, of_side in zip(names, folders, strict=True)]
    comparison = compare(sides)
    path = write_json(options.output / COMPARISON, comparison)
    show(comparison, options.metrics)
    sys.stdout.write(f"all metrics and categories: {path}\n")
    if not options.no_report:
        write_page(options.output / "comparison.html", sides)
    return 0


def write_page(path: Path, sides: Sequence[Side]) -> None:
    """Write the page that shows the runs side by side, every seed as its own run."""
    from memory_r1.evaluation.report.write import write_comparison_report

    titles = [
        side.name if len(side.seeds) == 1 else f"{side.name}, seed {number}"
        for side in sides
        for number in range(1, len(side.seeds) + 1)
    ]
    write_comparison_report(path, [seed.folder for side in sides for seed in side.seeds], titles)
    sys.stdout.write(f"report: {path}\n")


def _interval(value: Mapping[str, Any] | None, name: str) -> str:
    return f"{value[name]:.3f} ({value['low']:.3f} to {value['high']:.3f})" if value else "n/a"


def _difference(value: Mapping[str, Any] | None) -> list[str]:
    if value is None:
        return ["n/a", "", ""]
    counts = "/".join(str(value[name]) for name in ("wins", "losses", "ties"))
    return [_interval(value, "difference"), counts, f"{value['p_value']:.3g}"]


if __name__ == "__main__":
    sys.exit(run_main(main))
