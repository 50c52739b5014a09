"""Systems that keep an embedding beside every entry, in the same event of the log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, cast

import numpy as np
from immutables import Map
from safetensors.numpy import load, save

from memory_r1.errors import StoreError
from memory_r1.memory.embedder import Embedder
from memory_r1.memory.record import Record
from memory_r1.systems.banked import BankedSystem
from memory_r1.systems.base import TokenCounter, approximate_tokens
from memory_r1.systems.state import ScopeState
from memory_r1.types import OperationKind


def nearest(rows: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    """Return the indexes of the `k` rows (N, E) with the largest dot product with `query` (E,), best first."""
    return np.argsort(-(rows @ query), kind="stable")[: max(k, 0)].tolist()


@dataclass(frozen=True)
class EmbeddedState(ScopeState):
    """A bank with an embedding of shape (E,) per entry, and the identity of the encoder that made them."""

    vectors: Map[int, np.ndarray] = field(default_factory=Map)
    encoder: str = ""

    def after(self, record: Record) -> Self:
        state = super().after(record)
        vectors, encoder = state.vectors, state.encoder
        for event in record.events:
            if event.item is None:
                continue
            if event.tensor is not None:
                vectors, encoder = vectors.set(event.item, load(event.tensor)["vector"]), event.payload["encoder"]
            elif event.kind == OperationKind.DELETE and event.item in vectors:
                vectors = vectors.delete(event.item)
        return replace(state, vectors=vectors, encoder=encoder)

    def nearest(self, query: np.ndarray, k: int, among: Collection[int] | None = None) -> list[int]:
        """Return the ids of the `k` entries nearest to `query` (E,), best first; `among` names the ones to search."""
        ids = sorted(self.vectors if among is None else (entry_id for entry_id in among if entry_id in self.vectors))
        if not ids:
            return []
        rows = np.stack([self.vectors[entry_id] for entry_id in ids])  # (N, E)
        return [ids[place] for place in nearest(rows, query, k)]


class EmbeddedSystem(BankedSystem):
    """A system whose entries carry embeddings.

    Args:
        embedder: The encoder. A file whose embeddings another one made is refused.
        count_tokens: As in `BankedSystem`.
        states: As in `BankedSystem`.
    """

    start: ClassVar[ScopeState] = EmbeddedState()

    def __init__(
        self,
        embedder: Embedder,
        *,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        super().__init__(count_tokens=count_tokens, states=states)
        self._embedder = embedder

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return one unit vector per text, (len(texts), E)."""
        return self._embedder.embed(texts) if texts else np.zeros((0, 0), dtype=np.float32)

    def event_tensor(self, vector: np.ndarray) -> bytes:
        """Return an embedding (E,) as the tensor of an event; `encoder_note` belongs into the event's payload."""
        return save({"vector": np.ascontiguousarray(vector, dtype=np.float32)})

    @property
    def encoder_note(self) -> dict[str, str]:
        """What the payload of an event with an embedding says of its encoder."""
        return {"encoder": self._embedder.identity}

    def embedded_state(self, scope: str) -> EmbeddedState:
        """Return the state of a scope.

        Raises:
            StoreError: Another encoder made its embeddings.
        """
        state = cast(EmbeddedState, self._log.state(scope))
        if state.encoder not in ("", self._embedder.identity):
            raise StoreError(
                f"the embeddings of scope {scope!r} come from the encoder {state.encoder[:12]!r}, not from "
                f"{self._embedder.identity[:12]!r}: give the embedder that wrote them, or play the dialogues anew"
            )
        return state

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        try:
            return super().forget(scope, ids)
        finally:  # an error may come after the erasure: bytes left in a file that another program reads
            self._embedder.clear()
