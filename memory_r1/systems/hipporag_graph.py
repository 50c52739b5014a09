"""The graph of a HippoRAG memory: passages, the entities in them, what joins entities, and random walks on all of it.

A state holds what the log says. The graph is a cache of it that grows with the state: indexing one more turn compares
its new entities with the known ones and copies a few arrays, and the comparison keeps no more than a block in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from immutables import Map
from safetensors.numpy import load
from scipy.sparse import block_array, coo_array, csr_array

from memory_r1.memory.record import Record
from memory_r1.systems.embedded import EmbeddedState
from memory_r1.systems.triples import Triple
from memory_r1.types import OperationKind

MAX_SYNONYMS = 100
"""Synonyms of an entity among those known before it."""
TOP_ENTITIES = 5
"""Entities at which version 2 starts walks."""
_BLOCK = 2**23  # cosines held at once: 32 MB
_WORD = re.compile(r"\w+")
Embed = Callable[[Sequence[str]], np.ndarray]


def entity(phrase: str) -> str:
    """Return the entity that a phrase names: its words, in lower case, or the phrase itself if it has none."""
    return " ".join(_WORD.findall(phrase.casefold())) or phrase


@dataclass(frozen=True)
class HippoState(EmbeddedState):
    """A bank of passages with their triples.

    Attributes:
        triples: The triples of each passage that has some.
        phrases: Embeddings (E,) of entities and facts, in the log beside the first passage that has them. If that is
            erased, so are they, and a graph embeds anew those that other passages have too.
    """

    triples: Map[int, tuple[Triple, ...]] = field(default_factory=Map)
    phrases: Map[str, np.ndarray] = field(default_factory=Map)

    def after(self, record: Record) -> Self:
        state = super().after(record)
        triples, phrases = state.triples, state.phrases
        for event in record.events:
            if event.item is None:
                continue
            if told := event.payload.get("triples"):
                triples = triples.set(event.item, tuple(map(Triple.read, told)))
            if event.tensor is not None and (named := event.payload.get("phrases")):
                phrases = phrases.update(zip(named, load(event.tensor)["phrases"], strict=True))
            if event.kind == OperationKind.DELETE and event.item in triples:
                triples = triples.delete(event.item)
        return replace(state, triples=triples, phrases=phrases)


@dataclass(frozen=True, eq=False)
class PassageGraph:
    """The graph of one state. It never changes; `grown` returns the graph of a later state.

    Passages (N), entities (W) and facts (F) are numbered in the order in which they were first told.

    Attributes:
        synonym_threshold: Cosine from which two entities are synonyms.
        with_facts: Whether to index facts too.
        source: The passages' embeddings by id, the state's own arrays: the passages are still the same if these are.
        ids: The passages' ids.
        entities: The number of each entity.
        facts: The two entities of each fact.
        passage_rows: Embeddings of passages (N, E).
        entity_rows: Embeddings of entities (W, E).
        fact_rows: Embeddings of facts (F, E).
        mentions: Passage and entity in it, each pair once (X, 2).
        joined: Subject and object of each triple, if they differ (Y, 2).
        synonyms: Entity, older entity, and the cosine (Z, 3).
    """

    synonym_threshold: float
    with_facts: bool
    source: Mapping[int, np.ndarray] = field(default_factory=Map)
    ids: tuple[int, ...] = ()
    entities: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    passage_rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    entity_rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    fact_rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    mentions: np.ndarray = field(default_factory=lambda: _pairs([]))
    joined: np.ndarray = field(default_factory=lambda: _pairs([]))
    synonyms: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))

    def grown(self, state: HippoState, embed: Embed) -> PassageGraph:
        """Return the graph of `state`, built from this one if no passage of it went, or else from nothing.

        Args:
            state: The state.
            embed: Embeds phrases whose embedding the state lacks.
        """
        if state.vectors is self.source:
            return self
        if any(state.vectors.get(item) is not row for item, row in self.source.items()):
            return PassageGraph(self.synonym_threshold, self.with_facts).grown(state, embed)
        fresh = sorted(item for item in state.vectors if item not in self.source)
        entities, facts = dict(self.entities), dict(self.facts)
        mentions: list[tuple[int, int]] = []
        joined: list[tuple[int, int]] = []
        for passage, item in enumerate(fresh, len(self.ids)):
            told = state.triples.get(item, ())
            names = [named(triple) for triple in told]
            for name in dict.fromkeys(name for pair in names for name in pair):
                mentions.append((passage, entities.setdefault(name, len(entities))))
            pairs = [(entities[first], entities[second]) for first, second in names]
            joined += [(first, second) for first, second in pairs if first != second]
            if self.with_facts:
                facts.update((triple.text, pair) for triple, pair in zip(told, pairs, strict=True))
        entity_rows = _embedded([*entities][len(self.entities) :], state, embed)
        fact_rows = _embedded([*facts][len(self.facts) :], state, embed)
        all_entity_rows = _below(self.entity_rows, entity_rows)
        found = synonyms(all_entity_rows, len(self.entities), self.synonym_threshold)
        return replace(
            self,
            source=state.vectors,
            ids=(*self.ids, *fresh),
            entities=entities,
            facts=facts,
            passage_rows=_below(self.passage_rows, [state.vectors[item] for item in fresh]),
            entity_rows=all_entity_rows,
            fact_rows=_below(self.fact_rows, fact_rows),
            mentions=_below(self.mentions, _pairs(mentions)),
            joined=_below(self.joined, _pairs(joined)),
            synonyms=_below(self.synonyms, found),
        )

    @cached_property
    def held(self) -> csr_array:
        """Which passage holds which entity (N, W): 1 or 0."""
        shape = len(self.ids), len(self.entities)
        return coo_array((np.ones(len(self.mentions)), tuple(self.mentions.T)), shape).tocsr()

    @cached_property
    def specificity(self) -> np.ndarray:
        """The node specificity of each entity (W,): 1 / the number of passages that hold it."""
        return 1 / self.held.sum(axis=0)

    @cached_property
    def between_entities(self) -> csr_array:
        """The weights between entities (W, W): how many triples join them, plus their cosine if they are synonyms."""
        shape = len(self.entities), len(self.entities)
        first, second = self.synonyms[:, :2].astype(int).T
        triples = coo_array((np.ones(len(self.joined)), tuple(self.joined.T)), shape).tocsr()
        half = triples + coo_array((self.synonyms[:, 2], (first, second)), shape).tocsr()
        return (half + half.T).tocsr()

    @cached_property
    def with_passages(self) -> csr_array:
        """The weights between entities and, after these, passages (W + N, W + N): 1 where a passage holds an entity."""
        return block_array([[self.between_entities, self.held.T], [self.held, None]], format="csr")


def named(triple: Triple) -> tuple[str, str]:
    """Return the two entities of a triple."""
    return entity(triple.subject), entity(triple.object)


def synonyms(rows: np.ndarray, known: int, threshold: float) -> np.ndarray:
    """Compare the entities after the first `known` with all before them.

    Args:
        rows: Unit vectors of all entities (W, E).
        known: How many of them were compared before.
        threshold: The least cosine of synonyms.

    Returns:
        Rows (Z, 3) of entity, older entity and cosine, at most `MAX_SYNONYMS` for an entity. Cosines have four
        decimals, so that a graph is the same whether it grew or was built at once.
    """
    found = [np.zeros((0, 3))]
    block = max(1, _BLOCK // max(1, len(rows)))
    for start in range(known, len(rows), block):
        stop = min(start + block, len(rows))
        cosines = np.round(rows[start:stop] @ rows[:stop].T, 4)  # (block, up to W)
        for number, row in enumerate(cosines, start):
            near = np.flatnonzero(row[:number] >= threshold)
            near = near[np.argsort(-row[near], kind="stable")[:MAX_SYNONYMS]]
            found.append(np.column_stack([np.full(len(near), number), near, row[near]]))
    return np.concatenate(found)


def seeds(graph: PassageGraph, facts: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """Return the weights of entities at the start of a walk (W,).

    An entity weighs the mean score of the chosen facts that it is in, times its specificity; all but the heaviest
    `TOP_ENTITIES` weigh 0.

    Args:
        graph: The graph.
        facts: The chosen facts.
        scores: The scores of all facts (F,).
    """
    pairs, found = [*graph.facts.values()], dict[int, list[float]]()
    for fact in facts:
        for number in dict.fromkeys(pairs[fact]):
            found.setdefault(number, []).append(float(scores[fact]))
    weights = {number: float(np.mean(of_facts) * graph.specificity[number]) for number, of_facts in found.items()}
    start = np.zeros(len(graph.entities))
    for number in sorted(weights, key=lambda number: -weights[number])[:TOP_ENTITIES]:
        start[number] = weights[number]
    return start


def min_max(scores: np.ndarray) -> np.ndarray:
    """Scale scores to 0 for the lowest and 1 for the highest; all to 1 if they are equal."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.ones_like(scores)


