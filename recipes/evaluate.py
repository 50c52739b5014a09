"""Evaluate one memory system on one benchmark.

    python recipes/evaluate.py --benchmark synthetic --manager outputs/manager --answer outputs/answer

Plays every turn of every dialogue into the system, asks all questions of the resulting memory, and writes
predictions.jsonl, operations.jsonl, run.json, results.json and report.html into the output folder. The same command
resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.adapter_settings import BASE, QUERIES
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from recipes.adapters import add_adapters, check_writer, choose_adapters, load_weaver
from recipes.benchmarks import (
    BENCHMARKS,
    DEFAULT_MODEL,
    add_options,
    category_names,
    cut_turns,
    data_configuration,
    default_recall,
    folder_name,
    load_benchmark,
    reported_name,
)
from recipes.benchmarks import complete as complete_options

logger = logging.getLogger("recipes.evaluate")  # __name__ is __main__ in the command

if TYPE_CHECKING:
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.systems.base import MemorySystem


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is evaluated")
    what.add_argument("--system", default="memory-r1", metavar="NAME", help="memory system (default: memory-r1)")
    what.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"base model of both agents: hub id, folder, or the embedded one (default: {DEFAULT_MODEL})",
    )
    add_adapters(what)
    what.add_argument(
        "--slot-policy", metavar="DIR", help="what token-retention holds: a trained policy (default: the published one)"
    )
    add_options(parser)
    settings = parser.add_argument_group(
        "settings", "Default: the adapter's setting from training or, without an adapter, the value in brackets."
    )
    settings.add_argument(
        "--recall-per-speaker",
        type=int,
        metavar="N",
        help=f"entries recalled per speaker for questions ({default_recall()})",
    )
    settings.add_argument(
        "--manager-recall-per-speaker", type=int, metavar="N", help="entries per speaker shown to the manager (2)"
    )
    settings.add_argument("--manager-tokens", type=int, metavar="N", help="maximum completion of the manager (48)")
    settings.add_argument(
        "--constrained",
        action=argparse.BooleanOptionalAction,
        help="hold the manager's completions to the JSON of operations (default: for prompted-manager alone)",
    )
    settings.add_argument(
        "--answer-tokens", type=int, metavar="N", help="maximum answer (32; 128 for answers that quote memories)"
    )
    settings.add_argument("--answer-style", choices=("ids", "quotes"), help="how answers name memories (ids)")
    settings.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="precision (float32)")
    settings.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SYSTEM.NAME=VALUE",
        help="a setting of one system, such as sliding-window.window_tokens=512 (may be repeated)",
    )
    settings.add_argument("--embedder", metavar="NAME", help="sentence model (all-MiniLM-L6-v2)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--budget-tokens", type=int, metavar="N", help="maximum recalled text (default: the model's window)"
    )
    how.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows computed together (default: 32)")
    how.add_argument(
        "--banks", type=Path, metavar="FOLDER", help="cache of memory banks (default: 'banks' beside --output)"
    )
    how.add_argument("--rebuild-banks", action="store_true", help="rebuild banks even if they are cached")
    how.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: a folder in outputs/eval, named by the options"
    )
    how.add_argument("--restart", action="store_true", help="discard an earlier run in the output folder")
    how.add_argument("--quiet", action="store_true", help="no progress bars")
    how.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace, model: LocalLanguageModel) -> MemorySystem:
    """Build the memory system; load an embedder only for systems that search."""
    from memory_r1.agents.memory_manager import MemoryManager
    from memory_r1.agents.prompts import EXAMPLES
    from memory_r1.memory.embedder import SentenceEmbedder
    from memory_r1.memory.forms import FORMS
    from memory_r1.memory.retriever import Retriever
    from memory_r1.models import resolve_embedder
    from memory_r1.systems.table import build_system, parse_settings, system_spec
    from memory_r1.systems.writer import Writer

    spec = system_spec(options.system)
    retriever = Retriever(SentenceEmbedder(resolve_embedder(options.embedder))) if spec.needs_retriever else None
    manager = None
    if spec.needs_manager and retriever is not None:
        adapter = "manager" if options.manager else None
        manager = MemoryManager(
            model,
            retriever,
            adapter=adapter,
            recall_per_speaker=options.manager_recall_per_speaker,
            max_new_tokens=options.manager_tokens,
            examples=EXAMPLES if spec.prompted else (),
            constrained=options.constrained,
            form=FORMS[spec.operations],
        )
    slot_policy = None
    if spec.takes_slot_policy and options.slot_policy:
        from memory_r1.systems.retention_policy import RetentionPolicy

        slot_policy = RetentionPolicy.load(options.slot_policy)
    return build_system(
        options.system,
        retriever=retriever,
        manager=manager,
        writer=Writer(model, adapter="writer" if options.writer != BASE else None) if options.writer else None,
        weaver=load_weaver(options, model) if spec.needs_weaver else None,
        recall_per_speaker=options.recall_per_speaker,
        count_tokens=model.count_tokens,
        settings=parse_settings(options.set).get(options.system),
        slot_policy=slot_policy,
    )


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    # Show only this project's messages, not the libraries'.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for package in ("memory_r1", "data", "recipes"):
        logging.getLogger(package).setLevel(logging.INFO)
    from memory_r1.evaluation.selection import select
    from memory_r1.systems.table import parse_settings

    # Report mistakes in the options before loading a model.
    settings = parse_settings(options.set).get(options.system)
    check_writer(options)
    complete(options)
    # The runner selects again, with the same result. Selecting here refuses a bad selection before a model is loaded,
    # and keeps unplayed turns out of the count of cut ones.
    dialogues = select(load_benchmark(options), sessions=options.sessions, limit=options.limit, seed=options.seed)
    about_data = data_configuration(options, dialogues)

    from memory_r1.agents.answer_agent import AnswerAgent
    from memory_r1.evaluation.records import RunInfo
    from memory_r1.evaluation.resume import discard_folder
    from memory_r1.evaluation.runner import evaluate
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.packaged_adapters import recorded_name
    from memory_r1.systems.bank_cache import BankCache

    used = (f"{name} {getattr(options, name)} ({source})" for name, source in options.settings_from.items())
    logger.info("settings: %s", ", ".join(used))
    adapters = {name: folder for name in ("manager", "answer", "weaver") if (folder := getattr(options, name))}
    if options.writer not in (None, BASE):
        adapters["writer"] = options.writer
    model = LocalLanguageModel.load(options.model, adapters, dtype=options.dtype, batch_size=options.batch_size)
    dialogues, about_cuts = cut_turns(dialogues, options.max_turn_tokens, model.tokenizer)
    if options.restart:
        discard_folder(options.output)
    run = RunInfo(
        benchmark=reported_name(options),
        split=options.split,
        system=options.system,
        model=options.model,
        manager=recorded_name("manager", options.manager),
        answer=recorded_name("answer", options.answer),
        seed=options.seed,
        config=configuration(options) | about_data | about_cuts,
        category_names=category_names(options.benchmark),
    )
    results = evaluate(
        build(options, model),
        AnswerAgent(
            model,
            adapter="answer" if options.answer else None,
            max_new_tokens=options.answer_tokens,
            style=options.answer_style,
        ),
        dialogues,
        options.output,
        run=run,
        sessions=options.sessions,
        limit=options.limit,
        budget_tokens=options.budget_tokens,
        batch_size=options.batch_size,
        banks=BankCache.of_manager(
            options.banks or options.output.parent / "banks",
            system=options.system,
            model=options.model,
            dtype=options.dtype,
            manager=options.manager,
            embedder=options.embedder,
            recall_per_speaker=options.manager_recall_per_speaker,
            max_new_tokens=options.manager_tokens,
            constrained=options.constrained,
            writer=options.writer if options.writer != BASE else None,
            settings=settings,
        ),
        rebuild_banks=options.rebuild_banks,
        progress=not options.quiet,
    )
    show(results, options.output)
    return 0


def complete(options: argparse.Namespace, kind: str = "eval", name: str | None = None) -> argparse.Namespace:
    """Fill in the defaults that depend on other options; raise ConfigurationError if an option does not fit.

    The default output folder lies in `outputs/<kind>` and is named after `name`, or else the system.
    """
    complete_options(options)
    for option in (
        "dialogues",
        "recall_per_speaker",
        "manager_recall_per_speaker",
        "manager_tokens",
        "answer_tokens",
        "budget_tokens",
        "batch_size",
    ):
        value = getattr(options, option)
        if value is not None and value < 1:
            raise ConfigurationError(f"--{option.replace('_', '-')} is {value}: give a whole number from 1")
    choose_adapters(options)
    options.output = options.output or Path("outputs") / kind / folder_name(options, name or options.system)
    settle(options)
    return options


def settle(options: argparse.Namespace) -> None:
    """Take each setting from its option, the adapter's training or its default; `options.settings_from` says which.

    The Answer Agent's recall depth holds for every memory system.

    Raises:
        ConfigurationError: The two adapters disagree on a shared setting, or the manager writes other operations than
            the system plays.
        ModelError: `--slot-policy` is no policy.
    """
    from memory_r1.adapter_settings import AgentSettings, agree, check_form
    from memory_r1.agents.prompts import ANSWER_TOKENS
    from memory_r1.systems.table import system_spec

    trained = {
        agent: AgentSettings.read(folder) if (folder := getattr(options, agent)) else AgentSettings()
        for agent in ("manager", "answer")
    }
    agree(trained["manager"], trained["answer"], vars(options))
    if options.manager:
        check_form(options.manager, system_spec(options.system).operations, f"memory system {options.system!r}")
    options.settings_from = {}

    def settle_one(option: str, name: str, agents: Sequence[str], default: object, whose: str = "default") -> None:
        choices = [("option", getattr(options, option))]
        choices += [(f"{agent} adapter", getattr(trained[agent], name)) for agent in agents]
        source, value = next((choice for choice in choices if choice[1] is not None), (whose, default))
        setattr(options, option, value)
        options.settings_from[option] = source

    both = ("manager", "answer")
    settle_one(
        "recall_per_speaker",
        "recall_per_speaker",
        ["answer"],
        BENCHMARKS[options.benchmark].recall_per_speaker,
        "benchmark",
    )
    settle_one("manager_recall_per_speaker", "recall_per_speaker", ["manager"], 2)
    settle_one("manager_tokens", "max_new_tokens", ["manager"], 48)
    settle_one("constrained", "constrained", [], system_spec(options.system).prompted)
    settle_one("answer_style", "answer_style", ["answer"], "ids")
    # A length trained for one style says nothing about the other.
    as_trained = trained["answer"].answer_style in (None, options.answer_style)
    settle_one("answer_tokens", "max_new_tokens", ["answer"] if as_trained else [], ANSWER_TOKENS[options.answer_style])
    settle_one("dtype", "dtype", both, "float32")
    settle_one("embedder", "embedder", both, "all-MiniLM-L6-v2")
    if system_spec(options.system).takes_slot_policy:
        from memory_r1.systems.retention_policy import PUBLISHED, policy_hash

        options.slot_policy_sha256 = policy_hash(options.slot_policy or PUBLISHED)


def configuration(options: argparse.Namespace) -> dict[str, object]:
    """Return whatever else may change a score, with hashes of models and adapters, as a folder may be retrained."""
    from memory_r1.models import adapter_hash, model_hash, resolve_embedder, resolve_model, weights_hash
    from memory_r1.systems.table import parse_settings, system_spec
    from memory_r1.weights import hash_file

    hashes: dict[str, object] = {"model_sha256": model_hash(resolve_model(options.model))}
    spec = system_spec(options.system)
    if spec.needs_retriever:
        hashes["embedder_sha256"] = weights_hash(resolve_embedder(options.embedder))
    if spec.takes_slot_policy:
        hashes["slot_policy_sha256"] = options.slot_policy_sha256
    if options.weaver:
        hashes["queries_sha256"] = hash_file(Path(options.weaver) / QUERIES)
    for name in ("manager", "answer", "weaver"):
        if folder := getattr(options, name):
            hashes[f"{name}_sha256"] = adapter_hash(folder)
    if options.writer:
        hashes["writer"] = BASE if options.writer == BASE else adapter_hash(options.writer)
    if own := parse_settings(options.set).get(options.system):
        hashes["system_settings"] = own
    settings = {name: getattr(options, name) for name in options.settings_from}
    return settings | {"settings_from": options.settings_from} | hashes


def show(results: dict[str, Any], folder: Path) -> None:
    """Print the overall metrics with their intervals, and the report's path."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results['system']} on {results['benchmark']} {results['split']}")
    for heading in (f"{results['n_questions']} questions", "mean", "95% interval"):
        table.add_column(heading)
    for name, value in results["overall"].items():
        if value is not None:
            table.add_row(name, f"{value['mean']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}")
    console = Console(markup=False)
    console.print(table)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
