"""Systems that recall by search: the turns themselves here, what a manager makes of them in `manager`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from memory_r1.memory.retriever import RetrievalRequest, Retriever
from memory_r1.systems.banked import BankedSystem, Proposal
from memory_r1.systems.base import RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.baselines import add_every_turn
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Turn


class RetrievingSystem(BankedSystem):
    """Recalls the `top_k` entries per speaker that the retriever puts first (the paper: 30 of each of two)."""

    def __init__(
        self,
        retriever: Retriever,
        *,
        top_k: int,
        count_tokens: TokenCounter = approximate_tokens,
    ) -> None:
        super().__init__(count_tokens=count_tokens)
        self._retriever = retriever
        self._top_k = top_k

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        return self._retriever.retrieve_many(
            [
                RetrievalRequest(
                    request.query,
                    self.entries(request.scope),
                    self._top_k,
                    self.speakers(request.scope),
                )
                for request in requests
            ]
        )

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        erased = super().forget(scope, ids)
        self._retriever.clear()
        return erased


class Rag(RetrievingSystem):
    """Searches the turns as they were said."""

    name = "rag"

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        return add_every_turn(turns)
