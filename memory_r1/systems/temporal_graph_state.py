"""A bi-temporal graph of one scope: facts as edges between entities, each with the time during which it holds.

Event time (`valid_at`, `invalid_at`) is when a fact holds; system time (`created_at`, `expired_at`) is when the graph
learnt that it begins and that it ends. The log says which facts contradict each other. The intervals follow from that
and from the timestamps, so that they are the same in whatever order facts arrive.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
from immutables import Map
from safetensors.numpy import load

from memory_r1.memory.record import Event, Record
from memory_r1.systems.embedded import EmbeddedState
from memory_r1.systems.triples import Triple

EDGE = "fact"
"""Key under which the version of an entry says what its edge is; "edge" is a manager's, of another form."""
MERGE = "MERGE"
"""Kind of the event that says that an end of its item is the same entity as an end of another edge."""
ENDS = SUBJECT, OBJECT = "subject", "object"
NEIGHBOURS = 4
"""Rivals on either side in time with which the rules compare a fact: one would do if none were ever forgotten."""
LONGEST_NAMED = 5
"""Words of the longest entity name that is looked for in a question."""

_DETERMINER = re.compile(r"^(?:an?|the|my|our|his|her|their|this|that) (?=.)")
_DATE_START = "0000-01-01"
_BEING = r"(?:is |are |am |has |has been )?(?:now |currently )?"
_ONE_AT_A_TIME = {
    "home": rf"{_BEING}(?:liv(?:es?|ing) (?:in|at)|resid(?:es?|ing) (?:in|at)|moved (?:in)?to|moving (?:in)?to)",
    "work": rf"{_BEING}(?:work(?:s|ing)? (?:at|for)|employed (?:at|by))",
    "job": rf"{_BEING}work(?:s|ing)? as",
    "name": r"(?:is |are |am )(?:called|named)",
    "partner": rf"{_BEING}(?:married to|engaged to|dating)",
}
_SLOT = re.compile(r"(?P<whose>.*?)\b(?:" + "|".join(f"(?P<{n}>{p})" for n, p in _ONE_AT_A_TIME.items()) + ")")


def moment(text: str) -> str:
    """Return an ISO 8601 date or time as one that sorts by time (in UTC if it has a zone); empty if it is none.

    A year or a month stands for its first day.
    """
    text = text.strip()
    try:
        time = datetime.fromisoformat(text + _DATE_START[len(text) :] if len(text) in (4, 7) else text)
        return (time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time).isoformat()
    except (ValueError, OverflowError):  # an overflow in UTC: of the first or the last hours that there are
        return ""


