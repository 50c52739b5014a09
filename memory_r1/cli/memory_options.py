"""What the commands on a memory share: their options, and opening the memory that these name."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memory_r1.adapter_settings import BASE
from memory_r1.errors import ConfigurationError, ModelError
from memory_r1.packaged_adapters import choose, may_be_packaged
from memory_r1.packaged_models import EMBEDDER, LANGUAGE_MODEL, cache_folder, is_prepared

if TYPE_CHECKING:
    from memory_r1.assistant.memory import Memory
    from memory_r1.assistant.stored import StoredMemory

SOMEBODY = "me"
_PANEL = "Who remembers and answers"

Store = Annotated[
    Path | None, typer.Option("--store", metavar="FILE", help="The memory's file. Default: in your data folder.")
]
User = Annotated[str, typer.Option("--user", help="Whose memory.")]
Manager = Annotated[
    str | None,
    typer.Option(
        "--manager", metavar="FOLDER", help="Memory Manager: an adapter, or base (untrained).", rich_help_panel=_PANEL
    ),
]
Answer = Annotated[
    str | None,
    typer.Option(
        "--answer", metavar="FOLDER", help="Answer Agent: an adapter, or base (untrained).", rich_help_panel=_PANEL
    ),
]
Model = Annotated[str | None, typer.Option("--model", help="Base model of both.", rich_help_panel=_PANEL)]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="OpenAI-compatible server that serves both adapters as manager and answer.",
        rich_help_panel=_PANEL,
    ),
]


def store_path(store: Path | None) -> Path:
    """Return the file that --store names, else the one in the user's data folder."""
    from memory_r1.assistant.stored import default_store

    return default_store() if store is None else store.expanduser()


def named_agents(
    manager: str | None, answer: str | None, model: str | None, endpoint: str | None
) -> tuple[str, dict[str, str | None]]:
    """Return the model or server that the options name, and each agent's adapter, None for the untrained model.

    Raises:
        ConfigurationError: An option is empty, as if a variable of the shell is unset, or two exclude each other.
    """
    options = {"--manager": manager, "--answer": answer, "--model": model, "--endpoint": endpoint}
    if empty := next((option for option, value in options.items() if value == ""), None):
        raise ConfigurationError(f"{empty} is empty: name one, or leave it out")
    if model is not None and endpoint is not None:
        raise ConfigurationError("--model is for local models, but --endpoint is given: leave one of them out")
    name = endpoint or model or LANGUAGE_MODEL.name
    return name, choose({"manager": manager, "answer": answer}, name)


@contextmanager
def stored_memory(store: Path | None, user: str) -> Iterator[StoredMemory]:
    """Open the memory that the options name, without a model.

    Raises:
        DataError: It does not know the user.
        StoreError: There is none.
    """
    from memory_r1.assistant.stored import StoredMemory, check_user, open_log

    with open_log(store_path(store)) as log:
        check_user(log, user)
        yield StoredMemory(log)


def open_memory(
    store: Path | None,
    manager: str | None,
    answer: str | None,
    model: str | None,
    endpoint: str | None,
    *,
    known: str | None = None,
) -> Memory:
    """Open the memory that the options name, and say on a terminal what takes so long.

    An agent that is not named is the packaged one if neither is, else the untrained model. The file is made if missing,
    unless `known` names a user whom it must know.

    Raises:
        ConfigurationError: `named_agents` raises it, or a server has no adapters to serve.
        ModelError: No agent is named and none comes with this installation, or a model cannot be loaded.
        DataError: It does not know the user.
        StoreError: The file is missing, or no memory's.
    """
    name, agents = named_agents(manager, answer, model, endpoint)
    if manager is answer is None and None in agents.values():
        raise ModelError(
            f"no trained adapters for {name} come with this installation: name your own with --manager FOLDER --answer "
            "FOLDER, where base is the untrained model"
        )
    from rich.console import Console
    from rich.markup import escape

    console, path = Console(stderr=True), store_path(store)
    if known is not None:
        with stored_memory(store, known):
            pass  # a wrong name is told before the model is loaded
    models = cache_folder() / "models"
    unprepared = [each.name for each in (LANGUAGE_MODEL, EMBEDDER) if not is_prepared(models / each.name, full=False)]
    first = may_be_packaged(name) and bool(unprepared)
    if first:  # their preparation shows bars of its own
        told = f"First use: preparing {' and '.join(unprepared)} in {models}, once."
        console.print(told, markup=False, highlight=False)
    spinner = console.status(escape(f"Loading the model; the memory is kept in {path}"))
    with nullcontext() if first or not sys.stderr.isatty() else spinner, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between releases of the libraries, and nothing to do about it
        from transformers.utils import logging

        from memory_r1.assistant.memory import Memory

        logging.disable_progress_bar()
        return Memory.from_adapters(
            manager=agents["manager"] or BASE, answer=agents["answer"] or BASE, store=str(path), model=name
        )
