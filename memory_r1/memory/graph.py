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


def merged(entries: Iterable[MemoryEntry]) -> dict[str, str]:
    """Map every entity to the one that stands for it: of those that links make one, the one named first."""
    stands_for: dict[str, str] = {}
    for edge in (entry.edge for entry in entries if entry.edge is not None):
        one, other = entity(edge.subject), entity(edge.object)
        for name in (one, other):
            stands_for.setdefault(name, name)
        if edge.relation == SAME_AS:
            both = {stands_for[one], stands_for[other]}
            first = next(name for name in stands_for if name in both)
            stands_for = {name: first if known in both else known for name, known in stands_for.items()}
    return stands_for


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
    stands_for = merged(entries)
    held = _held(entries, stands_for)
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
    """Return each entry's entities; a summary comes after what it is over."""
    by_id: dict[int, set[str]] = {}
    for entry in entries:
        names = (entry.edge.subject, entry.edge.object) if entry.edge else ()
        by_id[entry.entry_id] = {stands_for[entity(name)] for name in names}.union(
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