def plain_name(name: str) -> str:
    """Return a name as it is compared: folded case, no punctuation and no article or possessive before it."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return _DETERMINER.sub("", " ".join(re.findall(r"\w+", folded))) or folded.strip()


def slot_of(relation: str) -> str:
    """Return what a relation states if it holds for one thing at a time, such as a home; empty for all others.

    The list is short on purpose: a relation that is not on it, such as "likes", may hold for many things at once, and
    "lived in" or "called" may speak of the past or of a telephone.
    """
    found = _SLOT.fullmatch(plain_name(relation))
    return f"{found['whose']}{found.lastgroup}" if found else ""


@dataclass(frozen=True, slots=True)
class Edge:
    """A fact, the plain names of its subject and object, and its times.

    Times are ISO 8601 as by `moment`: empty if unknown, and None as long as there is no end.
    """

    triple: Triple
    names: tuple[str, str]
    valid_at: str
    created_at: str
    invalid_at: str | None = None
    expired_at: str | None = None

    def ended_by(self, time: str) -> bool:
        """Return whether the fact has ended by a time; the empty time is later than all others."""
        return self.invalid_at is not None and (not time or self.invalid_at <= time)

    def holds_at(self, time: str) -> bool:
        """Return whether the fact holds at a time."""
        return (not time or self.valid_at <= time) and not self.ended_by(time)

    def known_at(self, time: str) -> bool:
        """Return whether the fact holds at a time or had been told by then as one that will."""
        return self.holds_at(time) or (self.created_at <= time and not self.ended_by(time))


@dataclass(frozen=True)
class TemporalGraphState(EmbeddedState):
    """A bank whose entries are edges.

    Attributes:
        edges: By entry id.
        touching: The edges at each plain name, oldest first.
        stated: The edges that state something of a plain name: by name and slot, and by name, relation and object.
        looks: The embedding (E,) of each plain name that has one.
        entities: The entity of each name that was merged; any other name is an entity of its own.
        aliases: All names of each entity that has several.
    """

    edges: Map[int, Edge] = field(default_factory=Map)
    touching: Map[str, tuple[int, ...]] = field(default_factory=Map)
    stated: Map[tuple[str, ...], tuple[int, ...]] = field(default_factory=Map)
    looks: Map[str, np.ndarray] = field(default_factory=Map)
    entities: Map[str, str] = field(default_factory=Map)
    aliases: Map[str, tuple[str, ...]] = field(default_factory=Map)

    def after(self, record: Record) -> Self:
        state = super().after(record)
        for event in record.events:
            if EDGE in event.payload:
                state = state._linked(event)
            elif event.kind == MERGE:
                state = state._merged(event)
        for event in record.events:  # once merges are known: only facts that share an entity contradict each other
            if EDGE in event.payload:
                state = state._settled(event)
        return state

    def _linked(self, event: Event) -> Self:
        item, payload = _item(event), event.payload[EDGE]
        triple = Triple.read(payload["triple"])
        subject, thing = plain_name(triple.subject), plain_name(triple.object)
        edge = Edge(triple, (subject, thing), payload["valid_at"], payload["created_at"])
        touching, stated, looks = self.touching, self.stated, self.looks
        for name in dict.fromkeys(edge.names):
            touching = touching.set(name, (*touching.get(name, ()), item))
        for key in keys_of(triple, subject, thing):
            stated = stated.set(key, (*stated.get(key, ()), item))
        tensors = load(event.tensor) if event.tensor is not None else {}
        for end, name in zip(ENDS, edge.names, strict=True):
            if end in tensors:
                looks = looks.set(name, tensors[end])
        return replace(self, edges=self.edges.set(item, edge), touching=touching, stated=stated, looks=looks)

    def _merged(self, event: Event) -> Self:
        other = event.payload["of"]
        if event.item not in self.edges or other not in self.edges:
            return self  # undone or forgotten
        alias = self.entity(self.name_at(_item(event), event.payload["end"]))
        entity = self.entity(self.name_at(other, event.payload["of_end"]))
        if alias == entity:
            return self
        moved = self.names_of(alias)
        entities = self.entities.update(dict.fromkeys(moved, entity))
        aliases = self.aliases.set(entity, (*self.names_of(entity), *moved))
        return replace(self, entities=entities, aliases=aliases)

    def _settled(self, event: Event) -> Self:
        """End facts by the one of an event, or that one by a later fact: the only place where intervals are decided.

        Of two facts with the same or an unknown beginning, the one told last is taken for the later.
        """
        item, edges = _item(event), self.edges
        new = edges[item]
        ends = {*map(self.entity, new.names)}
        for other in event.payload[EDGE]["contradicts"]:
            old = edges.get(other)
            if old is None or ends.isdisjoint(map(self.entity, old.names)):
                continue
            if new.valid_at and old.valid_at > new.valid_at:
                if not new.ended_by(old.valid_at):
                    new = replace(new, invalid_at=old.valid_at, expired_at=new.created_at)
            elif not old.ended_by(new.valid_at):
                edges = edges.set(other, replace(old, invalid_at=new.valid_at, expired_at=new.created_at))
        return replace(self, edges=edges.set(item, new))

    def name_at(self, item: int, end: str) -> str:
        """Return the plain name at an end of an edge."""
        return self.edges[item].names[end == OBJECT]

    def entity(self, name: str) -> str:
        """Return the entity of a plain name: the first of its names."""
        return self.entities.get(name, name)

    def names_of(self, entity: str) -> tuple[str, ...]:
        """Return all plain names of an entity."""
        return self.aliases.get(entity, (entity,))

    def at_entities(self, entities: Collection[str]) -> list[int]:
        """Return the ids of the edges that touch one of the entities, ended or not."""
        names = (name for entity in entities for name in self.names_of(entity))
        return sorted({item for name in names for item in self.touching.get(name, ())})

    def place_of(self, entity: str) -> tuple[int, str]:
        """Return an edge and its end at which an entity is named."""
        name = next(name for name in self.names_of(entity) if name in self.touching)
        item = self.touching[name][0]
        return item, SUBJECT if self.name_at(item, SUBJECT) == name else OBJECT

    def named_in(self, query: str) -> list[str]:
        """Return the entities whose names a question contains."""
        words = re.findall(r"\w+", unicodedata.normalize("NFKC", query).casefold())
        spans = (words[start : start + n] for start in range(len(words)) for n in range(1, LONGEST_NAMED + 1))
        names = dict.fromkeys(" ".join(span) for span in spans)
        return list(dict.fromkeys(self.entity(name) for name in names if name in self.touching))

    def judged_by_rules(self, triple: Triple, ends: tuple[str, str], valid_at: str) -> tuple[list[int], list[int]]:
        """Return the edges that say the same as a fact between two entities, and those that it contradicts.

        The same: equal relation and ends, and holding when the fact begins. A contradiction: the same subject, the
        same slot (`slot_of`), and another object; of many, the ones that begin next before and after it.
        """
        same, against = [], []
        for subject in self.names_of(ends[0]):
            for thing in self.names_of(ends[1]):
                *_, told = keys_of(triple, subject, thing)
                same += [item for item in self.stated.get(told, ()) if self.edges[item].holds_at(valid_at)]
            if slot := slot_of(triple.relation):
                rivals = self.stated.get((subject, slot), ())
                against += [item for item in rivals if self.entity(self.name_at(item, OBJECT)) != ends[1]]
        return sorted(same), self._neighbours(against, valid_at)

    def _neighbours(self, items: Collection[int], time: str) -> list[int]:
        """Return the last edges that begin by a time and the first that begin later, up to `NEIGHBOURS` of either."""
        ordered = sorted(items, key=lambda item: (self.edges[item].valid_at, item))
        later = [item for item in ordered if time and self.edges[item].valid_at > time]
        begun = ordered[: len(ordered) - len(later)]
        return [*begun[-NEIGHBOURS:], *later[:NEIGHBOURS]]


def keys_of(triple: Triple, subject: str, thing: str) -> Iterator[tuple[str, ...]]:
    """Yield the keys of `stated` under which a fact between two plain names is found."""
    if slot := slot_of(triple.relation):
        yield subject, slot
    yield subject, plain_name(triple.relation), thing


def ends_of(state: TemporalGraphState, note: Mapping[str, Any]) -> tuple[str, str]:
    """Return the entities of a fact that is about to be noted, as its merges say."""
    known = {name: place for name, place in note["merges"].items() if place[0] in state.edges}  # others were erased
    names = (plain_name(note[EDGE]["triple"][end]) for end in ENDS)
    subject, thing = (state.entity(state.name_at(*known[name]) if name in known else name) for name in names)
    return subject, thing


def _item(event: Event) -> int:
    assert event.item is not None, "an edge is an item of the log"
    return event.item
