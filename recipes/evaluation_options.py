"""The options of recipes/evaluate.py, and the defaults that depend on each other and on the adapters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from memory_r1.errors import ConfigurationError
from recipes import benchmarks
from recipes.adapters import add_adapters, choose_adapters
from recipes.benchmarks import BENCHMARKS, DEFAULT_MODEL, default_recall, folder_name
from recipes.writers import add_writer, choose_writer


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options, in groups."""
    what = parser.add_argument_group("what is evaluated")
    what.add_argument("--system", default="memory-r1", metavar="NAME", help="memory system (default: memory-r1)")
    what.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"base model of both agents: hub id, folder, or the embedded one (default: {DEFAULT_MODEL})",
    )
    add_adapters(what)
    add_writer(what)
    what.add_argument(
        "--slot-policy", metavar="DIR", help="what token-retention holds: a trained policy (default: the published one)"
    )
    benchmarks.add_options(parser)
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


def complete(options: argparse.Namespace, kind: str = "eval", name: str | None = None) -> argparse.Namespace:
    """Fill in the defaults that depend on other options; raise ConfigurationError if an option does not fit.

    The default output folder lies in `outputs/<kind>` and is named after `name`, or else the system.
    """
    benchmarks.complete(options)
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
    choose_writer(options)
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
    if options.manager and options.endpoint is None:
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
    here = options.endpoint is None
    settle_one("constrained", "constrained", [], here and system_spec(options.system).prompted)
    settle_one("answer_style", "answer_style", ["answer"], "ids")
    # A length trained for one style says nothing about the other.
    as_trained = trained["answer"].answer_style in (None, options.answer_style)
    settle_one("answer_tokens", "max_new_tokens", ["answer"] if as_trained else [], ANSWER_TOKENS[options.answer_style])
    settle_one("dtype", "dtype", both, "float32" if here else "the server's")
    settle_one("embedder", "embedder", both, "all-MiniLM-L6-v2")
    if system_spec(options.system).takes_slot_policy:
        from memory_r1.systems.retention_policy import PUBLISHED, policy_hash

        options.slot_policy_sha256 = policy_hash(options.slot_policy or PUBLISHED)
