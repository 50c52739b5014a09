"""The verbs of `Memory` as commands, one call each: add, search, ask, list, history, undo, forget, export, import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memory_r1.cli.memory_options import (
    SOMEBODY,
    Answer,
    Endpoint,
    Manager,
    Model,
    Store,
    User,
    open_memory,
    store_path,
    stored_memory,
)
from memory_r1.entry import plain
from memory_r1.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.text import Text

    from memory_r1.assistant.results import MemoryItem


def add(
    text: Annotated[list[str], typer.Argument(help="What was said; several words are one message.")],
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When, in ISO 8601. Default: now.")] = None,
    speaker: Annotated[str, typer.Option(help="Who said it.")] = "User",
    store: Store = None,
    user: User = SOMEBODY,
    manager: Manager = None,
    answer: Answer = None,
    model: Model = None,
    endpoint: Endpoint = None,
) -> None:
    """Tell the memory something, and show the operations done.

    Example: memory-r1 add "I moved to Oslo." --speaker Ann
    """
    from memory_r1.cli.memory_lines import added_lines

    with open_memory(store, manager, answer, model, endpoint) as memory:
        message = {"role": "user", "name": speaker, "content": " ".join(text)}
        _print(added_lines(memory.add(message, user_id=user, at=at)))


def search(
    query: Annotated[list[str], typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(help="Most memories to show.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole memories as JSON.")] = False,
    store: Store = None,
    user: User = SOMEBODY,
    manager: Manager = None,
    answer: Answer = None,
    model: Model = None,
    endpoint: Endpoint = None,
) -> None:
    """Find memories, best first, each with its day and its similarity.

    Example: memory-r1 search "where Ann lives" --limit 3
    """
    with open_memory(store, manager, answer, model, endpoint, known=user) as memory:
        found = memory.search(" ".join(query), user_id=user, limit=limit)["results"]
    _print_memories(found, as_json, user)


def ask(
    question: Annotated[list[str], typer.Argument(help="The question.")],
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When it is asked, in ISO 8601. Default: now.")] = None,
    store: Store = None,
    user: User = SOMEBODY,
    manager: Manager = None,
    answer: Answer = None,
    model: Model = None,
    endpoint: Endpoint = None,
) -> None:
    """Answer a question from memory, and show the memories that the answer relies on. Stores nothing.

    Example: memory-r1 ask "Where does Ann live?"
    """
    from memory_r1.cli.memory_lines import answer_lines

    with open_memory(store, manager, answer, model, endpoint, known=user) as memory:
        _print(answer_lines(memory.answer(" ".join(question), user_id=user, at=at), timed=True))


def list_memories(
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole memories as JSON.")] = False,
    store: Store = None,
    user: User = SOMEBODY,
) -> None:
    """List all memories of a user, each with its number and its day. Loads no model.

    Example: memory-r1 list
    """
    with stored_memory(store, user) as memory:
        _print_memories(memory.get_all(user_id=user)["results"], as_json, user)


def history(
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="The memory, as list numbers it.")],
    store: Store = None,
    user: User = SOMEBODY,
) -> None:
    """Show what happened to a memory, and what was said that caused it. Loads no model.

    Example: memory-r1 history 3
    """
    from memory_r1.cli.memory_lines import history_line, id_of

    with stored_memory(store, user) as memory:
        _print(map(history_line, memory.history(id_of(number, memory, user), user_id=user)))


def undo(
    count: Annotated[int, typer.Option(help="How many operations.", min=1)] = 1,
    store: Store = None,
    user: User = SOMEBODY,
) -> None:
    """Take back the latest operation, and show what changed. Loads no model.

    Example: memory-r1 undo --count 2
    """
    from memory_r1.cli.memory_lines import changed_lines

    with stored_memory(store, user) as memory:
        before = memory.get_all(user_id=user)["results"]
        undone = memory.undo(user_id=user, count=count)["count"]
        _print(changed_lines(before, memory.get_all(user_id=user)["results"]))
    typer.echo(f"operations undone: {undone}")


def forget(
    number: Annotated[str | None, typer.Argument(metavar="NUMBER", help="The memory, as list numbers it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget all of the user.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: Store = None,
    user: User = SOMEBODY,
) -> None:
    """Erase a memory for good, deleted or not: its texts, its history and the messages it came from. Loads no model.

    Example: memory-r1 forget 3
    """
    from memory_r1.cli.memory_lines import id_of, number_of

    if (number is None) is not everything:
        raise ConfigurationError("give the NUMBER of a memory, or --all")
    with stored_memory(store, user) as memory:
        memory_id = None if number is None else id_of(number, memory, user)
        live = len(memory.get_all(user_id=user)["results"])
        what = f"all {live} memories of {user}" if memory_id is None else f"#{number_of(memory_id)} of {user}"
        if not yes:
            typer.confirm(f"Erase {what} and the history for good?", abort=True)
        memory.forget(memory_id, user_id=user)
    typer.echo(f"{what}: erased for good")


def export(
    out: Annotated[Path, typer.Argument(help="The file to write, replaced if it exists.")],
    store: Store = None,
    user: User = SOMEBODY,
) -> None:
    """Write a user's memory with its whole history as JSON lines. Loads no model.

    Example: memory-r1 export me.jsonl
    """
    from memory_r1.assistant.transfer import export_log

    if out.absolute() == store_path(store).absolute():
        raise ConfigurationError(f"OUT is {out}, the memory itself: name another file")
    with stored_memory(store, user) as memory:
        records = export_log(memory.log, user, out)
        live = len(memory.get_all(user_id=user)["results"])
    typer.echo(f"{out}: memories of {user} {live}, records {records}")


def import_file(
    file: Annotated[Path, typer.Argument(help="What memory-r1 export wrote, or dialogues.")],
    user: Annotated[
        str | None, typer.Option("--user", help=f"Whose memory. Default: the export's, else {SOMEBODY}.")
    ] = None,
    store: Store = None,
    manager: Manager = None,
    answer: Answer = None,
    model: Model = None,
    endpoint: Endpoint = None,
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Take in an export, or play dialogues, which memory-r1 convert makes of chats.

    An export goes to a user without a memory, and needs no model. Of dialogues every turn is told to the memory at its
    time. A turn that was told before is left out, so that a killed import continues if you run it again.

    Example: memory-r1 import own.jsonl
    """
    from memory_r1.assistant.messages import scope_of
    from memory_r1.assistant.stored import open_log
    from memory_r1.assistant.transfer import heard_turns, is_export, play_dialogues, read_export
    from memory_r1.dialogue_file import read_dialogues
    from memory_r1.evaluation.progress import progress_bars

    path = store_path(store)
    if is_export(file):
        exporter, records = read_export(file)
        user = scope_of(exporter if user is None else user)
        with open_log(path, create=True) as log:
            if log.records(user):
                raise StoreError(f"{path}: {user} has a memory already: name another user with --user, or a --store")
            log.extend(user, records)
            live = len(log.state(user).bank)
        typer.echo(plain(f"{path}: memories of {user} {live}, records {len(records)}"))
        return
    dialogues = read_dialogues(file)
    turns = sum(len(dialogue.turns()) for dialogue in dialogues)
    user = scope_of(SOMEBODY if user is None else user)
    heard: set[str] = set()
    if path.is_file():
        with open_log(path) as log:
            heard = heard_turns(log, user)
    with open_memory(path, manager, answer, model, endpoint) as memory, progress_bars(not quiet) as bars:
        bar = bars.add_task("turns", total=turns)
        done = play_dialogues(memory, dialogues, user, heard, lambda: bars.advance(bar))
        live = len(memory.get_all(user_id=user)["results"])
    typer.echo(f"turns {turns}, of which {done['before']} were told before")
    typer.echo(f"added {done['ADD']}, changed {done['UPDATE']}, removed {done['DELETE']}, refused {done['refused']}")
    if done["masked"] or done["shortened"]:
        typer.echo(f"secrets masked {done['masked']}, turns cut to the longest that is read {done['shortened']}")
    typer.echo(f"{path}: memories of {user} {live}")


def _print_memories(items: Sequence[MemoryItem], as_json: bool, user: str) -> None:
    from memory_r1.cli.memory_lines import memory_line

    if as_json:
        typer.echo(json.dumps(items, ensure_ascii=False, indent=2))
    elif items:
        _print(map(memory_line, items))
    else:
        typer.echo(f"nothing is remembered of {user}")


def _print(lines: Iterable[Text]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    for line in lines:
        console.print(line)
