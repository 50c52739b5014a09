"""Evaluate one memory system on one benchmark.

    python recipes/evaluate.py --benchmark synthetic --manager outputs/manager --answer outputs/answer

Plays every turn of every dialogue into the system, asks all questions on what it then holds, and writes
predictions.jsonl, operations.jsonl, run.json, results.json and report.html into the output folder. A run that was cut
short goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.types import Dialogue

if TYPE_CHECKING:
    from data.synthetic import Split
    from memory_r1.agents.language_model import LocalLanguageModel
    from memory_r1.systems.base import MemorySystem

BENCHMARKS = ("synthetic", "locomo", "dialogues")
SYNTHETIC_DIALOGUES = 20
SYNTHETIC_SPLITS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "test": "heldout",
    "heldout": "heldout",
}
# The paper recalls 30 a speaker on LoCoMo; generated dialogues are so small that 30 would be all there is.
TOP_K = {"synthetic": 2, "locomo": 30, "dialogues": 30}


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is evaluated")
    what.add_argument("--system", default="memory-r1", metavar="NAME", help="memory system (default: memory-r1)")
    what.add_argument(
        "--model",
        default="SmolLM2-135M-Instruct",
        metavar="NAME",
        help="base model of both agents: hub id, folder, or the embedded one (default: SmolLM2-135M-Instruct)",
    )
    what.add_argument("--manager", metavar="DIR", help="adapter of the Memory Manager (default: the base model)")
    what.add_argument("--answer", metavar="DIR", help="adapter of the Answer Agent (default: the base model)")
    what.add_argument(
        "--embedder", default="all-MiniLM-L6-v2", metavar="NAME", help="sentence model (default: all-MiniLM-L6-v2)"
    )
    on = parser.add_argument_group("on what")
    on.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    on.add_argument("--split", metavar="NAME", help="train, validation or test (default: test; dialogues: all)")
    on.add_argument("--data", type=Path, metavar="FOLDER", help="where the benchmark's files lie (default: the cache)")
    on.add_argument("--file", type=Path, metavar="JSONL", help="own dialogues, for --benchmark dialogues")
    on.add_argument(
        "--dialogues", type=int, default=SYNTHETIC_DIALOGUES, metavar="N", help="generated dialogues (default: 20)"
    )
    on.add_argument("--sessions", type=int, metavar="N", help="play the first N sessions, ask what they answer")
    on.add_argument("--limit", type=int, metavar="N", help="ask at most N questions, drawn in proportion")
    on.add_argument("--seed", type=int, default=0, help="draws generated dialogues and limited questions (default: 0)")
    how = parser.add_argument_group("how")
    how.add_argument("--top-k", type=int, metavar="N", help=f"entries recalled per speaker (default: {_defaults()})")
    how.add_argument("--manager-top-k", type=int, default=2, metavar="N", help="entries shown to the manager (2)")
    how.add_argument("--budget-tokens", type=int, metavar="N", help="bound of what is recalled (default: none)")
    how.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows computed together (default: 32)")
    how.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    how.add_argument("--banks", type=Path, metavar="FOLDER", help="take over the banks of this finished evaluation")
    how.add_argument("--output", type=Path, metavar="FOLDER", help="default: outputs/eval/BENCHMARK-SPLIT-SYSTEM")
    how.add_argument("--restart", action="store_true", help="discard what an earlier run left in the output folder")
    how.add_argument("--quiet", action="store_true", help="no progress bars")
    how.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def load_benchmark(options: argparse.Namespace) -> list[Dialogue]:
    """Return the dialogues of the chosen benchmark and split.

    Raises:
        ConfigurationError: An option is missing, not one of the benchmark's, or names no split.
        DataError: A file cannot be read.
    """
    if (options.benchmark == "dialogues") != (options.file is not None):
        raise ConfigurationError("--file names own dialogues: give it with --benchmark dialogues, and only there")
    if options.benchmark == "dialogues":
        from memory_r1.dialogues import read_dialogues

        if options.split != "all":
            raise ConfigurationError(f"--split is {options.split!r}: own dialogues have none, all of a file is asked")
        return read_dialogues(options.file)
    if options.benchmark == "locomo":
        from data.locomo import load_locomo, locomo_split

        return locomo_split(load_locomo(options.data), options.split)
    from data.synthetic import generate_split

    if options.split not in SYNTHETIC_SPLITS:
        raise ConfigurationError(f"--split is {options.split!r}: allowed are {', '.join(SYNTHETIC_SPLITS)}")
    generated = generate_split(SYNTHETIC_SPLITS[options.split], options.dialogues, options.seed)
    return [example.dialogue for example in generated]


def category_names(benchmark: str) -> dict[str, dict[str, str]]:
    """Return the names by which papers know the benchmark's numbered categories."""
    if benchmark != "locomo":
        return {}
    from data.locomo import CATEGORY_NAMES

    return {number: dict(names) for number, names in CATEGORY_NAMES.items()}


