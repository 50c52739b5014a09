"""HippoRAG: passages ranked by random walks from what a question names (Gutiérrez et al., 2024 and 2025).

Every turn is a passage. Its triples join entities to a graph, so that a question which names one end of a chain finds
passages at the other. Version 1 starts the walk at the entities that the question names; version 2 at those of the
facts nearest to the question, and at the passages themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from bm25s.stopwords import STOPWORDS_EN
from safetensors.numpy import save

from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import Embedder
from memory_r1.systems.banked import Proposal
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.baselines import add_every_turn
from memory_r1.systems.embedded import EmbeddedSystem
from memory_r1.systems.hipporag_graph import HippoState, PassageGraph, min_max, named, pagerank, seeds
from memory_r1.systems.plain_tokens import spoken
from memory_r1.systems.state import ScopeState
from memory_r1.systems.triples import TRIPLES, Triple, triples_by_rules, triples_prompt
from memory_r1.systems.writer import Writer, Writing, WritingTask, cost_of, object_of
from memory_r1.types import MemoryEntry, Turn

MAX_FACTS = 9
FACT_FILTER = WritingTask(
    "fact filter",
    "Choose the facts that help to answer the question, by their numbers. Reply with JSON only: "
    '{"numbers": ["1", "3"]} or {"numbers": []}.',
    object_of(
        {
            "numbers": {
                "type": "array",
                "items": {"type": "string", "enum": [str(number) for number in range(1, MAX_FACTS + 1)]},
                "maxItems": MAX_FACTS,
            }
        }
    ),
    max_new_tokens=48,
)
FACT_FLOOR = 0.4
"""Cosine with the question below which the rules drop a fact."""
_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(STOPWORDS_EN)
_PHRASE_WORDS, _QUERY_WORDS = 3, 40
_GRAPHS = 8  # kept at once; another scope's graph is built anew from its state


@dataclass(frozen=True, slots=True)
class Search:
    """A question on a scope: the state and its graph, the question's embedding (E,), its cosines with passages (N,)."""

    request: RecallRequest
    state: HippoState
    graph: PassageGraph
    query: np.ndarray
    dense: np.ndarray


