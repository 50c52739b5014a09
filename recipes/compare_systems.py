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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from recipes import evaluate
from recipes.adapters import find_weaver
from recipes.commands import run_python
from recipes.evaluation_options import complete

if TYPE_CHECKING:
    from memory_r1.systems.spec import SystemSpec

console = Console()


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the comparison's own options, and those passed to the evaluations."""
    parser = argparse.ArgumentParser(
        prog="compare_systems.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmark", required=True, metavar="NAME", help="as for recipes/evaluate.py")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument(
        "--manager", metavar="DIR", help="as for recipes/evaluate.py, for the systems that take a trained manager"
    )
    parser.add_argument("--writer", metavar="DIR", help="as for recipes/evaluate.py, for the systems that write")
    parser.add_argument("--writer-endpoint", metavar="URL", help="as for recipes/evaluate.py")
    parser.add_argument("--weaver", metavar="DIR", help="as for recipes/evaluate.py, for latent-tokens")
    parser.add_argument("--slot-policy", metavar="DIR", help="as for recipes/evaluate.py, for token-retention")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: a folder in outputs/compare, named by the options"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options, others = parser.parse_known_args(arguments)
    return options, others


def settled(options: argparse.Namespace, others: Sequence[str], specs: Mapping[str, SystemSpec]) -> argparse.Namespace:
    """Return an evaluation's options with every adapter that the systems use, and the comparison's folder as output."""
    managed = next((name for name, spec in specs.items() if spec.takes_manager_adapter), next(iter(specs)))
    given = {"benchmark": options.benchmark, "system": managed, "manager": options.manager, "output": options.output}
    given |= {"writer": options.writer, "writer-endpoint": options.writer_endpoint}
    evaluated = evaluate.parse_arguments([*(f"--{name}={value}" for name, value in given.items() if value), *others])
    return complete(evaluated, "compare", "systems")


def main(arguments: Sequence[str]) -> int:
    options, others = parse_arguments(arguments)
    from memory_r1.adapter_settings import SHARED, check_form
    from memory_r1.systems.table import SYSTEMS, system_spec

    specs = {name: system_spec(name) for name in options.systems or SYSTEMS}
    evaluated = settled(options, others, specs)
    writer = [f"--writer={options.writer}"] if options.writer else []
    writer += [f"--writer-endpoint={options.writer_endpoint}"] if options.writer_endpoint else []
    weaver = [f"--weaver={options.weaver}"] if options.weaver else []
    slot_policy = [f"--slot-policy={options.slot_policy}"] if options.slot_policy else []
    for name, spec in list(specs.items()):
        try:
            if spec.needs_weaver:
                find_weaver(name, options.weaver, evaluated.model)
            if spec.takes_manager_adapter and evaluated.manager:
                check_form(evaluated.manager, spec.operations, f"memory system {name!r}")
        except ConfigurationError as error:
            if options.systems or options.weaver:  # then it was asked for
                raise
            console.print(f"left out: {error}")
            del specs[name]
    # A system without a manager cannot read settings from its adapter, but must share them with the others.
    shared = [f"--{n}={getattr(evaluated, n)}" for n in SHARED if evaluated.settings_from[n] == "manager adapter"]
    manager = [f"--manager={options.manager}"] if options.manager else []
    # A system without a manager would take the packaged Answer Agent where a named manager works with the base model.
    answer = ["--answer=base"] if options.manager and not evaluated.answer else []
    for name, spec in specs.items():
        console.rule(name)
        run_python(
            "recipes/evaluate.py",
            f"--benchmark={options.benchmark}",
            f"--system={name}",
            f"--output={evaluated.output / name}",
            *(manager if spec.takes_manager_adapter else shared),
            *(writer if spec.writes else []),
            *(weaver if spec.needs_weaver else []),
            *(slot_policy if spec.takes_slot_policy else []),
            *answer,
            *others,
        )
    if len(specs) > 1:
        output = evaluated.output
        run_python("recipes/compare.py", *(str(output / name) for name in specs), f"--output={output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
