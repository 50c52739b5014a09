"""Temporal graph: facts with times between entities, in the style of Zep and Graphiti (Rasmussen et al., 2025).

A model (or rules) finds the facts of a turn, says which names mean the same entity, and which known facts a new one
contradicts. What follows from that is code: when a fact ends (`temporal_graph_state`), and what a question finds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import networkx
import numpy as np
from safetensors.numpy import save

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.memory.embedder import Embedder
from memory_r1.memory.index import LexicalIndex
from memory_r1.memory.record import Event, Record
from memory_r1.memory.retriever import reciprocal_rank_fusion
from memory_r1.systems.banked import Proposal, record_of
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens, check_scope
from memory_r1.systems.embedded import EmbeddedSystem, nearest
from memory_r1.systems.state import ScopeState
from memory_r1.systems.temporal_graph_facts import Fact, FactFinder
from memory_r1.systems.temporal_graph_state import (
    EDGE,
    ENDS,
    MERGE,
    Edge,
    TemporalGraphState,
    ends_of,
    moment,
    plain_name,
)
from memory_r1.systems.triples import Triple
from memory_r1.systems.writer import Writer, Writing, joined, texts_of
from memory_r1.types import MemoryEntry, Operation, OperationKind, Recall, Turn

RANK_CONSTANT = 0
"""Of the fusion: a first place counts twice as much as a second. Graphiti has 1, and counts places from 0."""
_KEPT_INDEXES = 16


@dataclass(frozen=True, slots=True)
class _Index:
    """What a search needs of some edges of a state: their ids, embeddings (N, E), words, and entities."""

    state: TemporalGraphState
    ids: tuple[int, ...]
    rows: np.ndarray
    lexical: LexicalIndex
    graph: networkx.Graph


class TemporalGraph(EmbeddedSystem):
    """Keeps the facts of a dialogue as edges that hold for a time; a question finds those that hold at its moment.

    Args:
        embedder: Encodes facts, names and questions.
        writer: Finds facts, merges names and names contradictions; by default the rules do, which merge nothing.
        recall_per_speaker: Facts recalled for a question, per speaker.
        alike: Cosine from which a known name is shown to the model as one that a new name may mean.
        hops: Edges between an entity that a question names and the farthest fact that the search by distance finds.
        count_tokens: As in `BankedSystem`.
        states: As in `BankedSystem`.

    Raises:
        ConfigurationError: `alike` is not from 0 to 1, or `hops` below 1.
    """

    name = "temporal-graph"
    capabilities = frozenset({Capability.ENTRIES, Capability.EDITS})
    start: ClassVar[ScopeState] = TemporalGraphState()

    def __init__(
        self,
        embedder: Embedder,
        writer: Writer | None = None,
        *,
        recall_per_speaker: int,
        alike: float = 0.6,
        hops: int = 3,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        if not 0 <= alike <= 1:
            raise ConfigurationError(f"alike is {alike}: give a cosine from 0 to 1")
        if hops < 1:
            raise ConfigurationError(f"hops is {hops}: give the edges from an entity to a fact, at least 1")
        super().__init__(embedder, count_tokens=count_tokens, states=states)
        writer = writer or Writer()
        self._finder = FactFinder(writer, self.embed, alike)
        self._recall_per_speaker = recall_per_speaker
        self._hops = hops
        self._indexes: dict[str, _Index] = {}  # by scope
        if writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_WRITES}

    def state(self, scope: str) -> TemporalGraphState:
        """Return the graph of a scope; a StoreError if another encoder wrote it."""
        return cast(TemporalGraphState, self.embedded_state(scope))

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        facts, writings = self._finder.find([(turn, cast(TemporalGraphState, state)) for turn, state in turns])
        of_turns: list[list[Fact]] = [[] for _ in turns]
        for fact in facts:
            of_turns[fact.place].append(fact)
        return [self._proposal(own, written) for own, written in zip(of_turns, writings, strict=True)]

    def _proposal(self, facts: Sequence[Fact], written: Sequence[Writing]) -> Proposal:
        operations, notes, tensors = [], {}, {}
        for place, fact in enumerate(facts):
            if fact.same is not None:  # one more turn that states a known fact
                held = fact.state.bank.get(fact.same)
                operations.append(Operation(OperationKind.UPDATE, held.text, held.entry_id))
                notes[place] = {"speaker": held.speaker, "timestamp": held.timestamp}
            else:
                operations.append(Operation(OperationKind.ADD, fact.sentence))
                notes[place] = {**fact.note(), **self.encoder_note}
                tensors[place] = save({"vector": fact.vector, **fact.looks})
        return Proposal(tuple(operations), joined(written), notes, tensors)

    def _record(self, turn: Turn, proposal: Proposal, read: ScopeState, now: ScopeState) -> Record:
        """Judge by the rules what another writer has added since, and make the merges events of their own.

        So `undo` takes a merge back without the fact that it came with. A merge names places in the graph, no text, so
        that no name outlives a forgotten fact.
        """
        graph, notes, merges = cast(TemporalGraphState, now), dict(proposal.notes), []
        for place, note in proposal.notes.items():
            if EDGE in note:
                edge, kept = note[EDGE], {key: value for key, value in note.items() if key != "merges"}
                triple = Triple.read(edge["triple"])
                _, against = graph.judged_by_rules(triple, ends_of(graph, note), edge["valid_at"])
                unseen = [item for item in against if item > read.bank.highest_id]
                notes[place] = {**kept, EDGE: {**edge, "contradicts": [*edge["contradicts"], *unseen]}}
                merges.append(note["merges"])
        record = record_of(turn, replace(proposal, notes=notes), read, now)
        merged: dict[str, Event] = {}
        added = (event for event in record.events if EDGE in event.payload)
        for event, places in zip(added, merges, strict=True):
            for end in ENDS:
                name = plain_name(event.payload[EDGE]["triple"][end])
                if name in places and name not in merged:
                    of, of_end = places[name]
                    merged[name] = Event(MERGE, event.item, {"end": end, "of": of, "of_end": of_end})
        return replace(record, events=(*record.events, *merged.values()))

    def recall_at(self, query: str, scope: str, time: str, budget_tokens: int | None = None) -> Recall:
        """Recall what held at a past or future time (ISO 8601), whenever it was told.

        Raises:
            DataError: The time is none.
        """
        if not moment(time):
            raise DataError(f"the time {time!r} is not ISO 8601; give one such as 2023-05-08T13:56:00")
        check_scope(scope)
        (ranked,) = self._search([RecallRequest(query, scope, time)], Edge.holds_at)
        return self._within_budget(ranked, budget_tokens)

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        """Find what holds at `now`, and what had been told by then as beginning later; without `now`, the latest."""
        return self._search(requests, Edge.known_at)

    def _search(
        self, requests: Sequence[RecallRequest], admits: Callable[[Edge, str], bool]
    ) -> list[tuple[MemoryEntry, ...]]:
        """Fuse a search by words, one by embedding, and one by distance from the entities that a question names."""
        queries = self.embed([request.query for request in requests])  # (B, E)
        found = []
        for request, query in zip(requests, queries, strict=True):
            state, time = self.state(request.scope), moment(request.now)
            admitted = tuple(item for item in sorted(state.edges) if admits(state.edges[item], time))
            index = self._index(request.scope, state, admitted)
            k = self._recall_per_speaker * max(1, len(state.speakers))
            near = [index.ids[place] for place in nearest(index.rows, query, len(index.ids))] if index.ids else []
            worded = [item for item, _ in index.lexical.search(request.query, 2 * k)]
            linked = self._by_distance(index.graph, state, near, request.query)
            fused = reciprocal_rank_fusion([near[: 2 * k], worded, linked[: 2 * k]], RANK_CONSTANT)
            found.append(tuple(state.bank.get(item) for item in fused[:k]))
        return found

    def _index(self, scope: str, state: TemporalGraphState, ids: tuple[int, ...]) -> _Index:
        held = self._indexes.get(scope)
        if held is None or held.state is not state or held.ids != ids:
            graph = networkx.Graph()
            graph.add_edges_from(tuple(map(state.entity, state.edges[item].names)) for item in ids)
            rows = np.stack([state.vectors[item] for item in ids]) if ids else np.zeros((0, 0))  # (N, E)
            texts = [state.bank.get(item).text for item in ids]
            lexical = LexicalIndex(texts, ids, known=held.lexical if held else None)
            held = self._indexes[scope] = _Index(state, ids, rows, lexical, graph)
            while len(self._indexes) > _KEPT_INDEXES:
                del self._indexes[next(iter(self._indexes))]
        return held

    def _by_distance(
        self, graph: networkx.Graph, state: TemporalGraphState, near: Sequence[int], query: str
    ) -> list[int]:
        """Order edges by their distance from the entities that a question names, equally far ones as in `near`."""
        named = [entity for entity in state.named_in(query) if entity in graph]
        if not named:
            return []
        steps = networkx.multi_source_dijkstra_path_length(graph, named, cutoff=self._hops - 1)
        far = {
            item: min(steps.get(state.entity(name), self._hops) for name in state.edges[item].names) for item in near
        }
        return sorted((item for item in near if far[item] < self._hops), key=lambda item: far[item])

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        """Erase facts, and with them all others of their turns; a fact that one of them had ended holds again."""
        try:
            return super().forget(scope, ids)
        finally:
            self._indexes.pop(scope, None)

    def _with_derived(self, records: Sequence[Record], ids: set[int]) -> set[int]:
        versions = texts_of(records)
        turns = {turn_id for item, version in versions if item in ids for turn_id in version["turn_ids"]}
        return {*ids, *(item for item, version in versions if turns.intersection(version["turn_ids"]))}