class HippoRAG(EmbeddedSystem):
    """Version 1: a walk from the entities that the question names; passages rank by the entities that they hold.

    A question that names no entity is answered by dense search, which also orders passages that no walk reaches.

    Args:
        embedder: Encodes passages, entities and questions.
        writer: Writes the triples; by default the rules do.
        recall_per_speaker: Passages recalled, per speaker.
        synonym_threshold: Cosine from which two entities, or a phrase of a question and an entity, are one.
        damping: Probability of the walk's next step; otherwise it starts anew.
        count_tokens: As in `BankedSystem`.
        states: As in `BankedSystem`.

    Raises:
        ConfigurationError: `synonym_threshold` is not above 0 and up to 1, or `damping` not from 0 to below 1.
    """

    name = "hipporag"
    start: ClassVar[ScopeState] = HippoState()
    _with_facts: ClassVar[bool] = False

    def __init__(
        self,
        embedder: Embedder,
        writer: Writer | None = None,
        *,
        recall_per_speaker: int,
        synonym_threshold: float = 0.8,
        damping: float = 0.5,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        if not 0 < synonym_threshold <= 1:
            raise ConfigurationError(
                f"synonym_threshold is {synonym_threshold}: give a cosine above 0 and not above 1, such as 0.8"
            )
        if not 0 <= damping < 1:
            raise ConfigurationError(f"damping is {damping}: give a probability from 0 to below 1, such as 0.5")
        super().__init__(embedder, count_tokens=count_tokens, states=states)
        self._writer = writer or Writer()
        self._recall_per_speaker = recall_per_speaker
        self._synonym_threshold = synonym_threshold
        self._damping = damping
        self._graphs: dict[str, PassageGraph] = {}
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_WRITES}

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        added = add_every_turn(turns)
        told = [place for place, proposal in enumerate(added) if proposal.operations]
        said = [turns[place][0] for place in told]
        # A passage is read alone, so that erasing it erases all that was written from it.
        lines = [triples_prompt(turn, ()) for turn in said]
        rules = [{"triples": [triple.payload for triple in triples_by_rules(turn)]} for turn in said]
        written = self._writer.write(TRIPLES, lines, rules)
        found = [[*dict.fromkeys(map(Triple.read, writing.value["triples"]))] for writing in written]
        phrases = [
            [phrase for phrase in self._phrases(triples) if phrase not in cast(HippoState, turns[place][1]).phrases]
            for place, triples in zip(told, found, strict=True)
        ]
        rows = iter(self.embed([*map(spoken, said), *(phrase for new in phrases for phrase in new)]))
        passage_rows = [next(rows) for _ in said]
        for place, row, triples, new, writing in zip(told, passage_rows, found, phrases, written, strict=True):
            note: dict[str, Any] = {"triples": [triple.payload for triple in triples], "phrases": new}
            tensors = {"vector": row, **({"phrases": np.stack([next(rows) for _ in new])} if new else {})}
            added[place] = Proposal(
                added[place].operations, writing.record, {0: {**note, **self.encoder_note}}, {0: save(tensors)}
            )
        return added

    def _phrases(self, triples: Sequence[Triple]) -> list[str]:
        """Return what is embedded of triples, each phrase once."""
        entities = [name for triple in triples for name in named(triple)]
        return [*dict.fromkeys([*entities, *(triple.text for triple in triples if self._with_facts)])]

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        phrases = [phrases_of(request.query) for request in requests]
        rows = iter(self.embed([phrase for of_query in phrases for phrase in of_query]))
        ranked = []
        for search, of_query in zip(self._searches(requests), phrases, strict=True):
            graph, cosines = search.graph, np.zeros((0, 1))
            if of_query:
                of_phrases = np.stack([next(rows) for _ in of_query])  # (Q, E)
                if len(graph.entities):
                    cosines = of_phrases @ graph.entity_rows.T  # (Q, W)
            linked = cosines.argmax(axis=1)[cosines.max(axis=1) >= self._synonym_threshold]
            scores = np.zeros(len(graph.ids))
            if len(linked):
                restart = np.zeros(len(graph.entities))
                restart[linked] = graph.specificity[linked]
                scores = graph.held @ pagerank(graph.between_entities, restart, self._damping)
            ranked.append(self._best(search, scores))
        return ranked

    def _searches(self, requests: Sequence[RecallRequest]) -> list[Search]:
        """Return each request with its graph and its cosines with the passages."""
        queries = self.embed([request.query for request in requests])  # (B, E)
        searches = []
        for request, query in zip(requests, queries, strict=True):
            state = cast(HippoState, self.embedded_state(request.scope))
            graph = self._graphs.pop(request.scope, None) or PassageGraph(self._synonym_threshold, self._with_facts)
            graph = self._graphs[request.scope] = graph.grown(state, self.embed)
            while len(self._graphs) > _GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            dense = graph.passage_rows @ query if graph.ids else np.zeros(0)
            searches.append(Search(request, state, graph, query, dense))
        return searches

    def _best(self, search: Search, scores: np.ndarray) -> tuple[MemoryEntry, ...]:
        """Return the passages with the highest scores (N,), of equal ones those nearest to the question."""
        k = self._recall_per_speaker * max(1, len(search.state.speakers))
        order = np.lexsort((-search.dense, -np.round(scores, 9)))[:k]
        return tuple(search.state.bank.get(search.graph.ids[place]) for place in order)

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        try:
            return super().forget(scope, ids)
        finally:
            self._graphs.pop(scope, None)


