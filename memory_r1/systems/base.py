"""The interface of every memory system.

A system observes turns (`observe`) and returns memories (`recall`). It never sees a question before the evaluation asks
it, nor the gold answer. Scopes (users or dialogues) are isolated from each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from memory_r1.memory.log import check_scope
from memory_r1.memory.record import Record
from memory_r1.types import MemoryEntry, Recall, Turn

TokenCounter = Callable[[str], int]


class Capability(StrEnum):
    """The optional abilities of a system; results that need a missing one are "not applicable"."""

    ENTRIES = "entries"
    """`entries` lists the memories with their source turns."""
    EDITS = "edits"
    """Later turns may rewrite or remove memories."""
    MODEL_WRITES = "model_writes"
    """A language model reads every turn, so writing costs tokens."""
    MODEL_READS = "model_reads"
    """A language model reads memory for every question, so recalls cost tokens."""
    FEEDBACK = "feedback"
    """`feedback` changes later recalls."""
    GOLD_EVIDENCE = "gold_evidence"
    """The system sees the questions' gold evidence: an upper bound, not a memory."""


@dataclass(frozen=True, slots=True)
class RecallRequest:
    """One `recall` of a batch; `now` is ISO 8601, and `budget_tokens` None means no limit."""

    query: str
    scope: str
    now: str = ""
    budget_tokens: int | None = None


class MemorySystem(ABC):
    """Base class of all systems; the batched methods return exactly what single calls would."""

    name: str = ""
    capabilities: frozenset[Capability] = frozenset()
    cut_rule: str = "lowest ranked first"
    """Which entries a recall drops first if it exceeds its budget."""

    @abstractmethod
    def observe(self, turn: Turn, scope: str) -> Record:
        """Read one turn into `scope`; return its record."""

    def observe_many(self, observations: Sequence[tuple[Turn, str]]) -> list[Record]:
        """Read many (turn, scope) pairs, in order within each scope; return one record each."""
        return [self.observe(turn, scope) for turn, scope in observations]

    def begin(self, scope: str, speakers: Sequence[str]) -> None:
        """Announce the speakers of `scope`; optional, since a system also learns them from their turns."""
        check_scope(scope)

    def end_session(self, scope: str, now: str) -> None:
        """End the current session of `scope`, and consolidate if the system does that.

        Without a turn since the last end, this does nothing.
        """
        check_scope(scope)

    @abstractmethod
    def recall(self, query: str, scope: str, now: str = "", budget_tokens: int | None = None) -> Recall:
        """Return the memories of `scope` for `query`; this only reads, so equal calls give equal recalls."""

    def recall_many(self, requests: Sequence[RecallRequest]) -> list[Recall]:
        """Answer many recalls on the same snapshot, in the order given."""
        return [self.recall(request.query, request.scope, request.now, request.budget_tokens) for request in requests]

    def feedback(self, recall: Recall, reward: float) -> None:  # noqa: B027  (optional)
        """Report the reward of a recall to systems with `Capability.FEEDBACK`; evaluations never call this."""

    @abstractmethod
    def entries(self, scope: str) -> tuple[MemoryEntry, ...]:
        """Return the entries of `scope` in order of first insertion, none for an unknown scope."""

    @abstractmethod
    def records(self, scope: str) -> tuple[Record, ...]:
        """Return the log of `scope`, oldest record first."""

    @abstractmethod
    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        """Erase entries of `scope`, or with None all of it, for good; return the number of live entries erased."""

    @abstractmethod
    def save(self, path: Path | str) -> None:
        """Write a backup of the log to `path`, replacing the file atomically."""

    @abstractmethod
    def load(self, path: Path | str, *, create: bool = False) -> None:
        """Switch to the log in the file at `path`; later turns are written to it.

        Args:
            path: A file written by `save` or created by an earlier `load`.
            create: Create the file if it is missing.

        Raises:
            StoreError: The file is missing, damaged, not a log, or another system's. Nothing changes then.
        """


def approximate_tokens(text: str) -> int:
    """Estimate the number of tokens without a tokenizer: four characters each, rounded up."""
    return -(-len(text) // 4)
