"""The live memory entries of one scope, in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from immutables import Map

from memory_r1.errors import DataError, StoreError
from memory_r1.memory.record import Event
from memory_r1.types import ADDING, Edge, MemoryEntry, Operation, OperationKind, Turn

_OF_GRAPHS = ("edge", "over")
_MORE = "adds_sources"
"""Marks a version whose `turn_ids` are only those that the version before it lacks."""


class MemoryBank:
    """Live entries in the order of their ids, which is the order of first insertion.

    A persistent map holds them: a view is free, the cost of a write does not depend on the bank's size, and banks never
    see each other's writes.
    """

    def __init__(self, entries: Iterable[MemoryEntry] = (), *, highest_id: int = 0) -> None:
        """Pass `highest_id`, the highest id ever used, if its entry may be gone: ids are never reused."""
        listed = tuple(entries)
        self._entries: Map[int, MemoryEntry] = Map((entry.entry_id, entry) for entry in listed)
        if len(self._entries) != len(listed):
            raise StoreError(
                f"{len(listed)} entries have only {len(self._entries)} different ids; give each its own id"
            )
        self._highest_id = max(highest_id, *self._entries, 0)
        self._listed: tuple[MemoryEntry, ...] | None = None

    def entries(self) -> tuple[MemoryEntry, ...]:
        if self._listed is None:
            self._listed = tuple(self._entries[entry_id] for entry_id in sorted(self._entries))
        return self._listed

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry_id: object) -> bool:
        return entry_id in self._entries

    @property
    def highest_id(self) -> int:
        """The highest id ever used; 0 for a bank that never held an entry."""
        return self._highest_id

    def find(self, entry_id: int) -> MemoryEntry | None:
        """Return the live entry with this id, or None."""
        return self._entries.get(entry_id)

    def get(self, entry_id: int) -> MemoryEntry:
        """Return the live entry with this id; raise a StoreError if there is none."""
        if entry_id not in self._entries:
            raise StoreError(f"no live entry has id {entry_id}; the bank holds {len(self._entries)} entries")
        return self._entries[entry_id]

    def view(self) -> MemoryBank:
        """Return a bank that starts from this one's entries; neither sees writes to the other."""
        child = MemoryBank()
        child._entries, child._highest_id, child._listed = self._entries, self._highest_id, self._listed
        return child

    def apply(self, operations: Iterable[Operation], turn: Turn) -> tuple[MemoryEntry, ...]:
        """Apply operations (with bank ids) in order: all of them, or none if one is invalid.

        Returns:
            The added and updated entries that are live afterwards.

        Raises:
            StoreError: An operation names an id that is not live, or lacks its text.
        """
        trial = self.view()
        touched: dict[int, None] = {}
        for operation in operations:
            event = trial.event(operation, turn)
            trial.play(event)
            if event.item is not None:
                touched[event.item] = None
        self._entries, self._highest_id, self._listed = trial._entries, trial._highest_id, trial._listed
        return tuple(self._entries[entry_id] for entry_id in touched if entry_id in self._entries)

    def event(self, operation: Operation, turn: Turn) -> Event:
        """Return the log event of an operation (with bank ids) on this bank, without applying it.

        Raises:
            StoreError: The operation names an id that is not live, or lacks its text.
        """
        kind = operation.kind.value
        if operation.kind is OperationKind.NOOP:
            return Event(kind)
        if operation.kind in ADDING:
            below = dict.fromkeys(source for over in operation.over for source in self.get(over).source_turn_ids)
            return Event(kind, self._highest_id + 1, _version(operation, turn, tuple(below) or (turn.turn_id,)))
        if operation.entry_id is None:
            raise StoreError(f"{operation.kind} names no entry; give it the id of a live one")
        old = self.get(operation.entry_id)
        if operation.kind is OperationKind.DELETE:
            return Event(kind, old.entry_id)
        sources = dict.fromkeys((*old.source_turn_ids, turn.turn_id))
        return Event(kind, old.entry_id, _version(operation, turn, tuple(sources)))

    def shortened(self, event: Event) -> Event:
        """Return an event on this bank that names only the sources which are new to its entry, if it keeps the others.

        A text that is rewritten again and again would otherwise repeat all of its sources each time.
        """
        held = self._entries.get(event.item or 0)
        turn_ids = event.payload.get("turn_ids")
        if held is None or turn_ids is None or tuple(turn_ids[: len(held.source_turn_ids)]) != held.source_turn_ids:
            return event
        return replace(event, payload={**event.payload, "turn_ids": turn_ids[len(held.source_turn_ids) :], _MORE: True})

    def play(self, event: Event) -> None:
        """Apply an event. An unknown kind changes nothing, but its id counts as used."""
        if event.item is None:
            return
        self._listed = None
        self._highest_id = max(self._highest_id, event.item)
        if event.kind in (*ADDING, OperationKind.UPDATE):
            version, edge = event.payload, event.payload.get("edge")
            held = self._entries.get(event.item)  # None if what added it is undone, or substituted in training
            earlier = held.source_turn_ids if held and _MORE in version else ()
            entry = MemoryEntry(
                event.item,
                version["text"],
                version["speaker"],
                version["timestamp"],
                (*earlier, *version["turn_ids"]),
                Edge(**edge) if edge else None,
                tuple(version.get("over", ())),
            )
            self._entries = self._entries.set(event.item, entry)
        elif event.kind == OperationKind.DELETE and event.item in self._entries:
            self._entries = self._entries.delete(event.item)


