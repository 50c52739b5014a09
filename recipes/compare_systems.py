"""Evaluate memory systems on the same questions, then compare them.

    make compare BENCHMARK=locomo SPLIT=validation LIMIT=40 DATA=folder
    python recipes/compare_systems.py --benchmark synthetic --systems none rag memory-r1 --manager DIR --answer DIR

Each system is one run of recipes/evaluate.py with the same Answer Agent; options not listed here are passed to it.
The same command resumes an interrupted comparison without rerunning finished systems. Differences are from the first
system.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from memory_r1.entry import run_main
from recipes import evaluate
from recipes.benchmarks import complete, folder_name
from recipes.commands import run_python

console = Console()


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the comparison's own options, and those passed to the evaluations."""
    parser = argparse.ArgumentParser(
        prog="compare_systems.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmark", required=True, metavar="NAME", help="as for recipes/evaluate.py")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--manager", metavar="DIR", help="adapter of the Memory Manager, for the systems with one")
    parser.add_argument("--writer", metavar="DIR", help="adapter of the writer or 'base', for the systems that write")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: a folder in outputs/compare, named by the options"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options, others = parser.parse_known_args(arguments)
    return options, others


def settled(options: argparse.Namespace, others: Sequence[str]) -> argparse.Namespace:
    """Return an evaluation's options with both adapters, and set the comparison's default folder."""
    common = [f"--benchmark={options.benchmark}", *([f"--manager={options.manager}"] if options.manager else [])]
    common += [f"--writer={options.writer}"] if options.writer else []
    evaluated = evaluate.parse_arguments([*common, *others])
    complete(evaluated)  # name the folder before the adapters' settings fill in options
    options.output = options.output or Path("outputs") / "compare" / folder_name(evaluated, "systems")
    return evaluate.complete(evaluated)


def main(arguments: Sequence[str]) -> int:
    options, others = parse_arguments(arguments)
    from memory_r1.adapter_settings import SHARED
    from memory_r1.systems.table import SYSTEMS, system_spec

    evaluated = settled(options, others)
    # A system without a manager cannot read settings from its adapter, but must share them with the others.
    shared = [f"--{n}={getattr(evaluated, n)}" for n in SHARED if evaluated.settings_from[n] == "manager adapter"]
    specs = {
        name: system_spec(name) for name in options.systems or SYSTEMS
    }  # the names first: all before the first run
    manager = [f"--manager={options.manager}"] if options.manager else []
    for name, spec in specs.items():
        console.rule(name)
        run_python(
            "recipes/evaluate.py",
            f"--benchmark={options.benchmark}",
            f"--system={name}",
            f"--output={options.output / name}",
            *(manager if spec.needs_manager and not spec.prompted else shared),
            *([f"--writer={options.writer}"] if options.writer and spec.writes else []),
            *others,
        )
    if len(specs) > 1:
        run_python("recipes/compare.py", *(str(options.output / name) for name in specs), f"--output={options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
