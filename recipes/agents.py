"""The agents of a `Memory` on the command line: adapters, the pair that comes with the package, or the base model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from memory_r1.adapter_settings import BASE
from memory_r1.packaged_models import LANGUAGE_MODEL

if TYPE_CHECKING:
    from memory_r1.assistant.loading import Agents


def add_agents(parser: argparse.ArgumentParser) -> None:
    """Add the options that name adapters and model."""
    parser.add_argument("--manager", metavar="DIR", help="adapter of the Memory Manager, or `base`")
    parser.add_argument("--answer", metavar="DIR", help="adapter of the Answer Agent, or `base`")
    parser.add_argument(
        "--model",
        default=LANGUAGE_MODEL.name,
        metavar="NAME",
        help="base model, or the address of a server with the adapters as `manager` and `answer` (the embedded model)",
    )
    parser.add_argument("--embedder", metavar="NAME", help="sentence model (default: the adapters')")


def load_named(options: argparse.Namespace) -> Agents:
    """Load the agents that the options name; without a named adapter, the pair that comes with the package.

    Raises:
        ModelError: A model or adapter is missing or broken.
    """
    from memory_r1.assistant.loading import load_agents, packaged_agents

    if options.manager is None and options.answer is None and options.model == LANGUAGE_MODEL.name:
        return packaged_agents()
    return load_agents(options.manager or BASE, options.answer or BASE, options.model, embedder=options.embedder)
