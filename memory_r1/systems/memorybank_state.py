"""What MemoryBank remembers of a scope: entries that fade, with strengths, and the texts derived from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Self

from immutables import Map

from memory_r1.memory.record import RECALLED, SESSION_END, Record
from memory_r1.systems.embedded import EmbeddedState
from memory_r1.types import MemoryEntry


def retention(days: float, strength: float) -> float:
    """Return R = exp(-t / S), the share retained after t `days` at `strength` S (Ebbinghaus)."""
    return math.exp(-days / strength)


def days_between(first: str, second: str) -> int:
    """Return the days from one ISO 8601 date or time to another, at least 0; 0 if one is missing."""
    if not first or not second:
        return 0
    return max(0, (date.fromisoformat(second[:10]) - date.fromisoformat(first[:10])).days)


@dataclass(frozen=True)
class MemoryBankState(EmbeddedState):
    """A bank whose entries have strengths.

    Attributes:
        strength: By entry id: 1 plus the number of recalls; missing without a recall.
        last: By entry id: the day on which it was last recalled or written.
        summaries: The summary entry of each day.
        portraits: The portrait entry of each speaker.
        indexed: The highest entry id when the last session ended: what later turns can recall.
    """

    strength: Map[int, int] = field(default_factory=Map)
    last: Map[int, str] = field(default_factory=Map)
    summaries: Map[str, int] = field(default_factory=Map)
    portraits: Map[str, int] = field(default_factory=Map)
    indexed: int = 0

    def after(self, record: Record) -> Self:
        state = super().after(record)
        strength, last, summaries, portraits = state.strength, state.last, state.summaries, state.portraits
        for event in record.events:
            version = event.payload
            if event.kind == RECALLED:
                for item in version["items"]:
                    strength = strength.set(item, strength.get(item, 1) + 1)
                    last = last.set(item, version["on"] or last.get(item, ""))
            elif event.item is not None and "text" in version:
                last = last.set(event.item, version["timestamp"][:10])
                if "day" in version:
                    summaries = summaries.set(version["day"], event.item)
                elif "portrait" in version:
                    portraits = portraits.set(version["portrait"], event.item)
        over = any(event.kind == SESSION_END for event in record.events)
        indexed = state.bank.highest_id if over else state.indexed
        return replace(state, strength=strength, last=last, summaries=summaries, portraits=portraits, indexed=indexed)

    def retention(self, entry_id: int, today: str) -> float:
        """Return the retention of an entry on a day or at a time (ISO 8601); 1 if a date is missing."""
        return retention(days_between(self.last.get(entry_id, ""), today), self.strength.get(entry_id, 1))

    def turns(self) -> list[MemoryEntry]:
        """Return the entries that are turns."""
        derived = {*self.summaries.values(), *self.portraits.values()}
        return [entry for entry in self.bank.entries() if entry.entry_id not in derived]

    def fading(self) -> list[int]:
        """Return the ids of the turns and summaries, which are searched and fade; portraits do neither."""
        lasting = set(self.portraits.values())
        return [entry.entry_id for entry in self.bank.entries() if entry.entry_id not in lasting]
