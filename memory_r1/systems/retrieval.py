"""Systems that recall by search: raw turns here, a manager's entries in `manager`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from memory_r1.memory.retriever import RetrievalRequest, Retriever
from memory_r1.systems.banked import BankedSystem, Proposal
from memory_r1.systems.base import RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.baselines import add_every_turn
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Turn

Entries = tuple[MemoryEntry, ...]


class RetrievingSystem(BankedSystem):
    """Recalls the retriever's `recall_per_speaker` entries per speaker (in the paper 30 for each of two speakers)."""

    def __init__(
        self,
        retriever: Retriever,
        *,
        recall_per_speaker: int,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        super().__init__(count_tokens=count_tokens, states=states)
        self._retriever = retriever
        self._recall_per_speaker = recall_per_speaker
        self._embedded: dict[str, dict[int, MemoryEntry]] = {}  # by scope and id: entries embedded in the log

    def _rank(self, requests: Sequence[RecallRequest]) -> list[Entries]:
        states = {request.scope: self._log.state(request.scope) for request in requests}
        for scope in states:
            self._remember_embeddings(scope)
        ranked = self._retriever.retrieve_many(
            [
                RetrievalRequest(
                    request.query,
                    states[request.scope].bank.entries(),
                    self._recall_per_speaker,
                    states[request.scope].speakers,
                )
                for request in requests
            ]
        )
        for scope, state in states.items():
            self._keep_embeddings(scope, state.bank.entries())
        return ranked

    def _remember_embeddings(self, scope: str) -> None:
        """Load the log's embeddings into the retriever when a scope is first searched."""
        identity = self._retriever.embedder_identity
        if scope in self._embedded or identity is None:
            return
        vectors = self._log.vectors(scope, identity)
        self._retriever.remember(vectors)
        held = (entry for entry in (self.entries(scope) if vectors else ()) if self._retriever.key(entry) in vectors)
        self._embedded[scope] = {entry.entry_id: entry for entry in held}

    def _keep_embeddings(self, scope: str, entries: Entries) -> None:
        """Store the embeddings of new entries, which the search has just computed, in the log."""
        identity, held = self._retriever.embedder_identity, self._embedded.get(scope, {})
        if identity is None or not self._log.persistent:
            return
        fresh = [entry for entry in entries if held.get(entry.entry_id) is not entry]
        if fresh:
            self._log.keep_vectors(scope, identity, self._retriever.vectors(fresh))
            held.update((entry.entry_id, entry) for entry in fresh)

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        try:
            return super().forget(scope, ids)
        finally:  # an error may come after the erasure: bytes left in a file that another program reads
            self._retriever.clear()
            self._embedded.pop(scope, None)

    def load(self, path: Path | str, *, create: bool = False) -> None:
        super().load(path, create=create)
        self._embedded.clear()


class Rag(RetrievingSystem):
    """Searches the verbatim turns."""

    name = "rag"

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        return add_every_turn(turns)


class Bm25(Rag):
    """Searches the verbatim turns by their words alone (build it with a retriever in mode "bm25")."""

    name = "bm25"
