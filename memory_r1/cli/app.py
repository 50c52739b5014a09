"""The application behind `memory-r1` and `python -m memory_r1`.

Each command is a function in a module of its own. What needs torch is imported inside it, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from memory_r1.cli.chat import chat
from memory_r1.cli.convert import convert
from memory_r1.cli.doctor import doctor
from memory_r1.cli.inspect import inspect
from memory_r1.cli.memory_commands import (
    add,
    ask,
    export,
    forget,
    history,
    import_file,
    list_memories,
    search,
    undo,
)
from memory_r1.cli.merge import merge
from memory_r1.cli.push import push
from memory_r1.cli.questions import questions
from memory_r1.entry import INTERRUPTED, run_main

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def root(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Use what memory_r1 trained: keep a memory and ask it, convert your chats, publish adapters, check this machine.

    Every command explains itself: memory-r1 COMMAND --help. To train and evaluate, see the make targets.
    """


_ON_A_MEMORY: dict[str, Callable[..., None]] = {
    "chat": chat,
    "add": add,
    "ask": ask,
    "search": search,
    "list": list_memories,
    "history": history,
    "undo": undo,
    "forget": forget,
    "export": export,
    "import": import_file,
    "inspect": inspect,
}
for name, command in _ON_A_MEMORY.items():
    app.command(name, rich_help_panel="Your memory")(command)
app.command(rich_help_panel="Your data")(convert)
app.command(rich_help_panel="Your data")(questions)
app.command(rich_help_panel="Adapters")(merge)
app.command(rich_help_panel="Adapters")(push)
app.command(rich_help_panel="This machine")(doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 1 after an error, 2 after a wrong option, 130 after Ctrl-C."""
    return run_main(_run, arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        # The sort is stable: it only moves --debug, an option of the application, to where Typer expects it.
        app(args=sorted(arguments, key=lambda word: word != "--debug"), prog_name="memory-r1")
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        return int(ended.code or 0)
    return 0