def entries_to_json(entries: Iterable[MemoryEntry]) -> str:
    """Render entries as one JSON array, for the bank columns of a training dataset."""
    return json.dumps([_fields(entry) for entry in entries], ensure_ascii=False)


def entries_from_json(text: str) -> tuple[MemoryEntry, ...]:
    """Read the entries that `entries_to_json` wrote.

    Raises:
        DataError: The text is not such an array.
    """
    try:
        return tuple(_entry(fields) for fields in json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"memory entries cannot be read ({error}); expected a JSON array from entries_to_json"
        ) from error


def _fields(entry: MemoryEntry) -> dict[str, Any]:
    """Return an entry as JSON values; what only graphs have is left out where it is empty."""
    return {name: value for name, value in asdict(entry).items() if name not in _OF_GRAPHS or value}


def _entry(record: object) -> MemoryEntry:
    if not isinstance(record, dict):
        raise ValueError(f"an entry is of type {type(record).__name__}, not an object")
    fields = dict(record)
    entry_id, sources = fields.pop("entry_id", None), fields.pop("source_turn_ids", None)
    if type(entry_id) is not int:
        raise ValueError(f"entry_id is {entry_id!r}, not an integer")
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise ValueError(f"source_turn_ids of entry {entry_id} is not an array of strings")
    edge, over = fields.pop("edge", None), fields.pop("over", [])
    if edge is not None and not (isinstance(edge, dict) and all(isinstance(value, str) for value in edge.values())):
        raise ValueError(f"edge of entry {entry_id} is not an object of strings")
    if not isinstance(over, list) or not all(type(below) is int for below in over):
        raise ValueError(f"over of entry {entry_id} is not an array of integers")
    if fields.keys() != {"text", "speaker", "timestamp"}:
        raise ValueError(f"entry {entry_id} has the fields {sorted(fields)} besides its id and sources")
    if not all(isinstance(value, str) for value in fields.values()):
        raise ValueError(f"a field of entry {entry_id} is not a string")
    return MemoryEntry(
        entry_id, **fields, source_turn_ids=tuple(sources), edge=Edge(**edge) if edge else None, over=tuple(over)
    )


def _version(operation: Operation, turn: Turn, turn_ids: tuple[str, ...]) -> dict[str, Any]:
    version: dict[str, Any] = {"text": _text(operation), "speaker": turn.speaker, "timestamp": turn.timestamp}
    version["turn_ids"] = list(turn_ids)
    if operation.edge is not None:
        version["edge"] = asdict(operation.edge)
    if operation.over:
        version["over"] = list(operation.over)
    return version


def _text(operation: Operation) -> str:
    if not operation.text or not operation.text.strip():
        raise StoreError(f"{operation.kind} needs a text, found {operation.text!r}")
    return operation.text
