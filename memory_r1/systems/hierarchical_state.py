"""The three graphs of a scope: turns chained to sessions, sessions linked by similarity, insights on sessions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from immutables import Map

from memory_r1.memory.record import SESSION_END, Event, Record
from memory_r1.systems.embedded import EmbeddedState
from memory_r1.systems.insights import ADD, AGREE, Change
from memory_r1.types import OperationKind

SESSION, INSIGHT = "session", "insight"
"""Keys that mark the entries of session nodes and of insights in the log."""
MAX_EDGES = 10


@dataclass(frozen=True, slots=True)
class Insight:
    """The score of an insight, and the nodes of the sessions that support it."""

    score: int
    sessions: frozenset[int]


@dataclass(frozen=True)
class HierarchicalState(EmbeddedState):
    """A bank whose entries are turns, summaries of sessions, and insights; ids are those of entries.

    Attributes:
        running: The turns of the running session, in order.
        chains: The interaction graph: the turns of each session in order, by the session's node.
        edges: The query graph: the neighbours of each node.
        insights: The insight graph.
    """

    running: tuple[int, ...] = ()
    chains: Map[int, tuple[int, ...]] = field(default_factory=Map)
    edges: Map[int, frozenset[int]] = field(default_factory=Map)
    insights: Map[int, Insight] = field(default_factory=Map)

    def after(self, record: Record) -> Self:
        state = super().after(record)
        running, chains, edges, insights = state.running, state.chains, state.edges, state.insights
        for event in record.events:
            version, item = event.payload, event.item
            if event.kind == SESSION_END:
                running = ()
            elif item is None:
                continue
            elif event.kind == OperationKind.DELETE and item in insights:
                insights = insights.delete(item)
            elif SESSION in version:
                chains = chains.set(item, tuple(version[SESSION]))
                edges = edges.set(item, frozenset(version["edges"]))
                for near in version["edges"]:
                    edges = edges.set(near, edges.get(near, frozenset()) | {item})
            elif INSIGHT in version:
                insights = insights.set(item, Insight(version[INSIGHT], frozenset(version["sessions"])))
            elif "text" in version:
                running = (*running, item)
        return replace(state, running=running, chains=chains, edges=edges, insights=insights)

    def turns(self) -> list[int]:
        """Return the ids of all turns."""
        return [item for item in self.vectors if item not in self.chains and item not in self.insights]

    def similar(self, query: np.ndarray, least: float, among: Collection[int]) -> list[int]:
        """Return the entries of `among` with a similarity to `query` (E,) of `least` or more, best first."""
        ranked = self.nearest(query, len(among), among)
        # Rounded, so that float32 does not decide at the threshold.
        return [item for item in ranked if round(float(self.vectors[item] @ query), 6) >= least]

    def neighbours(self, nodes: Sequence[int]) -> list[int]:
        """Return the sessions one hop from `nodes`, without these; an erased one has no chain."""
        found = (near for node in nodes for near in sorted(self.edges.get(node, ())) if near in self.chains)
        return [near for near in dict.fromkeys(found) if near not in nodes]

    def turns_of(self, nodes: Iterable[int]) -> list[int]:
        """Return the turns of sessions and of the running one, which has no node yet."""
        return [*(turn for node in nodes for turn in self.chains[node]), *self.running]

    def supported(self, nodes: Collection[int]) -> list[int]:
        """Return the insights that these sessions support: by score, then by their number, then newest first."""
        support = {item: len(insight.sessions.intersection(nodes)) for item, insight in self.insights.items()}
        found = [item for item, count in support.items() if count]
        return sorted(found, key=lambda item: (-self.insights[item].score, -support[item], -item))

    def session_event(self, text: str, vector: np.ndarray, least: float, now: str) -> Event:
        """Return the event that makes the running session a node, linked to those with a similarity of `least`."""
        links = self.similar(vector, least, self.chains)[:MAX_EDGES]
        payload = {**self._version(text, self.running, now), SESSION: list(self.running), "edges": links}
        return Event(OperationKind.ADD.value, self.bank.highest_id + 1, payload)

    def insight_event(self, change: Change, node: int, now: str) -> Event | None:
        """Return the event of a change that a session made, the one with this node; None if its insight is gone.

        An `ADD` of what is known is an `AGREE`.
        """
        known = (item for item in self.insights if change.kind == ADD and self.bank.get(item).text == change.text)
        change = next((Change(AGREE, item) for item in known), change)
        weight = change.weight(len(self.insights))
        if change.kind == ADD:
            payload = {**self._version(change.text, self.chains[node], now), INSIGHT: weight, "sessions": [node]}
            return Event(OperationKind.ADD.value, self.bank.highest_id + 1, payload)
        if change.item not in self.insights:
            return None
        if weight < 0:
            return self.scored(change.item, weight)
        supporters = sorted(self.insights[change.item].sessions | {node})
        if not change.text:
            return self.scored(change.item, weight, sessions=supporters)
        version = self._version(change.text, [change.item, *self.chains[node]], now)
        return self.scored(change.item, weight, **version, sessions=supporters)

    def scored(self, item: int, weight: int, **new: Any) -> Event:
        """Return the event that adds `weight` to the score of an insight; at 0 or below it is dropped."""
        insight, entry = self.insights[item], self.bank.get(item)
        if insight.score + weight <= 0:
            return Event(OperationKind.DELETE.value, item)
        version = {**self._version(entry.text, [item], entry.timestamp), "sessions": sorted(insight.sessions), **new}
        event = Event(OperationKind.UPDATE.value, item, {**version, INSIGHT: insight.score + weight})
        return self.bank.shortened(event)

    def _version(self, text: str, sources: Iterable[int], now: str) -> dict[str, Any]:
        """Return what the log says of a text written from the entries `sources`."""
        turn_ids = dict.fromkeys(turn_id for item in sources for turn_id in self.bank.get(item).source_turn_ids)
        return {"text": text, "speaker": "", "timestamp": now, "turn_ids": list(turn_ids)}
