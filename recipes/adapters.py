"""The adapters of an evaluation: folders, the pair that comes with the package, or none on the untrained base model."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from memory_r1.adapter_settings import BASE, SUMMARY
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json
from memory_r1.packaged_adapters import choose_adapter, has_packaged_pair, may_be_packaged

logger = logging.getLogger(__name__)

WRITER = "writer"
"""The agent of a writer's adapter, as its summary names it."""


def add_adapters(group: argparse._ArgumentGroup) -> None:
    """Add the options that name the adapters."""
    for agent, called in (("manager", "Memory Manager"), ("answer", "Answer Agent")):
        group.add_argument(
            f"--{agent}",
            metavar="DIR",
            help=f"adapter of the {called}, or `base` for the untrained model (default: the adapter that comes with "
            "the package if --model is the embedded one, else `base`)",
        )
    group.add_argument(
        "--writer",
        metavar="DIR",
        help="adapter that writes facts, summaries and the like, or `base` for the untrained model (default: rules)",
    )


def check_writer(options: argparse.Namespace) -> None:
    """Check that the system writes, if a writer is named, and that its adapter is one.

    Raises:
        ConfigurationError: It does not, or the adapter is missing or another agent's.
    """
    from memory_r1.systems.table import system_spec

    if options.writer and not system_spec(options.system).writes:
        raise ConfigurationError(
            f"--writer is given, but memory system {options.system!r} asks no model to write: leave it out"
        )
    if options.writer not in (None, BASE):
        check_writer_folder(options.writer)


def check_writer_folder(folder: str) -> None:
    """Check that a folder holds a writer's adapter; one trained elsewhere, without a summary, may be anything.

    Raises:
        ConfigurationError: It holds none, or another agent's.
    """
    path = Path(folder).expanduser()
    if not (path / "adapter_config.json").is_file():
        raise ConfigurationError(
            f"--writer is {folder!r}, which holds no adapter_config.json: give the folder of a writer's adapter, which "
            "`make train-writer-sft` trains, 'base' for the base model, or leave it out for rules"
        )
    agent = read_json(path / SUMMARY).get("agent", WRITER) if (path / SUMMARY).is_file() else WRITER
    if agent != WRITER:
        raise ConfigurationError(
            f"--writer is {folder!r}, which is the adapter of the {agent} agent: give a writer's, which "
            "`make train-writer-sft` trains"
        )


def choose_adapters(options: argparse.Namespace) -> None:
    """Replace `options.manager` and `options.answer` by the folders to load, None for the base model or no manager.

    Logs a line if an agent on the embedded base model has no named adapter.

    Raises:
        ConfigurationError: A manager is named for a system that takes none.
    """
    from memory_r1.systems.table import system_spec

    spec = system_spec(options.system)
    if options.manager and not spec.takes_manager_adapter:
        has = "an untrained manager" if spec.prompted else "no manager"
        raise ConfigurationError(f"--manager is given, but memory system {options.system!r} has {has}: leave it out")
    agents = ("manager", "answer") if spec.takes_manager_adapter else ("answer",)
    unnamed = [agent for agent in agents if getattr(options, agent) is None]
    for agent in agents:
        setattr(options, agent, choose_adapter(agent, getattr(options, agent), options.model))
    if not unnamed or not may_be_packaged(options.model):
        return
    named = f"no adapter is named for {' and '.join(unnamed)}"
    if has_packaged_pair():
        logger.info("%s: using what comes with the package; `base` names the untrained model", named)
    else:
        logger.info("%s and none comes with this installation: using the untrained base model", named)
