"""The table of benchmarks, and the options that select their data."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.packaged_adapters import AGENTS, PACKAGED, recorded_name
from memory_r1.types import Dialogue, Turn

if TYPE_CHECKING:
    from data.synthetic.generator import Split

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
SYNTHETIC_DIALOGUES = 20
# Options that distinguish evaluation runs, with their defaults.
NAMED_OPTIONS: dict[str, object] = {
    "seed": 0,
    **dict.fromkeys(
        (
            "dialogues",
            "sessions",
            "limit",
            "max_turn_tokens",
            "budget_tokens",
            "recall_per_speaker",
            "manager_recall_per_speaker",
            "manager_tokens",
        )
    ),
    **dict.fromkeys(("answer_tokens", "answer_style", "constrained", "dtype", "embedder")),
}
SYNTHETIC_SPLITS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "test": "heldout",
    "heldout": "heldout",
}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark's loader and defaults.

    `split` is None if it depends on the form. `recall_per_speaker` counts entries. `forms` are the values of `--form`,
    if there is a choice.
    """

    load: Callable[[argparse.Namespace], list[Dialogue]]
    split: str | None = "test"
    recall_per_speaker: int = 30
    forms: tuple[str, ...] = ()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the questions, as one group."""
    on = parser.add_argument_group("on what")
    on.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    on.add_argument("--split", metavar="NAME", help="train, validation or test (default: test if there is one)")
    on.add_argument("--form", metavar="NAME", help=f"variant of the data ({_forms()})")
    on.add_argument("--data", type=Path, metavar="FOLDER", help="folder of the benchmark's files (default: the cache)")
    on.add_argument("--file", type=Path, metavar="JSONL", help="your own dialogues, for --benchmark dialogues")
    on.add_argument(
        "--dialogues",
        type=int,
        metavar="N",
        help=f"take the first N dialogues (default: all; of generated ones {SYNTHETIC_DIALOGUES})",
    )
    on.add_argument("--sessions", type=int, metavar="N", help="play the first N sessions and ask what they can answer")
    on.add_argument("--limit", type=int, metavar="N", help="ask at most N questions, sampled proportionally")
    on.add_argument(
        "--max-turn-tokens", type=int, metavar="N", help="cut every turn to its first N tokens (default: whole turns)"
    )
    on.add_argument("--seed", type=int, default=0, help="seed of generated dialogues and of --limit (default: 0)")


def complete(options: argparse.Namespace) -> None:
    """Fill in the form and split that depend on the benchmark.

    Raises:
        ConfigurationError: The benchmark has no such `--form`, or `--max-turn-tokens` is below 1.
    """
    benchmark = BENCHMARKS[options.benchmark]
    if options.form is not None and options.form not in benchmark.forms:
        allowed = f"allowed are {', '.join(benchmark.forms)}" if benchmark.forms else "this benchmark has none"
        raise ConfigurationError(f"--form is {options.form!r} for --benchmark {options.benchmark}: {allowed}")
    if options.max_turn_tokens is not None and options.max_turn_tokens < 1:
        raise ConfigurationError(f"--max-turn-tokens is {options.max_turn_tokens}: give a whole number from 1")
    split = benchmark.split
    if options.benchmark == "longmemeval":
        options.form = options.form or "oracle"
    elif options.benchmark == "msc":
        from data.msc import SPLITS, msc_form

        options.form = options.form or msc_form(options.data)
        split = SPLITS[options.form][0]
    options.split = options.split or split


def load_benchmark(options: argparse.Namespace) -> list[Dialogue]:
    """Return the dialogues of the chosen benchmark and split.

    Raises:
        ConfigurationError: An option is missing or does not fit the benchmark.
        DataError: A file cannot be read.
    """
    if (options.benchmark == "dialogues") != (options.file is not None):
        raise ConfigurationError("--file and --benchmark dialogues belong together: give both or neither")
    return BENCHMARKS[options.benchmark].load(options)[: options.dialogues]


def reported_name(options: argparse.Namespace) -> str:
    """Return the benchmark's name in results; other generated dialogues and approximate MSC data have their own."""
    if options.benchmark == "synthetic" and options.form:
        return f"synthetic-{options.form}"
    if options.benchmark != "msc":
        return str(options.benchmark)
    from data.msc import BENCHMARKS as NAMES

    return NAMES[options.form]


def folder_name(options: argparse.Namespace, system: str) -> str:
    """Return the default name of an evaluation's folder, made from its options, with the adapters chosen."""
    form = "-s" if options.form == "s" else ""
    file = f"-{options.file.stem}" if options.file else ""
    parts = [f"{reported_name(options)}{form}{file}-{options.split}-{system}"]
    for agent in AGENTS:
        named = recorded_name(agent, getattr(options, agent))
        if named == PACKAGED:
            parts.append(f"{PACKAGED}-{agent}")
        elif named:
            parts.append("-".join(Path(named.lstrip("/")).parts[-2:]))
    if options.model != DEFAULT_MODEL:
        parts.append(Path(options.model).name)
    if options.endpoint:
        parts.append("served")
    if options.writer:
        named = recorded_name("writer", options.writer) or ""
        parts.append("writer" + "-".join(Path(named.lstrip("/")).parts[-2:]))
    parts += [setting.replace("/", "-") for setting in options.set]
    for name, default in NAMED_OPTIONS.items():
        value = getattr(options, name)
        if value != default:
            parts.append(f"{name}{Path(str(value)).name}")  # an embedder may be a path or a hub id
    return ".".join(parts)


