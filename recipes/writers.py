"""Who writes in an evaluation: rules, the base model, an adapter, or a model behind a server."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from memory_r1 import packaged_adapters
from memory_r1.adapter_settings import BASE
from memory_r1.errors import ConfigurationError
from memory_r1.packaged_adapters import PACKAGED
from recipes.adapters import agent_of

if TYPE_CHECKING:
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.inference.server_model import ServerLanguageModel
    from memory_r1.systems.writer import Writer

WRITER = "writer"
"""The agent of a writer's adapter, as its summary names it."""


def add_writer(group: argparse._ArgumentGroup) -> None:
    """Add the options that name the writer."""
    group.add_argument(
        "--writer",
        metavar="DIR",
        help="adapter that writes facts, summaries and the like, `packaged` for the one in the package, or `base` for "
        "the untrained model (default: rules)",
    )
    group.add_argument(
        "--writer-endpoint",
        metavar="URL",
        help="an OpenAI-compatible server, as in http://127.0.0.1:8000/v1; --writer is then the name of a model there, "
        "and OPENAI_API_KEY in the environment may hold the key",
    )


def check_system(options: argparse.Namespace) -> None:
    """Check that the system writes, if a writer is named.

    Raises:
        ConfigurationError: It does not.
    """
    from memory_r1.systems.table import system_spec

    if options.writer and not system_spec(options.system).writes:
        raise ConfigurationError(
            f"--writer is given, but memory system {options.system!r} asks no model to write: leave it out"
        )


def choose_writer(options: argparse.Namespace) -> None:
    """Replace `options.writer` by the folder to load, unless it is `base` or a model of `options.writer_endpoint`.

    Raises:
        ConfigurationError: There is no such adapter, it is another agent's, or the server's address is none.
    """
    if options.writer_endpoint is not None:
        from memory_r1.inference.endpoint import check_address

        if not options.writer:
            raise ConfigurationError(
                "--writer-endpoint is given without --writer: name the model on that server with --writer NAME"
            )
        options.writer_endpoint = check_address(options.writer_endpoint)
    elif options.writer not in (None, BASE):
        options.writer = writer_folder(options.writer)


def writer_folder(named: str) -> str:
    """Return the folder of a writer's adapter; one trained elsewhere, without a summary, may be anything.

    Raises:
        ConfigurationError: It holds none, or another agent's.
    """
    folder = packaged_adapters.FOLDER / WRITER if named == PACKAGED else Path(named).expanduser()
    if not (folder / "adapter_config.json").is_file():
        raise ConfigurationError(
            (
                f"--writer is {named!r}, but no writer comes with this installation: train one with "
                "`make train-writer-sft` and give its folder"
                if named == PACKAGED
                else f"--writer is {named!r}, which holds no adapter_config.json: give the folder of a writer's "
                "adapter, which `make train-writer-sft` trains"
            )
            + ", or 'base' for the base model"
        )
    agent = agent_of(folder, WRITER)
    if agent != WRITER:
        raise ConfigurationError(
            f"--writer is {named!r}, which is the adapter of the {agent} agent: give a writer's, which "
            "`make train-writer-sft` trains"
        )
    return str(folder) if named == PACKAGED else named


def writer_adapter(options: argparse.Namespace) -> str | None:
    """Return the folder of the adapter that writes, if one does."""
    return None if options.writer_endpoint or options.writer == BASE else options.writer


def writer_record(options: argparse.Namespace) -> object:
    """Return what identifies the writer in `run.json`: a hash, "base", a server and its model, or None for rules."""
    from memory_r1.models import adapter_hash

    if options.writer_endpoint:
        return {"model": options.writer, "endpoint": options.writer_endpoint}
    return adapter_hash(folder) if (folder := writer_adapter(options)) else options.writer


def build_writer(options: argparse.Namespace, model: LocalLanguageModel | ServerLanguageModel) -> Writer | None:
    """Build the writer on the model of both agents, or on the server's; None for rules."""
    from memory_r1.systems.writer import Writer

    if options.writer_endpoint:
        from memory_r1.inference.endpoint import Endpoint
        from memory_r1.inference.server_model import ServerLanguageModel

        # The local tokenizer is only near to the server's, but a writer counts tokens in a known window alone.
        return Writer(ServerLanguageModel(Endpoint(options.writer_endpoint, options.writer), model.tokenizer))
    return Writer(model, adapter=WRITER if writer_adapter(options) else None) if options.writer else None
