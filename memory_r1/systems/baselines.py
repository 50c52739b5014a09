"""Systems without a model: no memory, every turn verbatim, and the gold evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory_r1.errors import ConfigurationError
from memory_r1.systems.banked import BankedSystem, Proposal
from memory_r1.systems.base import (
    Capability,
    RecallRequest,
    TokenCounter,
    approximate_tokens,
    check_scope,
)
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn


def add_every_turn(turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
    """Propose each non-blank turn as one verbatim entry."""
    return [Proposal((Operation(OperationKind.ADD, turn.text),) if turn.text.strip() else ()) for turn, _ in turns]


class NoMemory(BankedSystem):
    """Remembers nothing, so the Answer Agent knows or guesses."""

    name = "none"
    capabilities = frozenset()

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        return [Proposal() for _ in turns]

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        return [() for _ in requests]


class FullContext(BankedSystem):
    """Recalls all turns in dialogue order; a budget cuts the oldest first."""

    name = "full-context"
    cut_rule = "oldest first"

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        return add_every_turn(turns)

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        return [tuple(reversed(self.entries(request.scope))) for request in requests]

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        return tuple(reversed(kept))


class SlidingWindow(FullContext):
    """One chat window: a new turn enters and the oldest fall out, for good, until all fit into `window_tokens`.

    A turn longer than the window pushes out all others and stays out itself.
    """

    name = "sliding-window"
    capabilities = frozenset({Capability.ENTRIES, Capability.EDITS})

    def __init__(self, *, window_tokens: int = 2048, count_tokens: TokenCounter = approximate_tokens) -> None:
        """Measure `window_tokens` as a recall's budget is: each entry as it stands in the Answer Agent's prompt.

        Raises:
            ConfigurationError: `window_tokens` is below 1.
        """
        if window_tokens < 1:
            raise ConfigurationError(f"window_tokens is {window_tokens}: give the window's size in tokens, at least 1")
        super().__init__(count_tokens=count_tokens)
        self._window_tokens = window_tokens

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        return [
            Proposal((*added.operations, *self._pushed_out(turn, state))) if added.operations else added
            for added, (turn, state) in zip(add_every_turn(turns), turns, strict=True)
        ]

    def _pushed_out(self, turn: Turn, state: ScopeState) -> list[Operation]:
        """Return the deletions of the entries that `turn` leaves no room for."""
        new = MemoryEntry(state.bank.highest_id + 1, turn.text, turn.speaker, turn.timestamp)
        left = self._window_tokens
        pushed_out = []
        for entry in (new, *reversed(state.bank.entries())):
            left -= self.prompt_cost(entry)
            if left < 0:
                pushed_out.append(Operation(OperationKind.DELETE, entry_id=entry.entry_id))
        return pushed_out[::-1]


class Oracle(BankedSystem):
    """Recalls the gold evidence turns of a question, once revealed: the upper bound of retrieval.

    No other system learns anything about a question beforehand. `save` leaves out what `reveal` told.
    """

    name = "oracle"
    capabilities = frozenset({Capability.ENTRIES, Capability.GOLD_EVIDENCE})
    cut_rule = "oldest first"

    def __init__(self, *, count_tokens: TokenCounter = approximate_tokens) -> None:
        super().__init__(count_tokens=count_tokens)
        self._evidence: dict[tuple[str, str], frozenset[str]] = {}

    def reveal(self, scope: str, evidence: Mapping[str, Sequence[str]]) -> None:
        """Add the ids of the turns that answer each query of `scope`."""
        for query, turn_ids in evidence.items():
            known = self._evidence.get((check_scope(scope), query), frozenset())
            self._evidence[scope, query] = known.union(turn_ids)

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        return add_every_turn(turns)

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        return [tuple(reversed(self._revealed(request))) for request in requests]

    def _revealed(self, request: RecallRequest) -> list[MemoryEntry]:
        evidence = self._evidence.get((request.scope, request.query), frozenset())
        return [entry for entry in self.entries(request.scope) if not evidence.isdisjoint(entry.source_turn_ids)]

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        return tuple(reversed(kept))
