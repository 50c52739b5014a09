"""The smallest memory with retrieval: texts, their embeddings in FAISS's `IndexFlatL2`, and a bound on their number."""

from __future__ import annotations

from collections import deque

import faiss

from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import Embedder


class RagMemory:
    """Keeps the newest `capacity` texts and finds the nearest ones.

    Args:
        embedder: Embeds texts and queries.
        capacity: Most texts kept; one more pushes the oldest out.

    Raises:
        ConfigurationError: `capacity` is below 1.
    """

    def __init__(self, embedder: Embedder, capacity: int = 100) -> None:
        if capacity < 1:
            raise ConfigurationError(f"capacity is {capacity}: give the number of texts to keep, at least 1")
        self.capacity = capacity
        self._embedder = embedder
        self._index = faiss.IndexFlatL2(embedder.dimension)
        self._texts: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts kept, oldest first."""
        return tuple(self._texts)

    def add(self, text: str) -> None:
        """Keep a text."""
        if len(self) == self.capacity:
            self._texts.popleft()
            self._index.remove_ids(faiss.IDSelectorRange(0, 1))  # the rows behind the oldest move up by one
        self._index.add(self._embedder.embed([text]))
        self._texts.append(text)

    def retrieve(self, query: str, k: int = 3) -> list[tuple[str, float]]:
        """Return the `k` nearest texts with their squared distances, nearest first; all of them if there are fewer."""
        k = min(k, len(self))  # FAISS fills missing places with -1, which would be Python's last text
        if k < 1:
            return []
        distances, places = self._index.search(self._embedder.embed([query]), k)  # each (1, K)
        return [(self._texts[place], float(distance)) for place, distance in zip(places[0], distances[0], strict=True)]
