"""Dense and lexical indexes. Both are caches: they can be thrown away and built again from the entries."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import bm25s
import faiss
import numpy as np

# bm25s sets its own logger to DEBUG, which would reach every program that has configured logging at all.
logging.getLogger("bm25s").setLevel(logging.WARNING)

_TOKEN = r"\w+"  # The library's own pattern drops one-character words, and with them "3 dogs" and "vitamin C".


class VectorIndex:
    """Exact inner-product search (FAISS IndexFlatIP) over vectors with ids of the caller's."""

    def __init__(self, dimension: int) -> None:
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self._places: dict[int, int] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._places)

    def add(self, ids: Sequence[int], vectors: np.ndarray) -> None:
        """`vectors` has shape (len(ids), E), rows of length one; an id already there gets the new vector, last."""
        self.remove(ids)
        self._index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), np.asarray(ids, dtype=np.int64))
        for entry_id in ids:
            self._places[entry_id] = self._added
            self._added += 1

    def remove(self, ids: Sequence[int]) -> None:
        """Ids that are not in the index are passed over."""
        present = [entry_id for entry_id in ids if self._places.pop(entry_id, None) is not None]
        if present:
            self._index.remove_ids(faiss.IDSelectorBatch(np.asarray(present, dtype=np.int64)))

    def search(self, query: np.ndarray, k: int) -> list[tuple[int, float]]:
        """The `k` best (id, inner product) for a query of shape (E,), best first, ties in order of insertion."""
        k = min(k, len(self))
        if k <= 0:
            return []
        found = self._nearest(query, min(k + 1, len(self)))
        # FAISS picks any of the entries that tie at the cut, so it is asked for more until the tie is whole.
        while len(found) < len(self) and found[-1][1] == found[k - 1][1]:
            found = self._nearest(query, min(2 * len(found), len(self)))
        return sorted(found, key=lambda hit: (-hit[1], self._places[hit[0]]))[:k]

    def _nearest(self, query: np.ndarray, k: int) -> list[tuple[int, float]]:
        scores, ids = self._index.search(np.ascontiguousarray(query, dtype=np.float32)[None], k)
        return list(zip(ids[0].tolist(), scores[0].tolist(), strict=True))


class LexicalIndex:
    """BM25 (bm25s, Lucene's variant: k1 1.5, b 0.75) over lower-cased words without English stop words or stemming."""

    def __init__(self, texts: Sequence[str], ids: Sequence[int] | None = None) -> None:
        """Without `ids` a text's id is its position."""
        self._ids = list(range(len(texts)) if ids is None else ids)
        if len(self._ids) != len(texts):
            raise ValueError(f"{len(texts)} texts came with {len(self._ids)} ids")
        words = _words(texts)
        self._index: bm25s.BM25 | None = None
        if any(words):  # bm25s divides by the mean length, which is zero where no text has a word.
            self._index = bm25s.BM25()
            self._index.index(words, show_progress=False)

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """The `k` best (id, score) that share a word with the query, best first, ties in order of insertion."""
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
