"""The interface every memory system stands behind.

A system is told turns (`observe`) and asked for memories (`recall`). It never sees a question before the evaluation
asks it, and never the gold answer. What it is told under one scope (a user or a dialogue) cannot be read under another.
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
    """What a system can do beyond remembering and recalling; where one lacks, a result is "not applicable"."""

    ENTRIES = "entries"
    """`entries` lists what is remembered, with the turns it comes from."""
    EDITS = "edits"
    """What is remembered may be rewritten or removed by later turns."""
    MODEL_WRITES = "model_writes"
    """A language model is asked on every turn: writing costs tokens."""
    FEEDBACK = "feedback"
    """`feedback` changes later recalls."""
    GOLD_EVIDENCE = "gold_evidence"
    """Is shown the gold evidence of the questions: an upper bound, not a memory."""


@dataclass(frozen=True, slots=True)
class RecallRequest:
    """One `recall` of a batch: `now` is ISO 8601, `budget_tokens` None leaves the text unbounded."""

    query: str
    scope: str
    now: str = ""
    budget_tokens: int | None = None


class MemorySystem(ABC):
    """What all systems have in common; the batched forms give exactly what the single ones would, one by one."""

    name: str = ""
    capabilities: frozenset[Capability] = frozenset()
    cut_rule: str = "lowest ranked first"
    """What a recall leaves out first where it would exceed its budget."""

    @abstractmethod
    def observe(self, turn: Turn, scope: str) -> Record:
        """Read one turn into `scope` and return what was done about it."""

    def observe_many(self, observations: Sequence[tuple[Turn, str]]) -> list[Record]:
        """Read many (turn, scope) pairs, those of one scope strictly in the order given; one record each."""
        return [self.observe(turn, scope) for turn, scope in observations]

    def begin(self, scope: str, speakers: Sequence[str]) -> None:
        """Announce who speaks in `scope`; optional, otherwise speakers are learnt as their turns are observed."""
        check_scope(scope)

    def end_session(self, scope: str, now: str) -> None:
        """Say that the running session of `scope` is over; what is consolidated at a session's end happens here.

        A session that nothing was said in since it ended is not ended again.
        """
        check_scope(scope)

    @abstractmethod
    def recall(self, query: str, scope: str, now: str = "", budget_tokens: int | None = None) -> Recall:
        """Return the memories of `scope` for `query`; reads only, so equal calls give equal recalls."""

    def recall_many(self, requests: Sequence[RecallRequest]) -> list[Recall]:
        """Answer many recalls on the same snapshot, in the order given."""
        return [self.recall(request.query, request.scope, request.now, request.budget_tokens) for request in requests]

    def feedback(self, recall: Recall, reward: float) -> None:  # noqa: B027  (a system may well have no use for it)
        """Report how well a recall served, to systems with `Capability.FEEDBACK`; never called by an evaluation."""

    @abstractmethod
    def entries(self, scope: str) -> tuple[MemoryEntry, ...]:
        """Return what is remembered under `scope`, in order of first insertion; unknown scopes remember nothing."""

    @abstractmethod
    def records(self, scope: str) -> tuple[Record, ...]:
        """Return the log of `scope`: what each turn did to memory, oldest first."""

    @abstractmethod
    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        """Erase entries of `scope` for good (None: the whole scope) and return how many live ones went."""

    @abstractmethod
    def save(self, path: Path | str) -> None:
        """Write a backup of the log to `path`, replacing the file as a whole or not at all."""

    @abstractmethod
    def load(self, path: Path | str, *, create: bool = False) -> None:
        """Go on with the log in the file at `path`, which what is observed from now on is written to.

        Args:
            path: What `save` wrote, or an earlier `load` made.
            create: Make the file if it is missing.

        Raises:
            StoreError: The file is missing, damaged, no such log, or another system's; nothing changes then.
        """


def approximate_tokens(text: str) -> int:
    """Count tokens where no tokenizer is at hand: four characters each, rounded up."""
    return -(-len(text) // 4)
