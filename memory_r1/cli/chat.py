"""`memory-r1 chat`: tell a memory things and ask it, line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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
)
from memory_r1.entry import plain
from memory_r1.errors import DataError, MemoryR1Error

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from memory_r1.assistant.memory import Memory
    from memory_r1.assistant.results import MemoryItem

PROMPT = "> "
QUESTION_MARKS = ("?", "\uff1f", "\u061f")
"""Of Latin, Chinese and Arabic script."""


def chat(
    speaker: Annotated[str, typer.Option(help="Who says what is told.")] = "User",
    store: Store = None,
    user: User = SOMEBODY,
    manager: Manager = None,
    answer: Answer = None,
    model: Model = None,
    endpoint: Endpoint = None,
) -> None:
    """Tell a memory things and ask it, line by line.

    A line that ends in a question mark is answered from memory. Any other is told to the memory, which shows what it
    did: + added, ~ changed, - removed. /help lists the commands, /quit or Ctrl-D leaves. Lines may come from a pipe.

    Example: memory-r1 chat --speaker Ann
    """
    from rich.console import Console

    console = Console(soft_wrap=True)
    with open_memory(store, manager, answer, model, endpoint) as memory:
        conversation = Conversation(memory, user, speaker, console)
        live = len(memory.get_all(user_id=user)["results"])
        told = f"{live} memories of {user} in {store_path(store)}. /help lists the commands."
        console.print(told, markup=False, highlight=False)
        for line in _lines(console):
            if line in ("/quit", "/exit"):
                break
            conversation.take(line)


class Conversation:
    """Takes lines and prints what comes of them.

    Args:
        memory: What is told and asked.
        user: Whose memory.
        speaker: Who says what is told.
        console: Where to print; on a terminal, answers are timed.
    """

    def __init__(self, memory: Memory, user: str, speaker: str, console: Console) -> None:
        self._memory = memory
        self._user = user
        self._speaker = speaker
        self._console = console
        self._commands: dict[str, tuple[str, Callable[[str], Iterable[Text]]]] = {
            "/ask": ("QUESTION: answer it, whatever it ends in", self._ask),
            "/search": ("WORDS: find memories", self._search),
            "/memories": (": list all memories", self._list),
            "/history": ("NUMBER: what happened to a memory, and why", self._history),
            "/undo": (": take back the latest operation", self._undo),
            "/forget": ("NUMBER: erase a memory and its history for good", self._forget),
            "/help": (": list these commands", self._help),
        }

    def take(self, line: str) -> None:
        """Do what a line says. An error or Ctrl-C ends it alone."""
        word, _, rest = line.partition(" ")
        if not line:
            return
        if word in self._commands:
            act, said = self._commands[word][1], rest.strip()
        elif word.startswith("/"):
            act, said = self._help, ""
        else:
            act, said = (self._ask if line.endswith(QUESTION_MARKS) else self._tell), line
        try:
            with self._console.status("..."):
                lines = list(act(said))
        except MemoryR1Error as error:
            self._console.print(plain(f"error: {error}"), style="red", markup=False, highlight=False)
        except KeyboardInterrupt:
            self._console.print("interrupted")
        else:
            for shown in lines:
                self._console.print(shown)

    def _tell(self, text: str) -> Iterator[Text]:
        from memory_r1.cli.memory_lines import added_lines

        added = self._memory.add({"role": "user", "name": self._speaker, "content": text}, user_id=self._user)
        return added_lines(added)

    def _ask(self, question: str) -> Iterator[Text]:
        from memory_r1.cli.memory_lines import answer_lines

        if not question:
            raise DataError("nothing is asked: write /ask QUESTION")
        answered = self._memory.answer(question, user_id=self._user)
        return answer_lines(answered, timed=self._console.is_terminal)

    def _search(self, query: str) -> Iterator[Text]:
        from memory_r1.cli.memory_lines import memory_line

        return map(memory_line, self._memory.search(query, user_id=self._user, limit=5)["results"])

    def _list(self, _: str) -> Iterator[Text]:
        from memory_r1.cli.memory_lines import memory_line

        return map(memory_line, self._memories())

    def _history(self, number: str) -> Iterator[Text]:
        from memory_r1.cli.memory_lines import history_line, id_of

        memory_id = id_of(number, self._memory, self._user)
        return map(history_line, self._memory.history(memory_id, user_id=self._user))

    def _undo(self, _: str) -> Iterator[Text]:
        from memory_r1.cli.memory_lines import changed_lines

        before = self._memories()
        if not self._memory.undo(user_id=self._user)["count"]:
            raise DataError("nothing is left to undo")
        return changed_lines(before, self._memories())

    def _forget(self, number: str) -> Iterator[Text]:
        from rich.text import Text

        from memory_r1.cli.memory_lines import id_of

        self._memory.forget(id_of(number, self._memory, self._user), user_id=self._user)
        yield Text("erased for good", "red")

    def _help(self, _: str) -> Iterator[Text]:
        from rich.text import Text

        yield Text("A line that ends in ? is a question; any other is told to the memory.")
        for word, (use, _act) in self._commands.items():
            name, _colon, meaning = use.partition(": ")
            yield Text(f"  {word + ' ' + name:18} {meaning}")
        yield Text("  /quit              leave")

    def _memories(self) -> list[MemoryItem]:
        return self._memory.get_all(user_id=self._user)["results"]


def _lines(console: Console) -> Iterator[str]:
    """Yield the lines typed, or those of a pipe, which are echoed so that the output reads like a chat."""
    if not sys.stdin.isatty():
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a text file, or the test's
        for line in sys.stdin:
            console.print(plain(f"{PROMPT}{line.strip()}"), markup=False, highlight=False)
            yield line.strip()
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (gives `input` its editing keys and history)
    while True:
        try:
            yield input(PROMPT).strip()
        except EOFError:
            console.print()
            return
