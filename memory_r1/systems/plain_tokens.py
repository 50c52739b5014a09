"""Token memory: one embedding per text, found by dot product and returned with the text beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memory_r1.errors import ConfigurationError, StoreError
from memory_r1.memory.embedder import Embedder
from memory_r1.systems.banked import Proposal
from memory_r1.systems.base import RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.baselines import add_every_turn
from memory_r1.systems.embedded import EmbeddedSystem, nearest
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Turn


def check_dimension(embedder: Embedder, declared: int | None) -> int:
    """Return the length of an encoder's embeddings, E; refuse a declared one that differs.

    Raises:
        ConfigurationError: `declared` is given and is not E.
    """
    found = embedder.dimension
    if declared not in (None, found):
        raise ConfigurationError(
            f"the declared dimension of a token is {declared}, but the encoder's embeddings have {found}: declare "
            f"{found}, or leave it out"
        )
    return found


@dataclass(frozen=True, slots=True)
class Token:
    """A remembered text: its index, the text, its embedding (E,), and its dot product with the query."""

    index: int
    text: str
    embedding: np.ndarray
    similarity: float


class TokenMemory:
    """A list of tokens, each an embedding with its text.

    Args:
        embedder: The encoder.
        dimension: The declared length of an embedding, E; None takes the encoder's.

    Raises:
        ConfigurationError: `dimension` is not the encoder's.
    """

    def __init__(self, embedder: Embedder, dimension: int | None = None) -> None:
        self.dimension = check_dimension(embedder, dimension)
        self._embedder = embedder
        self._texts: list[str] = []
        self._embeddings: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> int:
        """Remember a text; return its index."""
        self._embeddings.append(self._embedder.embed([text])[0])
        self._texts.append(text)
        return len(self) - 1

    def update(self, index: int, text: str) -> None:
        """Replace the token at `index`, counted from 0.

        Raises:
            StoreError: There is no such token.
        """
        if not 0 <= index < len(self):
            raise StoreError(f"no token has index {index}: the memory holds {len(self)}, counted from 0")
        self._embeddings[index] = self._embedder.embed([text])[0]
        self._texts[index] = text

    def retrieve(self, query: str) -> Token | None:
        """Return the token nearest to the query by dot product, the first of equals; None from an empty memory."""
        if not self._texts:
            return None
        rows, wanted = np.stack(self._embeddings), self._embedder.embed([query])[0]  # (N, E), (E,)
        (index,) = nearest(rows, wanted, 1)
        return Token(index, self._texts[index], rows[index], float(rows[index] @ wanted))


class PlainTokens(EmbeddedSystem):
    """Remembers one token per turn and recalls the nearest ones, `recall_per_speaker` times the speakers overall.

    Unlike `rag` it reads no words beside the embeddings and owes no speaker a share.
    """

    name = "plain-tokens"

    def __init__(
        self,
        embedder: Embedder,
        *,
        recall_per_speaker: int,
        dimension: int | None = None,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        """Refuse a declared `dimension` that is not the encoder's (`check_dimension`)."""
        if dimension is not None:  # otherwise the encoder is not loaded before it is needed
            check_dimension(embedder, dimension)
        super().__init__(embedder, count_tokens=count_tokens, states=states)
        self._recall_per_speaker = recall_per_speaker

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        rows = self.embed([spoken(turn) for turn, _ in turns])  # (B, E)
        return [
            Proposal(added.operations, notes={0: self.encoder_note}, tensors={0: self.event_tensor(row)})
            for added, row in zip(add_every_turn(turns), rows, strict=True)
        ]

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        states = [self.embedded_state(request.scope) for request in requests]
        queries = self.embed([request.query for request in requests])  # (B, E)
        return [
            tuple(
                state.bank.get(entry_id)
                for entry_id in state.nearest(query, self._recall_per_speaker * max(1, len(state.speakers)))
            )
            for state, query in zip(states, queries, strict=True)
        ]


def spoken(turn: Turn) -> str:
    """Return the text of a turn that is embedded."""
    return f"{turn.speaker}: {turn.text}"
