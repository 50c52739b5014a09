"""`memory-r1 inspect`: look into a memory store in the browser."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated

import typer

from memory_r1.adapter_settings import BASE
from memory_r1.cli.memory_options import Answer, Endpoint, Manager, Model, named_agents, store_path

if TYPE_CHECKING:
    from memory_r1.assistant.loading import Agents
    from memory_r1.inspector.store import Answered, StoreFile


def inspect(
    store: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A memory's file, or memory.db of an evaluation. Default: in your data folder."
        ),
    ] = None,
    writable: Annotated[bool, typer.Option("--writable", help="Allow to undo the last edit.")] = False,
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page, or only print its address.")] = True,
    manager: Manager = None,
    answer: Answer = None,
    model: Model = None,
    endpoint: Endpoint = None,
) -> None:
    """Open a local page that shows what a memory store holds and how it came to hold it.

    The page steps through the log: the memories after each turn, what the turn changed, every version of a memory, and
    a search. If agents are named or come with this installation, it also answers questions, and shows what was recalled
    and relied on. Only this machine can reach it. Without --writable, nothing is written.

    Example: memory-r1 inspect outputs/eval/memory.db
    """
    from contextlib import closing

    from memory_r1.inspector.server import inspect as serve
    from memory_r1.inspector.store import StoreFile

    named, folders = named_agents(manager, answer, model, endpoint)

    @cache
    def agents() -> Agents:  # at the first question, so that the page opens at once
        from memory_r1.assistant.loading import load_agents

        return load_agents(folders["manager"] or BASE, folders["answer"] or BASE, named)

    asking = Lock()  # the agents serve one thread at a time

    def ask(question: str, scope: str) -> Answered:
        with asking:
            return _answered(opened, agents(), question, scope)

    with closing(StoreFile(store_path(store), writable=writable)) as opened:
        if manager or answer or any(folders.values()):
            opened.answer = ask
        serve(opened, port=port, open_browser=browser)


def _answered(opened: StoreFile, agents: Agents, question: str, scope: str) -> Answered:
    """Answer from the memories as they are now, without a write to their file."""
    from memory_r1.inspector.store import answering
    from memory_r1.systems.manager import ManagedMemory

    system = ManagedMemory(
        agents.manager,
        agents.manager.retriever,
        recall_per_speaker=agents.recall_per_speaker,
        count_tokens=agents.answer.model.count_tokens,
        states={scope: opened.state(scope)},
    )
    return answering(system, agents.answer)(question, scope)