class HippoRAG2(HippoRAG):
    """Version 2: a walk from the entities of the facts nearest to the question and, lightly, from all passages.

    The writer drops facts that do not help; if none is left, dense search answers.

    Args:
        embedder: Encodes passages, entities, facts and questions.
        writer: Writes the triples and filters facts; by default the rules do.
        passage_weight: Weight of a passage at the start of a walk, times its min-max scaled cosine with the question.
        facts: Facts that the filter reads.
        options: As in `HippoRAG`.

    Raises:
        ConfigurationError: As in `HippoRAG`, or `passage_weight` is below 0, or `facts` not from 1 to `MAX_FACTS`.
    """

    name = "hipporag2"
    _with_facts = True

    def __init__(
        self,
        embedder: Embedder,
        writer: Writer | None = None,
        *,
        passage_weight: float = 0.05,
        facts: int = 5,
        **options: Any,
    ) -> None:
        if not passage_weight >= 0:
            raise ConfigurationError(f"passage_weight is {passage_weight}: give a weight of at least 0, such as 0.05")
        if not 1 <= facts <= MAX_FACTS:
            raise ConfigurationError(f"facts is {facts}: give the number of facts to filter, from 1 to {MAX_FACTS}")
        super().__init__(embedder, writer, **options)
        self._passage_weight = passage_weight
        self._facts = facts
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_READS}

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        return [ranked for ranked, _ in self._rank_at_a_cost(requests)]

    def _rank_at_a_cost(
        self, requests: Sequence[RecallRequest]
    ) -> list[tuple[tuple[MemoryEntry, ...], Mapping[str, float]]]:
        """Filter facts for all questions at once, the same question once, and walk from those that are kept."""
        searches = {(search.request.scope, search.request.query): search for search in self._searches(requests)}
        cosines = {
            key: search.graph.fact_rows @ search.query for key, search in searches.items() if search.graph.facts
        }  # (F,) each
        shown = {key: np.argsort(-of_facts, kind="stable")[: self._facts].tolist() for key, of_facts in cosines.items()}
        lines, rules = [], []
        for key, facts in shown.items():
            texts = [*searches[key].graph.facts]
            lines.append([*(f"{n}. {texts[fact]}" for n, fact in enumerate(facts, 1)), f"Question: {key[1]}"])
            near = [str(n) for n, fact in enumerate(facts, 1) if cosines[key][fact] >= FACT_FLOOR]
            rules.append({"numbers": near})
        written = dict(zip(shown, self._writer.write(FACT_FILTER, lines, rules), strict=True))
        ranked: dict[tuple[str, str], tuple[tuple[MemoryEntry, ...], Mapping[str, float]]] = {}
        for key, search in searches.items():
            writings: list[Writing] = [written[key]] if key in written else []
            numbers = {int(number) for writing in writings for number in writing.value["numbers"]}
            kept = [fact for n, fact in enumerate(shown.get(key, ()), 1) if n in numbers]
            scores = self._walk(search, cosines[key], kept) if kept else np.zeros(len(search.graph.ids))
            ranked[key] = self._best(search, scores), cost_of(writings)
        return [ranked[request.scope, request.query] for request in requests]

    def _walk(self, search: Search, cosines: np.ndarray, kept: Sequence[int]) -> np.ndarray:
        """Return the passages' share of a walk from the entities of the kept facts and from the passages (N,)."""
        graph = search.graph
        start = seeds(graph, kept, min_max(cosines))
        restart = np.concatenate([start, self._passage_weight * min_max(search.dense)])
        if not restart.any():  # the kept facts are the farthest of all, and passages have no weight
            return np.zeros(len(graph.ids))
        return pagerank(graph.with_passages, restart, self._damping)[len(graph.entities) :]


def phrases_of(query: str) -> list[str]:
    """Return the phrases of a question that may name an entity: up to three words, no stop word at either end."""
    words = _WORD.findall(query.casefold())[:_QUERY_WORDS]
    grams = (words[start : start + size] for size in range(1, _PHRASE_WORDS + 1) for start in range(len(words)))
    return [*dict.fromkeys(" ".join(gram) for gram in grams if _STOP_WORDS.isdisjoint({gram[0], gram[-1]}))]
