"""The state of one scope in a bank-backed system: the fold of its log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.record import FORGET, SESSION_END, SPEAKERS, Record
from memory_r1.types import PREVIOUS_TURNS, Turn


@dataclass(frozen=True, slots=True)
class ScopeState:
    """The live entries, the speakers, and the last turns of the current session.

    Attributes:
        bank: The entries; to write, take a view, since a state never changes.
        speakers: Announced or heard, in that order.
        recent: The last turns of the current session, oldest first.
        ended: Whether no turn followed the end of the last session.
        began: Time of the first record, which a scope forgotten as a whole gets anew.
        forgotten: Number of events that `forget` has erased.
    """

    bank: MemoryBank = field(default_factory=MemoryBank)
    speakers: tuple[str, ...] = ()
    recent: tuple[Turn, ...] = ()
    ended: bool = True
    began: str = ""
    forgotten: int = 0

    def previous(self, turn: Turn) -> tuple[Turn, ...]:
        """Return the last turns before `turn` in its session, oldest first."""
        return tuple(before for before in self.recent if before.session_id == turn.session_id)

    def erased_since(self, read: ScopeState) -> bool:
        """Return whether `forget` has erased anything since `read`, an earlier state of the scope, was the latest."""
        return self.forgotten > read.forgotten or (read.began != "" and read.began != self.began)

    def holds(self, item: int) -> bool:
        return item in self.bank

    def after(self, record: Record) -> Self:
        bank, speakers, recent, ended = self.bank, self.speakers, self.recent, self.ended
        if any(event.item is not None for event in record.events):
            bank = bank.view()
        for event in record.events:
            bank.play(event)
            if event.kind == SPEAKERS:
                speakers = _joined(speakers, event.payload["names"])
            elif event.kind == SESSION_END:
                recent, ended = (), True
        if (turn := record.turn) is not None:
            speakers, ended = _joined(speakers, [turn.speaker]), False
            if turn.text or not any(event.kind == FORGET for event in record.events):  # otherwise its text was erased
                recent = (*self.previous(turn), turn)[-PREVIOUS_TURNS:]
        began = self.began or record.written_at
        forgotten = self.forgotten + sum(event.kind == FORGET for event in record.events)
        return replace(self, bank=bank, speakers=speakers, recent=recent, ended=ended, began=began, forgotten=forgotten)


def _joined(names: tuple[str, ...], more: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*names, *more]))  # type: ignore[misc]
