"""How facts get into the temporal graph: found in a turn, their names merged, and judged against what is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from memory_r1.systems.temporal_graph_state import EDGE, ENDS, TemporalGraphState, ends_of, moment, plain_name
from memory_r1.systems.triples import TRIPLES, Triple, triples_by_rules, triples_prompt
from memory_r1.systems.writer import Writer, Writing, WritingTask, object_of
from memory_r1.types import Turn

MOST_NAMES, MOST_FACTS = 5, 8
"""Known names, and known facts, that the model compares a new one with."""

T = TypeVar("T")


def _numbers(shown: int, most: int) -> dict[str, Any]:
    numbers = {"type": "string", "enum": [str(number) for number in range(1, shown + 1)]}
    return {"type": "array", "items": numbers, "maxItems": most}


ENTITY_MERGE = WritingTask(
    "entity merge",
    "Is the name in the last line another name of one of the numbered ones, of the very same person or thing? Reply "
    'with JSON only: {"same": ["2"]} or {"same": []}.',
    object_of({"same": _numbers(MOST_NAMES, 1)}),
    max_new_tokens=16,
)
CONTRADICTIONS = WritingTask(
    "contradictions",
    "The last line is a new fact. List the numbers of the known facts that say the same, and of those that cannot be "
    'true any longer because of it; most stay true. Reply with JSON only: {"same": ["2"], "ended": []} or {"same": [], '
    '"ended": ["1"]}.',
    object_of({"same": _numbers(MOST_FACTS, MOST_FACTS), "ended": _numbers(MOST_FACTS, MOST_FACTS)}),
    max_new_tokens=64,
)


@dataclass(slots=True)
class Fact:
    """A fact that a turn states, on its way into the graph.

    Attributes:
        place: Number of its turn in the batch.
        turn: The turn.
        state: The graph before the turn.
        triple: What is stated.
        vector: The embedding (E,) of its sentence.
        merges: For names of the turn's facts that mean a known entity: an edge and its end where that is named.
        looks: The embeddings (E,) of its new names, by end.
        contradicts: The known edges that it contradicts.
        same: The known edge that states it already.
    """

    place: int
    turn: Turn
    state: TemporalGraphState
    triple: Triple
    vector: np.ndarray
    merges: dict[str, tuple[int, str]]
    looks: dict[str, np.ndarray] = field(default_factory=dict)
    contradicts: list[int] = field(default_factory=list)
    same: int | None = None

    @property
    def valid_at(self) -> str:
        """The time since when it holds: as told, or that of the turn."""
        return moment(self.triple.time) or moment(self.turn.timestamp)

    @property
    def sentence(self) -> str:
        """The fact as it is stored, with the time since when it holds if that was told."""
        return sentence(self.triple)

    def name(self, end: str) -> str:
        """Return the plain name at an end."""
        return plain_name(self.triple.payload[end])

    def note(self) -> dict[str, Any]:
        """Return what is noted of the edge beside its text."""
        edge = {
            "triple": self.triple.payload,
            "valid_at": self.valid_at,
            "created_at": moment(self.turn.timestamp),
            "contradicts": self.contradicts,
        }
        return {EDGE: edge, "merges": self.merges}


class FactFinder:
    """Finds the facts of turns.

    Args:
        writer: Finds facts, merges names and names contradictions.
        embed: Returns one unit vector per text, (len(texts), E).
        alike: Cosine from which a known name may mean the same as a new one.
    """

    def __init__(self, writer: Writer, embed: Callable[[Sequence[str]], np.ndarray], alike: float) -> None:
        self._writer = writer
        self._embed = embed
        self._alike = alike

    def find(self, turns: Sequence[tuple[Turn, TemporalGraphState]]) -> tuple[list[Fact], list[list[Writing]]]:
        """Return the facts of a batch of turns of different scopes, and what was written for each turn."""
        writings: list[list[Writing]] = [[] for _ in turns]
        facts = self._extract(turns, writings)
        if self._writer.model is not None:
            self._merge(facts, writings)
        self._judge(facts, writings)
        return facts, writings

    def _extract(
        self, turns: Sequence[tuple[Turn, TemporalGraphState]], writings: Sequence[list[Writing]]
    ) -> list[Fact]:
        told = [(place, turn, state) for place, (turn, state) in enumerate(turns) if turn.text.strip()]
        lines = [triples_prompt(turn, state.previous(turn)) for _, turn, state in told]
        rules = [{"triples": [triple.payload for triple in triples_by_rules(turn)]} for _, turn, _ in told]
        found = []
        for (place, turn, state), writing in zip(told, self._writer.write(TRIPLES, lines, rules), strict=True):
            writings[place].append(writing)
            merges: dict[str, tuple[int, str]] = {}
            for triple in dict.fromkeys(map(Triple.read, writing.value["triples"])):
                found.append((place, turn, state, triple, merges))
        rows = self._embed([sentence(triple) for *_, triple, _ in found])  # (B, E)
        return [
            Fact(place, turn, state, triple, row, merges)
            for (place, turn, state, triple, merges), row in zip(found, rows, strict=True)
        ]

    def _merge(self, facts: Sequence[Fact], writings: Sequence[list[Writing]]) -> None:
        """Ask of every new name whether it means an entity with a similar one."""
        new = [(fact, end) for fact in facts for end in ENDS if fact.name(end) not in fact.state.looks]
        asked: dict[tuple[int, str], tuple[Fact, str, list[tuple[int, str]]]] = {}
        for (fact, end), row in zip(new, self._embed([fact.name(end) for fact, end in new]), strict=True):
            fact.looks[end] = row
            if alike := self._alike_to(fact.state, fact.name(end), row):
                shown = [fact.state.place_of(entity) for entity in alike]
                asked.setdefault((fact.place, fact.name(end)), (fact, end, shown))
        lines = []
        for fact, end, shown in asked.values():
            known = (_named(fact.state.edges[item].triple, known_end) for item, known_end in shown)
            lines.append([*_numbered(known), f"New: {_named(fact.triple, end)}"])
        written = self._writer.write(ENTITY_MERGE, lines, [{"same": []} for _ in asked])
        for (fact, end, shown), writing in zip(asked.values(), written, strict=True):
            writings[fact.place].append(writing)
            for place in _chosen(shown, writing.value["same"]):
                fact.merges[fact.name(end)] = place

    def _alike_to(self, state: TemporalGraphState, name: str, row: np.ndarray) -> list[str]:
        """Return the entities with the names most similar to a new one; names with other digits in them differ."""
        if name in state.touching or not state.looks:
            return []
        known = list(state.looks)
        cosines = np.stack([state.looks[held] for held in known]) @ row  # (N,)
        best = (known[place] for place in np.argsort(-cosines, kind="stable") if cosines[place] >= self._alike)
        entities = (state.entity(held) for held in best if _digits(held) == _digits(name))
        return list(dict.fromkeys(entities))[:MOST_NAMES]

    def _judge(self, facts: Sequence[Fact], writings: Sequence[list[Writing]]) -> None:
        """Say of each fact which known facts that share an entity with it are the same, or contradicted."""
        asked, lines, rules = [], [], []
        for fact in facts:
            ends = ends_of(fact.state, fact.note())
            same, against = fact.state.judged_by_rules(fact.triple, ends, fact.valid_at)
            shown = [*same, *reversed(against)]
            if self._writer.model is not None:
                similar = fact.state.nearest(fact.vector, MOST_FACTS, fact.state.at_entities(ends))
                shown = list(dict.fromkeys([*shown, *similar]))[:MOST_FACTS]
            if shown:
                asked.append((fact, shown))
                known = (fact.state.bank.get(item).text for item in shown)
                lines.append([*_numbered(known), f"New: {fact.sentence}"])
                rules.append({"same": _places(shown, same), "ended": _places(shown, against)})
        for (fact, shown), writing in zip(asked, self._writer.write(CONTRADICTIONS, lines, rules), strict=True):
            writings[fact.place].append(writing)
            same = [item for item in _chosen(shown, writing.value["same"]) if _may_repeat(fact, item)]
            fact.same = next(iter(same), None)
            fact.contradicts = [item for item in _chosen(shown, writing.value["ended"]) if item not in same]


def _may_repeat(fact: Fact, item: int) -> bool:
    """Return whether a fact may say the same as an edge, so that a wrong verdict of the model loses none.

    Then the edge holds when the fact begins and links the same two entities.
    """
    edge, state = fact.state.edges[item], fact.state
    return edge.holds_at(fact.valid_at) and {*map(state.entity, edge.names)} == {*ends_of(state, fact.note())}


def sentence(triple: Triple) -> str:
    """Return a fact as a sentence, with the time since when it holds if that was told."""
    return f"{triple.text} (since {triple.time})" if triple.time else triple.text


def _named(triple: Triple, end: str) -> str:
    return f"{triple.payload[end]} ({triple.text})"


def _digits(name: str) -> list[str]:
    return re.findall(r"\d+", name)


def _numbered(lines: Iterable[str]) -> list[str]:
    return [f"{number}. {line}" for number, line in enumerate(lines, 1)]


def _places(shown: Sequence[int], chosen: Sequence[int]) -> list[str]:
    return [str(number) for number, item in enumerate(shown, 1) if item in chosen]


def _chosen(shown: Sequence[T], numbers: Sequence[str]) -> list[T]:
    """Return what was shown under these numbers; others, which a model may make up, name nothing."""
    return [shown[int(number) - 1] for number in dict.fromkeys(numbers) if int(number) <= len(shown)]
