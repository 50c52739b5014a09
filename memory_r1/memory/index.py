"""Dense and lexical indexes. Both are caches that can be rebuilt from the entries."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import bm25s
import faiss
import numpy as np

# bm25s sets its logger to DEBUG, which would show in every program that configures logging.
logging.getLogger("bm25s").setLevel(logging.WARNING)

_TOKEN = r"\w+"  # The library's pattern drops one-character words, as in "3 dogs" and "vitamin C".


class VectorIndex:
    """Exact inner-product search (FAISS IndexFlatIP) over vectors, with the caller's ids."""

    def __init__(self, dimension: int) -> None:
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self._places: dict[int, int] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._places)

    def add(self, ids: Sequence[int], vectors: np.ndarray) -> None:
        """Add unit vectors of shape (len(ids), E). A known id gets the new vector and moves to the end."""
        self.remove(ids)
        self._index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), np.asarray(ids, dtype=np.int64))
        for entry_id in ids:
            self._places[entry_id] = self._added
            self._added += 1

    def remove(self, ids: Sequence[int]) -> None:
        """Remove ids, ignoring those that are not in the index."""
        present = [entry_id for entry_id in ids if self._places.pop(entry_id, None) is not None]
        if present:
            self._index.remove_ids(faiss.IDSelectorBatch(np.asarray(present, dtype=np.int64)))

    def search(self, query: np.ndarray, k: int) -> list[tuple[int, float]]:
        """Return the `k` best (id, inner product) for a query of shape (E,), best first, ties in insertion order."""
        k = min(k, len(self))
        if k <= 0:
            return []
        found = self._nearest(query, min(k + 1, len(self)))
        # FAISS returns an arbitrary part of a tie at rank k, so ask for more until the tie is complete.
        while len(found) < len(self) and found[-1][1] == found[k - 1][1]:
            found = self._nearest(query, min(2 * len(found), len(self)))
        return sorted(found, key=lambda hit: (-hit[1], self._places[hit[0]]))[:k]

    def _nearest(self, query: np.ndarray, k: int) -> list[tuple[int, float]]:
        scores, ids = self._index.search(np.ascontiguousarray(query, dtype=np.float32)[None], k)
        return list(zip(ids[0].tolist(), scores[0].tolist(), strict=True))


class LexicalIndex:
    """BM25 (bm25s, Lucene's variant: k1 1.5, b 0.75) over lower-cased, unstemmed words without English stop words."""

    def __init__(self, texts: Sequence[str], ids: Sequence[int] | None = None) -> None:
        """Index the texts; without `ids`, a text's id is its position."""
        self._ids = list(range(len(texts)) if ids is None else ids)
        if len(self._ids) != len(texts):
            raise ValueError(f"{len(texts)} texts came with {len(self._ids)} ids")
        words = _words(texts)
        self._index: bm25s.BM25 | None = None
        if any(words):  # bm25s divides by the mean length, which is zero if no text has a word
            self._index = bm25s.BM25()
            self._index.index(words, show_progress=False)

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """Return the `k` best (id, score) that share a word with the query, best first, ties in insertion order."""
        words = _words([query])[0]
        if self._index is None or not words or k <= 0:
            return []
        scores = self._index.get_scores(words)
        best = np.argsort(-scores, kind="stable")[:k]
        return [(self._ids[place], float(scores[place])) for place in best if scores[place] > 0]


def _words(texts: Sequence[str]) -> list[list[str]]:
    if not texts:
        return []
    return bm25s.tokenize(list(texts), token_pattern=_TOKEN, stopwords="en", return_ids=False, show_progress=False)
