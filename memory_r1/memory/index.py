"""Dense and lexical indexes. Both are caches that can be rebuilt from the entries."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import bm25s
import faiss
import numpy as np

# bm25s sets its logger to DEBUG, which would show in every program that configures logging.
logging.getLogger("bm25s").setLevel(logging.WARNING)

_K1, _B = 1.5, 0.75
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

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """Return the vectors of ids that are in the index, (len(ids), E)."""
        rows: np.ndarray = self._index.reconstruct_batch(np.asarray(ids, dtype=np.int64))
        return rows

    def search(self, query: np.ndarray, k: int) -> list[tuple[int, float]]:
        """Return the `k` best (id, inner product) for a query of shape (E,), best first, ties in insertion order."""
        k = min(k, len(self))
        if k <= 0:
            return []
        ids, scores = self._nearest(query, min(k + 1, len(self)))
        # FAISS returns an arbitrary part of a tie at rank k, so ask for more until the tie is complete.
        while len(ids) < len(self) and scores[-1] == scores[k - 1]:
            ids, scores = self._nearest(query, min(2 * len(ids), len(self)))
        places = np.array([self._places[entry_id] for entry_id in ids.tolist()])
        best = np.lexsort((places, -scores))[:k]
        return list(zip(ids[best].tolist(), scores[best].tolist(), strict=True))

    def _nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids and the inner products of the `k` nearest, best first, (k,) each."""
        scores, ids = self._index.search(np.ascontiguousarray(query, dtype=np.float32)[None], k)
        return ids[0], scores[0]


class LexicalIndex:
    """BM25 (Lucene's variant: k1 1.5, b 0.75) over lower-cased, unstemmed words without English stop words.

    Scores are those of bm25s, bit for bit. That library scores every word of every text beforehand, which one more text
    makes stale; a bank that is searched after every write has them computed at the search, for the words asked for.

    Args:
        texts: The texts.
        ids: Their ids; without them, a text's id is its position.
        known: An index of some of these texts, which are not split into words again.
    """

    def __init__(
        self, texts: Sequence[str], ids: Sequence[int] | None = None, *, known: LexicalIndex | None = None
    ) -> None:
        self._ids = list(range(len(texts)) if ids is None else ids)
        if len(self._ids) != len(texts):
            raise ValueError(f"{len(texts)} texts came with {len(self._ids)} ids")
        held = known._words if known is not None else {}
        fresh = [text for text in dict.fromkeys(texts) if text not in held]
        split = dict(zip(fresh, map(_hashed, _words(fresh)), strict=True))
        self._words: dict[str, np.ndarray] = {text: split[text] if text in split else held[text] for text in texts}
        rows = [self._words[text] for text in texts]
        self._lengths = np.array([len(row) for row in rows], dtype=np.int64)  # (N,)
        self._all = np.concatenate([np.zeros(0, dtype=np.int64), *rows])  # the words of one text after another's
        self._places = np.repeat(np.arange(len(rows)), self._lengths)  # the text of each

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """Return the `k` best (id, score) that share a word with the query, best first, ties in insertion order."""
        if k <= 0 or not len(self._all):
            return []
        count, mean = len(self._ids), self._lengths.mean()
        scores = np.zeros(count, dtype=np.float32)
        for word in _hashed(_words([query])[0]):
            places, times = np.unique(self._places[self._all == word], return_counts=True)
            idf = np.float32(math.log(1 + (count - len(places) + 0.5) / (len(places) + 0.5)))
            often = times.astype(np.float32)
            share = often / (_K1 * ((1 - _B) + _B * self._lengths[places] / mean) + often)
            scores[places] += (idf * share).astype(np.float32)
        best = np.argsort(-scores, kind="stable")[:k]
        best = best[scores[best] > 0]
        return [(self._ids[place], score) for place, score in zip(best.tolist(), scores[best].tolist(), strict=True)]


def _words(texts: Sequence[str]) -> list[list[str]]:
    if not texts:
        return []
    return bm25s.tokenize(list(texts), token_pattern=_TOKEN, stopwords="en", return_ids=False, show_progress=False)


def _hashed(words: Sequence[str]) -> np.ndarray:
    """Return 64 bits for each word, equal for equal words of one process."""
    return np.array([hash(word) for word in words], dtype=np.int64)
