"""What the page needs of a memory, and how a store file provides it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from memory_r1.errors import PromptTooLongError, StoreError
from memory_r1.memory.record import Record
from memory_r1.memory.sqlite_log import SqliteLog
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry

if TYPE_CHECKING:  # they need torch, which a store without a model does not
    from memory_r1.agents.answer_agent import AnswerAgent
    from memory_r1.systems.base import MemorySystem

_FOUND = 20


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, the entries recalled for it in prompt order, and the ids of those that it relies on."""

    text: str
    recalled: Sequence[MemoryEntry]
    distilled: Collection[int]
    completion: str = ""


Answer = Callable[[str, str], Answered]
"""Answers a question about a scope."""


class Inspected(Protocol):
    """A memory that the page can show; calls may come from several threads."""

    @property
    def title(self) -> str: ...

    @property
    def system(self) -> str:
        """Name of the memory system."""
        ...

    @property
    def writable(self) -> bool:
        """Whether `undo` is allowed."""
        ...

    @property
    def answer(self) -> Answer | None:
        """Answers questions; None if there is no model to do so."""
        ...

    def version(self) -> Hashable:
        """Return a value that differs after every write, whoever made it."""
        ...

    def scopes(self) -> Sequence[str]: ...

    def records(self, scope: str) -> Sequence[Record]: ...

    def search(self, query: str, scope: str) -> Sequence[MemoryEntry]:
        """Return the entries that fit a query, best first."""
        ...

    def undo(self, scope: str) -> int:
        """Undo the last edit of a scope; return the number of edits undone."""
        ...


class StoreFile:
    """A memory in a store file, whichever system wrote it.

    Args:
        path: The file. Other processes may be writing to it.
        writable: Whether `undo` is allowed; otherwise SQLite itself refuses every write.
        answer: Answers questions about the same file, such as `answering` makes.

    Raises:
        StoreError: The file is missing, is no store, or has another format.
    """

    def __init__(self, path: Path | str, *, writable: bool = False, answer: Answer | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise StoreError(f"{self.path}: no such file; give the path of a memory store")
        if not self.path.stat().st_size:
            raise StoreError(f"{self.path} is empty; give the path of a memory store")
        self._log = SqliteLog(self.path, ScopeState(), system=None, read_only=not writable)
        self.title, self.system = self.path.name, self._log.system
        self.writable, self.answer = writable, answer
        self._searching = threading.Lock()

    def version(self) -> Hashable:
        return self._log.version()

    def scopes(self) -> Sequence[str]:
        return self._log.scopes()

    def records(self, scope: str) -> Sequence[Record]:
        return self._log.records(scope)

    def state(self, scope: str) -> ScopeState:
        """Return what a scope holds now."""
        return self._log.state(scope)

    def search(self, query: str, scope: str) -> Sequence[MemoryEntry]:
        """Search the live entries by their words."""
        from memory_r1.memory.retriever import Retriever  # loads FAISS

        with self._searching:
            return Retriever(None, "bm25").retrieve(query, self.state(scope).bank.entries(), _FOUND)

    def undo(self, scope: str) -> int:
        return self._log.undo(scope)

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def answering(system: MemorySystem, agent: AnswerAgent) -> Answer:
    """Return a function that answers from what `system` recalls now, as `Memory` does, one question at a time."""
    from memory_r1.systems.window import Query, fitted, recall_within

    lock = threading.Lock()

    def answer(question: str, scope: str) -> Answered:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with lock:
            query = fitted(Query(question, scope, scope, now=now, asked_at=now), agent)
            if isinstance(query, PromptTooLongError):
                raise query
            (recall,) = recall_within(system, agent, [query])
            (said,) = agent.answer([query.request(recall)])
        return Answered(said.text, recall.items, said.distilled, said.completion)

    return answer
