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

from memory_r1.adapter_settings import QUERIES
from memory_r1.entry import run_main
from memory_r1.errors import EndpointError
from recipes.adapters import load_weaver
from recipes.benchmarks import category_names, cut_turns, data_configuration, load_benchmark, reported_name
from recipes.evaluation_options import add_evaluation_options, complete
from recipes.writers import WRITER, build_writer, check_system, writer_adapter, writer_record

logger = logging.getLogger("recipes.evaluate")  # __name__ is __main__ in the command

if TYPE_CHECKING:
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.inference.server_model import ServerLanguageModel
    from memory_r1.systems.base import MemorySystem


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_evaluation_options(parser)
    return parser.parse_args(arguments)


def load_model(options: argparse.Namespace) -> LocalLanguageModel | ServerLanguageModel:
    """Load the base model with the adapters, or return the one behind a server."""
    if options.endpoint:
        from recipes.served import ServedAgents

        return ServedAgents.of(options)
    from memory_r1.inference.local_model import LocalLanguageModel

    adapters = {name: folder for name in ("manager", "answer", "weaver") if (folder := getattr(options, name))}
    if folder := writer_adapter(options):
        adapters[WRITER] = folder
    return LocalLanguageModel.load(options.model, adapters, dtype=options.dtype, batch_size=options.batch_size)


def build(options: argparse.Namespace, model: LocalLanguageModel | ServerLanguageModel) -> MemorySystem:
    """Build the memory system; load an embedder only for systems that search."""
    from memory_r1.agents.memory_manager import MemoryManager
    from memory_r1.agents.prompts import EXAMPLES
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.memory.embedder import SentenceEmbedder
    from memory_r1.memory.forms import FORMS
    from memory_r1.memory.retriever import Retriever
    from memory_r1.models import resolve_embedder
    from memory_r1.systems.table import build_system, parse_settings, system_spec

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
        writer=build_writer(options, model),
        weaver=load_weaver(options, model) if spec.needs_weaver and isinstance(model, LocalLanguageModel) else None,
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
    from recipes.served import check_server

    # Report mistakes in the options before loading a model.
    settings = parse_settings(options.set).get(options.system)
    check_server(options)
    check_system(options)
    complete(options)
    # The runner selects again, with the same result. Selecting here refuses a bad selection before a model is loaded,
    # and keeps unplayed turns out of the count of cut ones.
    dialogues = select(load_benchmark(options), sessions=options.sessions, limit=options.limit, seed=options.seed)
    about_data = data_configuration(options, dialogues)

    from memory_r1.agents.answer_agent import AnswerAgent
    from memory_r1.evaluation.records import RunInfo
    from memory_r1.evaluation.resume import discard_folder
    from memory_r1.evaluation.runner import evaluate
    from memory_r1.packaged_adapters import recorded_name
    from memory_r1.systems.bank_cache import BankCache

    used = (f"{name} {getattr(options, name)} ({source})" for name, source in options.settings_from.items())
    logger.info("settings: %s", ", ".join(used))
    model = load_model(options)
    dialogues, about_cuts = cut_turns(dialogues, options.max_turn_tokens, model.tokenizer)
    system = build(options, model)
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
    if options.restart:  # only now, when all that the options name has been found fit
        discard_folder(options.output)
    try:
        results = evaluate(
            system,
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
            banks=None  # a server's weights may change under the same name
            if options.endpoint
            else BankCache.of_manager(
                options.banks or options.output.parent / "banks",
                system=options.system,
                model=options.model,
                dtype=options.dtype,
                manager=options.manager,
                embedder=options.embedder,
                recall_per_speaker=options.manager_recall_per_speaker,
                max_new_tokens=options.manager_tokens,
                constrained=options.constrained,
                writer=writer_record(options),
                settings=settings,
            ),
            rebuild_banks=options.rebuild_banks,
            progress=not options.quiet,
        )
    except EndpointError as error:
        raise EndpointError(
            f"a server gave no usable reply ({error}): start it, or correct --endpoint or --writer-endpoint, the names "
            "of models there, or the key in OPENAI_API_KEY; the same command then goes on from here"
        ) from error
    show(results, options.output)
    return 0


def configuration(options: argparse.Namespace) -> dict[str, object]:
    """Return whatever else may change a score, with hashes of models and adapters, as a folder may be retrained."""
    from memory_r1.models import adapter_hash, model_hash, resolve_embedder, resolve_model, weights_hash
    from memory_r1.systems.table import parse_settings, system_spec
    from memory_r1.weights import hash_file

    here = options.endpoint is None
    hashes: dict[str, object] = {"model_sha256": model_hash(resolve_model(options.model))} if here else {"served": True}
    spec = system_spec(options.system)
    if spec.needs_retriever:
        hashes["embedder_sha256"] = weights_hash(resolve_embedder(options.embedder))
    if spec.takes_slot_policy:
        hashes["slot_policy_sha256"] = options.slot_policy_sha256
    if options.weaver:
        hashes["queries_sha256"] = hash_file(Path(options.weaver) / QUERIES)
    for name in ("manager", "answer", "weaver"):
        if here and (folder := getattr(options, name)):
            hashes[f"{name}_sha256"] = adapter_hash(folder)
    if options.writer:
        hashes["writer"] = writer_record(options)
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
