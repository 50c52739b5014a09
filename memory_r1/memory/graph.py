"""A bank as a graph: entries whose edges share an entity are neighbours, and links make two names one entity.

All of it is derived from the live entries. A link is an edge too, so that to undo, delete or forget it takes the merge
back, whatever was merged since.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from memory_r1.memory.record import MARKERS, UNDO, Event, Record
from memory_r1.metrics import normalize_answer
from memory_r1.types import SAME_AS, Edge, MemoryEntry

_POSSESSIVE = re.compile(r"['\u2019]s\b")


def entity(name: str) -> str:
    """Return the form in which names are compared: lower case, without articles, punctuation and possessive.

    Where nothing would be left, it is the name in lower case.
    """
    return normalize_answer(_POSSESSIVE.sub("", name)) or name.lower()


def merged(entries: Sequence[MemoryEntry]) -> dict[str, str]:
    """Map every entity to the one that stands for it: of those that links make one, the one named first."""
    return _merged(entries, _entities(entries))


def _entities(entries: Iterable[MemoryEntry]) -> dict[str, str]:
    """Return the entity of each name in the edges, in order of first mention."""
    edges = (entry.edge for entry in entries if entry.edge is not None)
    names = dict.fromkeys(name for edge in edges for name in (edge.subject, edge.object))
    return {name: entity(name) for name in names}


def _merged(entries: Iterable[MemoryEntry], entities: Mapping[str, str]) -> dict[str, str]:
    above = {name: name for name in entities.values()}  # a forest, whose roots stand for what is below them
    order = {name: place for place, name in enumerate(above)}

    def root(name: str) -> str:
        while above[name] != name:
            above[name] = name = above[above[name]]
        return name

    for edge in (entry.edge for entry in entries if entry.edge is not None):
        if edge.relation == SAME_AS:
            first, later = sorted((root(entities[edge.subject]), root(entities[edge.object])), key=order.__getitem__)
            above[later] = first
    return {name: root(name) for name in above}


def around(
    query: str, entries: Sequence[MemoryEntry], ranking: Sequence[int], seeds: int
) -> tuple[list[int], list[int]]:
    """Return what a query is about, and what is one hop away from that.

    It is about the entries on the entities that it names, those on the rarest first, or if it names none, about the
    `seeds` best ranked ones. One hop away are the entries that share an entity with these, links resolved. A summary
    has the entities of what it is over.

    Args:
        query: A question, or a turn.
        entries: The bank.
        ranking: Places in `entries`, best first; it decides where nothing above does.
        seeds: Number of the best ranked entries to start from.

    Returns:
        Places in `entries`, best first, no place in both.
    """
    entities = _entities(entries)
    stands_for = _merged(entries, entities)
    held = _held(entries, {name: stands_for[known] for name, known in entities.items()})
    words = f" {entity(query)} "
    named = {known for name, known in stands_for.items() if f" {name} " in words}
    if named:
        edges = Counter(name for names in held for name in names)
        about = [place for place in ranking if held[place] & named]
        about.sort(key=lambda place: min(edges[name] for name in held[place] & named))
    else:
        about = list(ranking[:seeds])
    known = {*about}
    near = {name for place in about for name in held[place]}
    return about, [place for place in ranking if place not in known and held[place] & near]


def _held(entries: Sequence[MemoryEntry], stands_for: Mapping[str, str]) -> list[set[str]]:
    """Return each entry's entities, by the names in its edge; a summary comes after what it is over."""
    by_id: dict[int, set[str]] = {}
    for entry in entries:
        names = (entry.edge.subject, entry.edge.object) if entry.edge else ()
        by_id[entry.entry_id] = {stands_for[name] for name in names}.union(
            *(by_id.get(below, ()) for below in entry.over)
        )
    return [by_id[entry.entry_id] for entry in entries]


@dataclass(frozen=True, slots=True)
class Version:
    """What an entry said from the turn at `since` until the one at `until` (ISO 8601).

    Either is empty if that turn has no time; `until` is empty too as long as it holds.
    """

    text: str
    edge: Edge | None
    since: str
    until: str = ""


def versions(history: Sequence[tuple[Record, Event]]) -> list[Version]:
    """Return all versions of an entry, oldest first, from its history in a log; undone changes count as not made."""
    undone: set[int] = set()
    for _, event in history:
        if event.kind in MARKERS:
            (undone.add if event.kind == UNDO else undone.discard)(event.payload["target"])
    found: list[Version] = []
    for record, event in history:
        if event.kind in MARKERS or event.number in undone or record.turn is None:
            continue
        now = record.turn.timestamp
        if found and not found[-1].until:
            found[-1] = replace(found[-1], until=now)
        if "text" in event.payload:
            edge = event.payload.get("edge")
            found.append(Version(event.payload["text"], Edge(**edge) if edge else None, now))
    return found