def category_names(benchmark: str) -> dict[str, dict[str, str]]:
    """Return the papers' names for the benchmark's numbered categories."""
    if benchmark != "locomo":
        return {}
    from data.locomo import CATEGORY_NAMES

    return {number: dict(names) for number, names in CATEGORY_NAMES.items()}


def data_configuration(options: argparse.Namespace, dialogues: Sequence[Dialogue]) -> dict[str, Any]:
    """Return the data's entries in `run.json`: its form, and the gold answers that an audit found faulty."""
    configuration: dict[str, Any] = {"form": options.form} if options.form else {}
    if options.benchmark == "locomo":
        from data.locomo_audit import AUDIT_FILE, find_audit

        audit = find_audit(options.data)
        if audit is None:
            logger.info("%s is not beside the data: no scores on audited gold (see data/README.md)", AUDIT_FILE.name)
            return configuration
        asked = {f"{dialogue.dialogue_id}/{q.question_id}" for dialogue in dialogues for q in dialogue.questions}
        configuration["audit"] = {"error_types": {key: kind for key, kind in sorted(audit.items()) if key in asked}}
    return configuration


def cut_turns(
    dialogues: Sequence[Dialogue], max_tokens: int | None, tokenizer: Any
) -> tuple[list[Dialogue], dict[str, int]]:
    """Cut every turn to its first `max_tokens` tokens, at a whole character; None cuts nothing.

    Returns:
        The dialogues, and entries for `run.json`: the bound, the number of turns cut, and the number of turns.

    Raises:
        ConfigurationError: The tokenizer does not know the positions of its tokens in the text.
    """
    if max_tokens is None:
        return list(dialogues), {}
    if not tokenizer.is_fast:
        raise ConfigurationError("--max-turn-tokens needs a fast tokenizer, which this model lacks: leave it out")

    def cut(turn: Turn) -> Turn:
        # Not verbose: turns longer than the model's window are expected here.
        encoded = tokenizer(turn.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = encoded["offset_mapping"]
        if len(spans) <= max_tokens:
            return turn
        # If the cut splits a character into tokens, drop the whole character, unless it is the first.
        kept = max_tokens
        while kept > 1 and spans[kept - 1][1] > spans[kept][0]:
            kept -= 1
        return replace(turn, text=turn.text[: spans[kept - 1][1]].rstrip())

    short = [
        replace(
            dialogue,
            sessions=tuple(
                replace(session, turns=tuple(cut(turn) for turn in session.turns)) for session in dialogue.sessions
            ),
        )
        for dialogue in dialogues
    ]
    pairs = [
        pair for old, new in zip(dialogues, short, strict=True) for pair in zip(old.turns(), new.turns(), strict=True)
    ]
    changed = sum(before.text != after.text for before, after in pairs)
    return short, {"max_turn_tokens": max_tokens, "cut_turns": changed, "turns": len(pairs)}


def default_recall() -> str:
    """Return the default recall depths as help text."""
    return ", ".join(f"{name} {benchmark.recall_per_speaker}" for name, benchmark in BENCHMARKS.items())


def _synthetic(options: argparse.Namespace) -> list[Dialogue]:
    from data.synthetic.generator import SHAPES, generate_split

    if options.split not in SYNTHETIC_SPLITS:
        raise ConfigurationError(f"--split is {options.split!r}: allowed are {', '.join(SYNTHETIC_SPLITS)}")
    count = options.dialogues or SYNTHETIC_DIALOGUES
    shape = SHAPES[f"synthetic-{options.form}" if options.form else "synthetic"]
    generated = generate_split(SYNTHETIC_SPLITS[options.split], count, options.seed, shape)
    return [example.dialogue for example in generated]


def _everyday(options: argparse.Namespace) -> list[Dialogue]:
    from data.everyday import load_everyday

    return [chat.dialogue for chat in load_everyday(options.split)]


def _locomo(options: argparse.Namespace) -> list[Dialogue]:
    from data.locomo import load_locomo, locomo_split

    return locomo_split(load_locomo(options.data), options.split)


def _longmemeval(options: argparse.Namespace) -> list[Dialogue]:
    from data.longmemeval import load_longmemeval, longmemeval_split

    return longmemeval_split(load_longmemeval(options.data, options.form), options.split, options.data)


def _msc(options: argparse.Namespace) -> list[Dialogue]:
    from data.msc import load_msc, msc_split

    if options.form == "approximate":
        logger.info("MSC's approximate development set, reported as msc-approximate: compares with no published number")
    return msc_split(load_msc(options.data, options.form), options.split, options.form)


def _dialogues(options: argparse.Namespace) -> list[Dialogue]:
    from memory_r1.dialogue_file import read_dialogues

    if options.split != "all":
        raise ConfigurationError(
            f"--split is {options.split!r}: own dialogues have none; leave it out to ask the whole file"
        )
    dialogues = read_dialogues(options.file)
    if not any(dialogue.questions for dialogue in dialogues):
        raise DataError(f"{options.file}: found no question, needed: at least one; add questions to the file")
    return dialogues


def _forms() -> str:
    return "; ".join(f"{name}: {', '.join(of.forms)}" for name, of in BENCHMARKS.items() if of.forms)


# The paper recalls 30 per speaker on LoCoMo, which would return all memories of a generated dialogue.
BENCHMARKS = {
    "synthetic": Benchmark(_synthetic, recall_per_speaker=2, forms=("aliases", "two-hop")),
    "everyday": Benchmark(_everyday, recall_per_speaker=2),
    "locomo": Benchmark(_locomo),
    "longmemeval": Benchmark(_longmemeval, forms=("oracle", "s")),
    "msc": Benchmark(_msc, split=None, forms=("official", "approximate")),
    "dialogues": Benchmark(_dialogues, split="all"),
}
