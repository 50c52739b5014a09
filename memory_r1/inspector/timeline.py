"""One scope's log laid out in time: the bank after every record, and every version of every entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_r1.errors import StoreError
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.record import FORGET, MARKERS, NO_EDITS, UNDO, Event, Record
from memory_r1.types import MemoryEntry


@dataclass(frozen=True, slots=True)
class Change:
    """What a record did to an entry: `before` is None if it was not live before, `after` if it is not live after."""

    before: MemoryEntry | None
    after: MemoryEntry | None


@dataclass(frozen=True, slots=True)
class Version:
    """An event of an entry, the number of its record, and whether it is undone now."""

    record: int
    event: Event
    undone: bool


class Timeline:
    """The records of a scope, numbered from 1; number 0 is the time before the first.

    All banks are kept: they share their entries, so 10,000 of them cost little more than the last.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = tuple(records)
        self._banks = [MemoryBank()]
        self._undone: set[int] = set()
        self._events: dict[int, list[tuple[int, Event]]] = {}  # by item
        written: dict[int, int] = {}  # by event number: the event's record
        for number, record in enumerate(self.records, start=1):
            first = number
            for event in record.events:
                if event.kind in MARKERS:
                    target = event.payload["target"]
                    (self._undone.add if event.kind == UNDO else self._undone.discard)(target)
                    first = min(first, written.get(target, number))
                else:
                    written[event.number] = number
                if event.item is not None:
                    self._events.setdefault(event.item, []).append((number, event))
            # Edits are undone newest first, so the bank before the oldest record touched here is as it was then.
            bank = self._banks[first - 1]
            for past in self.records[first - 1 : number]:
                bank = self._after(bank, past)
            self._banks.append(bank)

    def __len__(self) -> int:
        return len(self.records)

    def entries(self, at: int) -> tuple[MemoryEntry, ...]:
        """Return the live entries after record `at`."""
        return self._bank(at).view().entries()  # the view takes the listing along when it goes

    def size(self, at: int) -> int:
        """Return the number of live entries after record `at`."""
        return len(self._bank(at))

    def changes(self, at: int) -> list[Change]:
        """Return what record `at` did to the live entries, in the order of its events."""
        if at == 0:
            return []
        before, after = self._bank(at - 1), self._bank(at)
        items = dict.fromkeys(event.item for event in self.records[at - 1].events if event.item is not None)
        found = [Change(before.find(item), after.find(item)) for item in items]
        return [change for change in found if change.before != change.after]

    def versions(self, item: int) -> list[Version]:
        """Return all events of an entry, oldest first.

        Raises:
            StoreError: The scope never held the entry.
        """
        if item not in self._events:
            raise StoreError(f"this scope never held the entry {item}; open one from the page")
        return [Version(number, event, event.number in self._undone) for number, event in self._events[item]]

    def last_edit(self) -> tuple[int, Event] | None:
        """Return the edit that `undo` would take back, with its record's number; None if no edit stands."""
        for number in range(len(self.records), 0, -1):
            for event in reversed(self.records[number - 1].events):
                if event.kind not in NO_EDITS and event.kind != FORGET and event.number not in self._undone:
                    return number, event
        return None

    def _bank(self, at: int) -> MemoryBank:
        if not 0 <= at <= len(self.records):
            raise StoreError(f"this scope has no record {at}; allowed are 0 to {len(self.records)}")
        return self._banks[at]

    def _after(self, bank: MemoryBank, record: Record) -> MemoryBank:
        standing = [event for event in record.events if event.item is not None and event.number not in self._undone]
        if not standing:
            return bank
        bank = bank.view()
        for event in standing:
            bank.play(event)
        return bank
