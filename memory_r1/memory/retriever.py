"""Rank the memories of a bank for a query."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import Embedder, text_key
from memory_r1.memory.graph import around
from memory_r1.memory.index import LexicalIndex, VectorIndex
from memory_r1.memory.log import Vectors
from memory_r1.types import MemoryEntry

RetrievalMode = Literal["hybrid", "dense", "bm25"]
Texts = tuple[str, ...]

FUSION_CONSTANT = 60
_KEPT_BANKS = 16  # Evaluation asks many questions of one bank; a rollout asks a few of each of its banks.


def reciprocal_rank_fusion(rankings: Sequence[Sequence[int]], constant: int = FUSION_CONSTANT) -> list[int]:
    """Fuse rankings: an id scores the sum of 1 / (constant + rank), rank from 1 (Cormack et al., SIGIR 2009).

    Returns:
        Every id once, best first. Ties follow the first ranking; ids missing there come last, by id.
    """
    shares: dict[int, list[float]] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            shares.setdefault(item, []).append(1 / (constant + rank))
    first = {item: place for place, item in enumerate(dict.fromkeys(rankings[0] if rankings else ()))}
    # fsum rounds once, so the order of the rankings cannot break a tie.
    return sorted(shares, key=lambda item: (-math.fsum(shares[item]), first.get(item, len(first)), item))


@dataclass(frozen=True, slots=True)
class RetrievalRequest:
    """One query over one bank. With `speakers`, `k` applies per speaker."""

    query: str
    entries: Sequence[MemoryEntry]
    k: int
    speakers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Indexes:
    places: dict[str, int]
    """A place of each text."""
    dense: VectorIndex | None
    lexical: LexicalIndex | None


_NONE = _Indexes({}, None, None)


class Retriever:
    """Ranks a bank's entries by embedding, by BM25, or by the reciprocal-rank fusion of both."""

    def __init__(self, embedder: Embedder | None, mode: RetrievalMode = "hybrid") -> None:
        """`embedder` may be None only in mode "bm25".

        Raises:
            ConfigurationError: The mode is unknown or lacks its embedder.
        """
        if mode not in get_args(RetrievalMode):
            raise ConfigurationError(f"retrieval mode is {mode!r}; allowed are {', '.join(get_args(RetrievalMode))}")
        if embedder is None and mode != "bm25":
            raise ConfigurationError(f"retrieval mode {mode!r} needs an embedder; give one or use mode 'bm25'")
        self.mode = mode
        self._embedder = embedder if mode != "bm25" else None
        self._indexes: dict[Texts, _Indexes] = {}  # of whole banks, the one asked last at the end

    def retrieve(
        self, query: str, entries: Sequence[MemoryEntry], k: int, speakers: Sequence[str] = ()
    ) -> tuple[MemoryEntry, ...]:
        """Return the `k` best entries, best first, or all of them if there are fewer.

        With `speakers`, return the `k` best of each speaker (the paper's 30 and 30), merged best first, then the `k`
        best of all other speakers.

        Among entries with edges, those around the query in the graph come first (`graph.around`): what it is about and
        what is one hop away, in turn. With `speakers`, the best are taken whosever they are, since a path may run
        through one speaker's edges alone.
        """
        return self.retrieve_many([RetrievalRequest(query, entries, k, speakers)])[0]

    def retrieve_many(self, requests: Sequence[RetrievalRequest]) -> list[tuple[MemoryEntry, ...]]:
        """Answer each request as `retrieve` does, embedding all texts in one call."""
        banks = [tuple(_indexed_text(entry) for entry in request.entries) for request in requests]
        kept = self._indexes
        before = {texts: _before(texts, kept) for texts in dict.fromkeys(banks)}
        vectors = self._embed([request.query for request in requests], before, kept)
        indexes = {
            texts: kept[texts] if texts in kept else self._build(texts, kept.get(earlier, _NONE), vectors)
            for texts, earlier in before.items()
        }
        # A bank that was written to since is hardly asked again, and its index is as large as the new one.
        others = {texts: old for texts, old in kept.items() if texts not in indexes and texts not in before.values()}
        self._indexes = dict([*others.items(), *indexes.items()][-_KEPT_BANKS:])
        return [
            _take(request, _rank(request.query, len(texts), indexes[texts], vectors))
            for request, texts in zip(requests, banks, strict=True)
        ]

    @property
    def embedder(self) -> Embedder | None:
        """The embedder; None in mode "bm25"."""
        return self._embedder

    @property
    def embedder_identity(self) -> str | None:
        """`Embedder.identity`; None if nothing is embedded."""
        return self._embedder.identity if self._embedder is not None else None

    def remember(self, vectors: Vectors) -> None:
        """Add the embeddings that a log kept, so that they are not computed again."""
        if self._embedder is not None:
            self._embedder.remember({key: np.frombuffer(row, dtype=np.float32) for key, row in vectors.items()})

    def vectors(self, entries: Sequence[MemoryEntry]) -> list[tuple[int, bytes, bytes]]:
        """Return entries' embeddings as a log keeps them: entry id, text key, float32 bytes."""
        if self._embedder is None:
            return []
        rows = self._embedder.embed([_indexed_text(entry) for entry in entries])  # (N, E)
        return [(entry.entry_id, self.key(entry), row.tobytes()) for entry, row in zip(entries, rows, strict=True)]

    def key(self, entry: MemoryEntry) -> bytes:
        """Return the key of the text that is embedded for an entry."""
        return text_key(_indexed_text(entry))

    def clear(self) -> None:
        """Drop all indexes and the embedder's cache, so that a forgotten entry survives in none of them."""
        self._indexes.clear()
        if self._embedder is not None:
            self._embedder.clear()

    def _embed(
        self, queries: Sequence[str], banks: Mapping[Texts, Texts], kept: Mapping[Texts, _Indexes]
    ) -> dict[str, np.ndarray]:
        """Embed queries, and the texts of banks that the indexes of the banks before them lack."""
        if self._embedder is None:
            return {}
        known = ((texts, kept.get(earlier, _NONE).places) for texts, earlier in banks.items())
        new = (text for texts, places in known for text in texts if text not in places)
        wanted = list(dict.fromkeys([*queries, *new]))
        return dict(zip(wanted, self._embedder.embed(wanted), strict=True))

    def _build(self, texts: Texts, before: _Indexes, vectors: Mapping[str, np.ndarray]) -> _Indexes:
        dense = None
        if self._embedder is not None and texts:
            dense = VectorIndex(self._embedder.dimension)
            dense.add(range(len(texts)), self._rows(texts, before, vectors))
        lexical = LexicalIndex(texts, known=before.lexical) if self.mode != "dense" else None
        return _Indexes({text: place for place, text in enumerate(texts)}, dense, lexical)

    def _rows(self, texts: Texts, before: _Indexes, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the embeddings of texts (N, E), those that earlier indexes know from there."""
        held = [before.places.get(text, -1) for text in texts]
        rows = np.empty((len(texts), next(iter(vectors.values())).shape[0]), dtype=np.float32)
        known = np.flatnonzero(np.array(held) >= 0)
        if before.dense is not None and len(known):
            rows[known] = before.dense.vectors([held[place] for place in known])
        for place in np.flatnonzero(np.array(held) < 0):
            rows[place] = vectors[texts[place]]
        return rows


def _before(texts: Texts, kept: dict[Texts, _Indexes]) -> Texts:
    """Return which kept bank a bank is or, before a write, was: the last one that begins as it does, or else ()."""
    begun_alike: Iterator[Texts] = (earlier for earlier in reversed(kept) if earlier[:1] == texts[:1])
    return texts if texts in kept else next(begun_alike, ())


def _rank(query: str, size: int, indexes: _Indexes, vectors: dict[str, np.ndarray]) -> list[int]:
    """Return the positions of all entries, best first; those missing from all rankings come last, in bank order."""
    rankings: list[list[int]] = []
    if indexes.dense is not None:
        rankings.append([place for place, _ in indexes.dense.search(vectors[query], size)])
    if indexes.lexical is not None:
        rankings.append([place for place, _ in indexes.lexical.search(query, size)])
    # `reciprocal_rank_fusion` on arrays: a manager's system ranks all of its bank at every turn.
    scores, first = np.zeros(size), np.full(size, size)
    for ranking in rankings:
        scores[ranking] += 1 / (FUSION_CONSTANT + np.arange(1, len(ranking) + 1))
    if rankings:
        first[rankings[0]] = np.arange(len(rankings[0]))
    return np.lexsort((first, -scores)).tolist()


def _indexed_text(entry: MemoryEntry) -> str:
    return f"{entry.speaker}: {entry.text}"


def _take(request: RetrievalRequest, ranking: Sequence[int]) -> tuple[MemoryEntry, ...]:
    """Take the best of each speaker in ranking order, then the best of the others; in a graph, the best of all."""
    if any(entry.edge is not None for entry in request.entries):
        k = request.k * max(1, len(request.speakers))
        near = reciprocal_rank_fusion(around(request.query, request.entries, ranking, max(1, k // 2)))
        return tuple(request.entries[place] for place in [*dict.fromkeys([*near, *ranking])][: max(k, 0)])
    best = [request.entries[place] for place in ranking]
    if not request.speakers:
        return tuple(best[: max(request.k, 0)])
    left = dict.fromkeys(request.speakers, request.k)
    others_left = request.k
    named, others = [], []
    for entry in best:
        if entry.speaker in left:
            if left[entry.speaker] > 0:
                left[entry.speaker] -= 1
                named.append(entry)
        elif others_left > 0:
            others_left -= 1
            others.append(entry)
    return (*named, *others)