def pagerank(weights: csr_array, restart: np.ndarray, damping: float, tolerance: float = 1e-12) -> np.ndarray:
    """Return the personalised PageRank of a graph: where a walker is in the long run.

    At each step the walker follows an edge with probability `damping`, in proportion to the weights, and otherwise, or
    if there is none, starts anew. Power iteration on a matrix that is kept, since networkx builds one from its
    dictionaries in every call.

    Args:
        weights: Symmetric weights of the edges (V, V).
        restart: Where the walker starts anew (V,): not negative, and not all 0.
        damping: From 0 to below 1.
        tolerance: Bound on the error, summed over the nodes.

    Returns:
        Probabilities (V,).
    """
    restart = restart / restart.sum()
    degree = weights.sum(axis=0)
    stuck = degree == 0
    degree[stuck] = 1
    rank = restart
    for _ in range(1 + int(np.log(tolerance) / np.log(damping)) if damping else 1):
        followed = weights @ (rank / degree) + rank[stuck].sum() * restart
        rank = damping * followed + (1 - damping) * restart
    return rank


def _pairs(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _below(rows: np.ndarray, more: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return rows with more rows below them."""
    if not len(more):
        return rows
    return np.concatenate([rows, more]) if len(rows) else np.asarray(more)


def _embedded(names: Sequence[str], state: HippoState, embed: Embed) -> list[np.ndarray]:
    """Return the embeddings of phrases, from the state where it has them."""
    missing = [name for name in names if name not in state.phrases]
    fresh = dict(zip(missing, embed(missing), strict=True))
    return [fresh[name] if name in fresh else state.phrases[name] for name in names]
