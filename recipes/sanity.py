"""Score a benchmark's gold answers (the ceiling) and the gold answers of other questions (chance), without a model.

    python recipes/sanity.py --benchmark locomo --data folder

Prints a table by category and, if a metric scores gold answers below 1.0, why and how often. Exits with status 1 if a
score contradicts the metric's definition.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory_r1.entry import run_main
from recipes.benchmarks import add_options, category_names, complete, load_benchmark, reported_name


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sanity.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="number of shuffles to average (10)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="also write the numbers to this file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(recall_per_speaker=None)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    complete(options)

    from memory_r1.evaluation.scoring.sanity import gold_scores, shuffled_scores
    from memory_r1.evaluation.selection import check_selected, select
    from memory_r1.jsonl import write_json

    chosen = select(load_benchmark(options), sessions=options.sessions, limit=options.limit, seed=options.seed)
    check_selected(chosen)
    questions = [question for dialogue in chosen for question in dialogue.questions]
    report = {
        "gold": gold_scores(questions),
        "shuffled": shuffled_scores(questions, within_category=False, repeats=options.repeats),
        "shuffled_within_category": shuffled_scores(questions, within_category=True, repeats=options.repeats),
    }
    show(report, f"{reported_name(options)} {options.split}", category_names(options.benchmark))
    if options.output:
        write_json(options.output, {"benchmark": reported_name(options), "split": options.split, **report})
    return 1 if report["gold"]["unexpected"] else 0


def show(report: dict[str, Any], title: str, names: dict[str, dict[str, str]]) -> None:
    """Print the means by category, then the reasons for gold scores below 1.0."""
    from rich.console import Console
    from rich.table import Table

    gold = report["gold"]
    metrics = list(gold["overall"])
    table = Table(title=f"{title}, {gold['n']} questions")
    for heading in ("answers given", "category", "n", *metrics):
        table.add_column(heading)
    for what, scores in report.items():
        for category in sorted(gold["by_category"]):
            label = " / ".join([category, *dict.fromkeys(names.get(category, {}).values())])
            row = scores["by_category"][category]
            n = gold["by_category"][category]["n"]
            table.add_row("", label, str(n), *(f"{row[metric]:.4f}" for metric in metrics))
        overall = (f"{scores['overall'][metric]:.4f}" for metric in metrics)
        table.add_row(what.replace("_", " "), "all", str(gold["n"]), *overall, end_section=True)
    console = Console(markup=False)
    console.print(table)
    for metric, reasons in gold["below_one"].items():
        for reason, count in reasons.items():
            console.print(f"{metric} of the gold is below 1.0 for {count} questions: {reason}", soft_wrap=True)
    for question_id, metric, value, expected in gold["unexpected"]:
        message = f"unexpected: {metric} of {question_id} is {value:.4f}, by its definition {expected:.4f}"
        console.print(message, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