def build(options: argparse.Namespace, model: LocalLanguageModel) -> MemorySystem:
    """Return the memory system with the parts it needs; an embedder is loaded only for systems that search."""
    from memory_r1.agents.memory_manager import MemoryManager
    from memory_r1.memory.embedder import SentenceEmbedder
    from memory_r1.memory.retriever import Retriever
    from memory_r1.models import resolve_embedder
    from memory_r1.systems import build_system, system_spec

    spec = system_spec(options.system)
    retriever = Retriever(SentenceEmbedder(resolve_embedder(options.embedder))) if spec.needs_retriever else None
    manager = None
    if spec.needs_manager and retriever is not None:
        adapter = "manager" if options.manager else None
        manager = MemoryManager(model, retriever, adapter=adapter, top_k=options.manager_top_k)
    return build_system(
        options.system, retriever=retriever, manager=manager, top_k=options.top_k, count_tokens=model.count_tokens
    )


def main(arguments: Sequence[str]) -> int:
    options = complete(parse_arguments(arguments))
    # The libraries below tell what they load; here only this project speaks.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("memory_r1").setLevel(logging.INFO)
    from memory_r1.systems import system_spec

    # Whatever is mistyped is said before a model is loaded.
    spec = system_spec(options.system)
    if options.manager and not spec.needs_manager:
        raise ConfigurationError(
            f"--manager is given, but memory system {options.system!r} has no manager: leave it out"
        )
    dialogues = load_benchmark(options)

    from memory_r1.agents.answer_agent import AnswerAgent
    from memory_r1.agents.language_model import LocalLanguageModel
    from memory_r1.evaluation.records import RunInfo
    from memory_r1.evaluation.resume import discard_folder
    from memory_r1.evaluation.runner import evaluate

    adapters = {name: folder for name in ("manager", "answer") if (folder := getattr(options, name))}
    model = LocalLanguageModel.load(options.model, adapters, dtype=options.dtype, batch_size=options.batch_size)
    if options.restart:
        discard_folder(options.output)
    run = RunInfo(
        benchmark=options.benchmark,
        split=options.split,
        system=options.system,
        model=options.model,
        manager=options.manager,
        answer=options.answer,
        seed=options.seed,
        config=configuration(options),
        category_names=category_names(options.benchmark),
    )
    results = evaluate(
        build(options, model),
        AnswerAgent(model, adapter="answer" if options.answer else None),
        dialogues,
        options.output,
        run=run,
        sessions=options.sessions,
        limit=options.limit,
        budget_tokens=options.budget_tokens,
        batch_size=options.batch_size,
        banks_from=options.banks,
        progress=not options.quiet,
    )
    show(results, options.output)
    return 0


def complete(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in the defaults that depend on the benchmark."""
    options.split = options.split or ("all" if options.benchmark == "dialogues" else "test")
    options.top_k = TOP_K[options.benchmark] if options.top_k is None else options.top_k
    name = f"{options.benchmark}-{options.split}-{options.system}"
    options.output = options.output or Path("outputs") / "eval" / name
    return options


def configuration(options: argparse.Namespace) -> dict[str, object]:
    """Return what else may change a score; adapters by content, since a folder may be trained anew."""
    from memory_r1.weights import hash_file

    names = ("embedder", "top_k", "manager_top_k", "dtype")
    hashes = {
        f"{name}_sha256": hash_file(Path(folder) / "adapter_model.safetensors")
        for name in ("manager", "answer")
        if (folder := getattr(options, name))
    }
    return {name: getattr(options, name) for name in names} | hashes


def show(results: dict[str, Any], folder: Path) -> None:
    """Print the overall metrics with their intervals, and where everything lies."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results['system']} on {results['benchmark']} {results['split']}")
    for heading in (f"{results['n_questions']} questions", "mean", "95% interval"):
        table.add_column(heading)
    for name, value in results["overall"].items():
        if value is not None:
            table.add_row(name, f"{value['mean']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}")
    console = Console()
    console.print(table)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _defaults() -> str:
    return ", ".join(f"{name} {value}" for name, value in TOP_K.items())


if __name__ == "__main__":
    sys.exit(run_main(main))
