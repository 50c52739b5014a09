"""Score a writer task by task on generated dialogues, against the gold of every prompt and beside what the rules write.

    python recipes/evaluate_writer.py --writer outputs/smollm2-135m/writer_sft --output docs/results/writer.json

A reply that does not parse scores 0, though a system would let the rules write then. Prompts hold gold texts where a
system's would hold the writer's own earlier ones, so errors do not add up as they do in an evaluation of the system.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.adapter_settings import BASE, AgentSettings
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from recipes.benchmarks import DEFAULT_MODEL
from recipes.writers import writer_folder

if TYPE_CHECKING:
    from memory_r1.inference.language_model import LanguageModel
    from recipes.writer_rows import WriterRow

logger = logging.getLogger("recipes.evaluate_writer")  # __name__ is __main__ in the command

TRAINED = "outputs/smollm2-135m/writer_sft"
SPLITS = ("heldout", "validation")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate_writer.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--writer", default=TRAINED, metavar="DIR", help=f"its adapter, `packaged` or `base` ({TRAINED})"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help=f"base model ({DEFAULT_MODEL})")
    parser.add_argument(
        "--split", default=SPLITS[0], choices=SPLITS, help="held-out phrasing, or training phrasing (heldout)"
    )
    parser.add_argument("--dialogues", type=int, default=20, metavar="N", help="dialogues (20)")
    parser.add_argument("--limit", type=int, default=60, metavar="N", help="prompts of each task (60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the generator (0)")
    parser.add_argument("--recall-per-speaker", type=int, default=2, metavar="N", help="entries a search finds (2)")
    parser.add_argument("--embedder", default="all-MiniLM-L6-v2", metavar="NAME", help="(all-MiniLM-L6-v2)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="precision (the adapter's)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="prompts computed together (16)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="write the scores, without a text, to this file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    for option in ("dialogues", "limit", "recall_per_speaker", "batch_size"):
        if getattr(options, option) < 1:
            raise ConfigurationError(
                f"--{option.replace('_', '-')} is {getattr(options, option)}: give a number from 1"
            )
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    adapter = None if options.writer == BASE else writer_folder(options.writer)

    from data.sources import Source
    from data.synthetic.generator import generate_split
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.jsonl import write_json
    from memory_r1.models import adapter_hash, model_hash, resolve_model
    from memory_r1.provenance import git_revision, package_versions
    from memory_r1.training.assembly import load_retriever
    from recipes.writer_rows import writer_rows

    dtype = options.dtype or (AgentSettings.read(adapter).dtype if adapter else None) or "float32"
    model = LocalLanguageModel.load(
        options.model, {"writer": adapter} if adapter else {}, dtype=dtype, batch_size=options.batch_size
    )
    generated = generate_split(options.split, options.dialogues, options.seed)
    sources = [Source(item.dialogue, item.gold) for item in generated]
    rows = writer_rows(sources, load_retriever(options.embedder), options.recall_per_speaker)
    scores = dict(score(rows, model, "writer" if adapter else None, options.limit))
    record = {
        "writer_sha256": adapter_hash(adapter) if adapter else None,
        "model": Path(options.model).name,
        "model_sha256": model_hash(resolve_model(options.model)),
        "dtype": dtype,
        "split": options.split,
        "dialogues": options.dialogues,
        "seed": options.seed,
        "recall_per_speaker": options.recall_per_speaker,
        "tasks": scores,
        "git_revision": git_revision(),
        "versions": package_versions(),
    }
    if options.output:
        write_json(options.output, record)
    return 0


def score(
    rows: Sequence[WriterRow], model: LanguageModel, adapter: str | None, limit: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each task's name and scores, and log them.

    They are the number of prompts `n`, the share `parsed` of replies that are JSON of the task's schema, the share of
    `exact` replies, and the token F1 of the written texts (SQuAD's) with its interval over dialogues, `f1`; `rules_f1`
    is that of what the rules write.
    """
    from memory_r1.evaluation.scoring.statistics import bootstrap_interval
    from memory_r1.metrics import f1_squad
    from memory_r1.systems.writer import read
    from recipes.writer_rows import spread

    for name in dict.fromkeys(row.task.name for row in rows):
        asked = spread([row for row in rows if row.task.name == name], limit)
        task, n = asked[0].task, len(asked)
        replies = model.generate([row.prompt for row in asked], max_new_tokens=task.max_new_tokens, adapter=adapter)
        values = [read(reply.text, task.schema) for reply in replies]
        golds = [" ".join(texts(row.gold)) for row in asked]
        f1 = [
            0.0 if value is None else f1_squad(" ".join(texts(value)), gold)
            for value, gold in zip(values, golds, strict=True)
        ]
        rules = [f1_squad(" ".join(texts(row.by_rules)), gold) for row, gold in zip(asked, golds, strict=True)]
        interval = bootstrap_interval(f1, [row.dialogue_id for row in asked])
        assert interval is not None, "every reply has a score"
        scores = {
            "n": n,
            "parsed": sum(value is not None for value in values) / n,
            "exact": sum(value == row.gold for value, row in zip(values, asked, strict=True)) / n,
            "f1": interval.to_dict(),
            "rules_f1": sum(rules) / n,
        }
        logger.info(
            "%-18s %3d prompts  parsed %.2f  exact %.2f  F1 %.3f (%.3f to %.3f)  rules' F1 %.3f",
            *(name, n, scores["parsed"], scores["exact"], interval.mean, interval.low, interval.high),
            scores["rules_f1"],
        )
        yield name, scores


def texts(value: object) -> Iterator[str]:
    """Yield every string in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


if __name__ == "__main__":
    sys.exit(run_main(main))
