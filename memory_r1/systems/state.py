"""What a bank-backed system holds for one scope, and the file it is saved to."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memory_r1.memory.bank import MemoryBank, entries_from_json, entries_to_json
from memory_r1.systems.base import OperationRecord
from memory_r1.systems.log import record_from_json, record_to_json, turn_from_json
from memory_r1.types import PREVIOUS_TURNS, Turn


@dataclass(slots=True)
class ScopeState:
    """One scope's memory: the live entries, who speaks, the running session's last turns, and the operation log."""

    bank: MemoryBank = field(default_factory=MemoryBank)
    speakers: list[str] = field(default_factory=list)
    recent: list[Turn] = field(default_factory=list)
    log: list[OperationRecord] = field(default_factory=list)

    def previous(self, turn: Turn) -> tuple[Turn, ...]:
        """Return the last turns before `turn` in its session, oldest first."""
        return tuple(before for before in self.recent if before.session_id == turn.session_id)

    def note(self, turn: Turn) -> None:
        """Remember that `turn` was the last one spoken, and by whom."""
        if turn.speaker not in self.speakers:
            self.speakers.append(turn.speaker)
        self.recent = [*self.previous(turn), turn][-PREVIOUS_TURNS:]


def state_to_json(state: ScopeState) -> dict[str, Any]:
    return {
        "speakers": state.speakers,
        "recent": [asdict(turn) for turn in state.recent],
        "highest_id": state.bank.highest_id,
        "entries": json.loads(entries_to_json(state.bank.entries())),
        "operations": [record_to_json(record) for record in state.log],
    }


def state_from_json(fields: dict[str, Any]) -> ScopeState:
    return ScopeState(
        bank=MemoryBank(
            entries_from_json(json.dumps(fields["entries"])),
            highest_id=int(fields["highest_id"]),
        ),
        speakers=[str(speaker) for speaker in fields["speakers"]],
        recent=[turn_from_json(row) for row in fields["recent"]],
        log=[record_from_json(row) for row in fields["operations"]],
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, meets either the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
