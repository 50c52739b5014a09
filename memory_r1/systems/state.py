"""What a bank-backed system remembers of one scope: the fold of its log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.record import FORGET, SESSION_END, SPEAKERS, Record
from memory_r1.types import PREVIOUS_TURNS, Turn


@dataclass(frozen=True, slots=True)
class ScopeState:
    """The live entries, who speaks, and the running session's last turns.

    Attributes:
        bank: Read it or take a view: a state never changes.
        speakers: Announced or heard, in that order.
        recent: The last turns of the running session, oldest first.
        ended: Nothing was said since the last session ended.
    """

    bank: MemoryBank = field(default_factory=MemoryBank)
    speakers: tuple[str, ...] = ()
    recent: tuple[Turn, ...] = ()
    ended: bool = True

    def previous(self, turn: Turn) -> tuple[Turn, ...]:
        """Return the last turns before `turn` in its session, oldest first."""
        return tuple(before for before in self.recent if before.session_id == turn.session_id)

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
            if turn.text or not any(event.kind == FORGET for event in record.events):  # else its words are erased
                recent = (*self.previous(turn), turn)[-PREVIOUS_TURNS:]
        return replace(self, bank=bank, speakers=speakers, recent=recent, ended=ended)


def _joined(names: tuple[str, ...], more: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*names, *more]))  # type: ignore[misc]
