"""The interface every memory system stands behind, and the records it exchanges with its caller.

A system is told turns (`observe`) and asked for memories (`recall`). It never sees a question before the evaluation
asks it, and never the gold answer. What it is told under one scope (a user or a dialogue) cannot be read under another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from memory_r1.errors import ScopeError
from memory_r1.types import MemoryEntry, OperationKind, Recall, Turn

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


class Outcome(StrEnum):
    """What became of a line of the operation log."""

    APPLIED = "applied"
    REFUSED = "refused"
    PARSE_FAILURE = "parse_failure"
    EMPTY = "empty"
    """The turn was read and nothing was proposed: the line only marks it as played."""


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """One line of the operation log; every observed turn has at least one, so that a log says which turns it covers.

    `kind` is what was done, `proposed` what the manager wrote where the system did something else with it (ADD-only
    turns an UPDATE into an ADD). `entry_id` is the bank's; for an ADD it is the id the entry was given. `reason` and
    `raw` say why something was refused or did not parse. `index` counts a turn's records from 0, `count` is how many
    there are. Tokens, model calls and `cut` (what the manager's prompt left out for its model's window: earlier turns,
    memories, the end of the turn) are those of the whole turn and stand on its first record only.
    """

    scope: str
    turn_id: str
    index: int
    count: int
    outcome: Outcome
    kind: OperationKind | None = None
    proposed: OperationKind | None = None
    entry_id: int | None = None
    text: str | None = None
    reason: str = ""
    raw: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    cut: int = 0


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
    def observe(self, turn: Turn, scope: str) -> tuple[OperationRecord, ...]:
        """Read one turn into `scope` and return what was done about it."""

    def observe_many(self, observations: Sequence[tuple[Turn, str]]) -> list[tuple[OperationRecord, ...]]:
        """Read many (turn, scope) pairs, those of one scope strictly in the order given; one tuple of records each."""
        return [self.observe(turn, scope) for turn, scope in observations]

    def replay(self, turn: Turn, scope: str, records: Sequence[OperationRecord]) -> None:
        """Redo what `observe` once did, from its records and without asking a model.

        The default observes again, which is right for systems that ask none.
        """
        self.observe(turn, scope)

    def begin(self, scope: str, speakers: Sequence[str]) -> None:
        """Announce who speaks in `scope`; optional, otherwise speakers are learnt as their turns are observed."""
        check_scope(scope)

    def end_session(self, scope: str, now: str) -> None:
        """Say that the running session of `scope` is over; what is consolidated at a session's end happens here."""
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
    def operations(self, scope: str) -> tuple[OperationRecord, ...]:
        """Return the operation log of `scope`."""

    @abstractmethod
    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        """Erase entries of `scope` for good (None: the whole scope) and return how many live ones went."""

    @abstractmethod
    def save(self, path: Path | str) -> None:
        """Write everything remembered to one file at `path`, replacing it as a whole or not at all."""

    @abstractmethod
    def load(self, path: Path | str) -> None:
        """Replace everything remembered by what `save` wrote; StoreError where the file is not such a one."""


def check_scope(scope: str) -> str:
    """Return `scope`, or raise ScopeError: no read or write goes without one."""
    if not isinstance(scope, str) or not scope.strip():
        raise ScopeError(f"found scope {scope!r}: name the user or dialogue, a non-empty string")
    return scope


def approximate_tokens(text: str) -> int:
    """Count tokens where no tokenizer is at hand: four characters each, rounded up."""
    return -(-len(text) // 4)
