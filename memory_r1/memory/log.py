"""The log: the only source of truth about memory.

Its unit is the turn. One `Record` holds the turn, the model's completion and its cost, the refusals with their reasons,
and the resulting `Event`s. Memory is a fold over the records (`Folding.after`). States are cheap to keep and to fork,
so a rollout starts from one and needs no file.

`memory/list_log.py` keeps records in memory, `memory/sqlite_log.py` in a SQLite file.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic, Protocol, Self, TypeVar

from memory_r1.errors import ScopeError, StoreError
from memory_r1.memory.record import (
    FORGET,
    MARKERS,
    NO_EDITS,
    REDO,
    UNDO,
    Event,
    Record,
    standing_part,
    without_items,
)

Vectors = dict[bytes, bytes]
"""Maps the SHA-256 of a text to its embedding, as float32 bytes."""


class Folding(Protocol):
    """An immutable state of memory that can compute the state after one more record."""

    def after(self, record: Record) -> Self:
        """Return the state after `record`; events of an unknown kind change nothing.

        An undone event arrives as `UNDO` and a forgotten one as `FORGET`, so that its id stays taken.
        """
        ...

    def holds(self, item: int) -> bool:
        """Return whether `item` is remembered now."""
        ...


S = TypeVar("S", bound=Folding)
Decide = Callable[[S], Record]
"""Turns the current state into the record to write. It runs inside the transaction, so it calls no model."""


@dataclass
class _Folded(Generic[S]):
    """A scope's state after its first `records` records.

    `done` and `undone` are the stacks that undo and redo pop: (event number, item).
    """

    start: S
    state: S
    records: int = 0
    events: int = 0
    done: list[tuple[int, int | None]] = field(default_factory=list)
    undone: list[tuple[int, int | None]] = field(default_factory=list)

    def play(self, records: Sequence[Record], everything: Callable[[], Sequence[Record]]) -> None:
        """Fold in `records`; if one undoes or redoes something, fold `everything` again."""
        for record in records:
            for event in record.events:
                self._note(event)
        self.records += len(records)
        if any(event.kind in MARKERS for record in records for event in record.events):
            standing = {number for number, _ in self.done}
            self.state = self.start
            records = [standing_part(record, standing) for record in everything()[: self.records]]
        for record in records:
            self.state = self.state.after(record)

    def _note(self, event: Event) -> None:
        self.events = max(self.events, event.number)
        if event.kind in MARKERS:
            source, target = (self.done, self.undone) if event.kind == UNDO else (self.undone, self.done)
            if not source or source[-1][0] != event.payload.get("target"):
                raise StoreError(
                    f"event {event.number} is a {event.kind} of event {event.payload.get('target')}, which was not "
                    "next in line; another program changed the log, restore it from a copy"
                )
            target.append(source.pop())
        elif event.kind == FORGET:
            self.undone.clear()
        elif event.kind not in NO_EDITS:
            self.undone.clear()
            self.done.append((event.number, event.item))


class Log(ABC, Generic[S]):
    """Records of many scopes (users or dialogues), isolated from each other.

    A log is thread-safe. Item ids are never reused, not even after `undo` and `forget`.

    Args:
        start: The state before the first record of a scope.
    """

    persistent = False
    """Whether records outlive the process."""

    def __init__(self, start: S) -> None:
        self.start = start
        self._lock = threading.RLock()
        self._folded: dict[str, _Folded[S]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self, scope: str, at: int | None = None) -> S:
        """Return the state of a scope, now or after its first `at` records (0: before the first).

        Raises:
            ScopeError: The scope is empty.
            StoreError: The scope has fewer records.
        """
        check_scope(scope)
        with self._lock, self._reading():
            folded = self._current(scope)
            if at is None:
                return folded.state
            if not 0 <= at <= folded.records:
                raise StoreError(f"scope {scope!r} has no record {at}; allowed are 0 to {folded.records}")
            past = self._unfolded(scope)
            records = self.records(scope)[:at]
            past.play(records, lambda: records)
            return past.state

    def write(self, decisions: Sequence[tuple[str, Decide[S]]]) -> list[Record]:
        """Call each decision with its scope's state and write the records it returns: all, or none if one fails.

        Raises:
            ScopeError: A scope is empty.
            StoreError: A decision refuses the state, or the file cannot be written.
        """
        for scope, _ in decisions:
            check_scope(scope)
        with self._lock, self._writing():
            return [self._add(scope, self._current(scope), decide) for scope, decide in decisions]

    def undo(self, scope: str, count: int = 1) -> int:
        """Undo the latest `count` standing edits, newest first; `redo` restores them.

        Returns:
            The number of edits undone, less than `count` if fewer stand.
        """
        return self._travel(scope, count, UNDO)

    def redo(self, scope: str, count: int = 1) -> int:
        """Restore the latest undone edits, if nothing was written since."""
        return self._travel(scope, count, REDO)

    def history(self, scope: str, item: int) -> list[tuple[Record, Event]]:
        """Return every event of one item with its record, oldest first."""
        return [(record, event) for record in self.records(scope) for event in record.events if event.item == item]

    def forget(
        self,
        scope: str,
        items: Collection[int] | None = None,
        widen: Callable[[Sequence[Record], set[int]], set[int]] = lambda _, items: items,
    ) -> int:
        """Erase all versions of the items, or with None the whole scope, for good; this cannot be undone.

        The text of an item's turns and the model's completions on them go too. Its id stays taken. An erased scope
        leaves nothing behind, not even its name. `widen` adds the items that were written from these ones.

        Returns:
            The number of erased items that were live.

        Raises:
            ScopeError: The scope is empty.
            StoreError: The scope never held one of the items.
        """
        check_scope(scope)
        with self._lock:
            with self._writing():
                state, records = self._current(scope).state, self.records(scope)
                known = {event.item for record in records for event in record.events if event.item is not None}
                wanted = known if items is None else set(items)
                if unknown := sorted(wanted - known):
                    raise StoreError(f"scope {scope!r} never held the entries {unknown}; see entries() for its ids")
                wanted = wanted if items is None else widen(records, wanted)
                redacted = None if items is None else [without_items(record, wanted) for record in records]
                self._erase(scope, redacted, wanted)
                self._folded.pop(scope, None)
            self._scrub()
        return sum(state.holds(item) for item in wanted)

    def extend(self, scope: str, records: Iterable[Record]) -> None:
        """Append another log's records to a scope that is empty here.

        Raises:
            StoreError: The scope holds records already.
        """
        check_scope(scope)
        with self._lock, self._writing():
            if self._current(scope).records:
                raise StoreError(f"scope {scope!r} holds records already; extend one that is empty")
            for number, record in enumerate(records, start=1):
                self._append(scope, number, record)

    @abstractmethod
    def scopes(self) -> tuple[str, ...]:
        """Return the names of all scopes that have records, sorted."""

    @abstractmethod
    def records(self, scope: str, since: int = 0) -> tuple[Record, ...]:
        """Return the records of a scope after its first `since`, oldest first."""

    def vectors(self, scope: str, embedder: str) -> Vectors:
        """Return a scope's embeddings stored by `keep_vectors`; a log in memory stores none."""
        return {}

    def keep_vectors(self, scope: str, embedder: str, vectors: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Store embeddings (item, SHA-256 of the embedded text, float32 bytes), so that none is computed twice.

        Args:
            scope: Scope of the items.
            embedder: Identity of the embedder.
            vectors: One per version of an item.
        """

    def close(self) -> None:
        """Close the file, if there is one."""

    @abstractmethod
    def _append(self, scope: str, number: int, record: Record) -> None:
        """Write record `number` of a scope; call it inside `_writing`."""

    @abstractmethod
    def _erase(self, scope: str, redacted: Sequence[Record] | None, items: Collection[int]) -> None:
        """Replace a scope's records by redacted ones and drop the vectors of `items`; None erases the scope."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[object]:
        """Return a context manager in which all reads see one snapshot of the log."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[object]:
        """Return a context manager for one transaction, which an exception rolls back."""

    def _scrub(self) -> None:
        """Remove every byte of erased records from the file."""

    def _start_of(self, scope: str) -> S:
        """Return the state before the first record of a scope."""
        return self.start

    def _unfolded(self, scope: str) -> _Folded[S]:
        start = self._start_of(scope)
        return _Folded(start, start)

    def _current(self, scope: str) -> _Folded[S]:
        """Return the scope's fold, brought up to date."""
        folded = self._folded.get(scope) or self._unfolded(scope)
        if fresh := self.records(scope, folded.records):
            self._folded.pop(scope, None)  # never continue from a fold that failed halfway
            folded.play(fresh, lambda: self.records(scope))
        self._folded[scope] = folded
        return folded

    def _add(self, scope: str, folded: _Folded[S], decide: Decide[S]) -> Record:
        record = decide(folded.state)
        first = folded.events + 1
        events = tuple(replace(event, number=first + place) for place, event in enumerate(record.events))
        record = replace(record, events=events, written_at=datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._append(scope, folded.records + 1, record)
        folded.play([record], lambda: self.records(scope))
        return record

    def _travel(self, scope: str, count: int, kind: str) -> int:
        check_scope(scope)
        if count < 1:
            raise StoreError(f"count is {count}; give the number of edits, at least 1")
        with self._lock, self._writing():
            folded = self._current(scope)
            standing = folded.done if kind == UNDO else folded.undone
            events = [Event(kind, item, {"target": number}) for number, item in reversed(standing[-count:])]
            if events:
                self._add(scope, folded, lambda _: Record(events=tuple(events)))
        return len(events)


def check_scope(scope: str) -> str:
    """Return `scope`, or raise a ScopeError if it is empty."""
    if not isinstance(scope, str) or not scope.strip():
        raise ScopeError(f"found scope {scope!r}: name the user or dialogue, a non-empty string")
    return scope
