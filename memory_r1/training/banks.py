"""Banks along dialogues as a given Memory Manager writes them: what RL trains on where no gold operations exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.progress import track

from memory_r1.agents.memory_manager import ManageRequest, MemoryManager
from memory_r1.memory.bank import MemoryBank
from memory_r1.types import Dialogue, MemoryEntry, Turn

Entries = tuple[MemoryEntry, ...]


@dataclass
class PlayedBanks:
    """The bank before each turn (by turn id) and after the last."""

    before: dict[str, Entries] = field(default_factory=dict)
    final: Entries = ()


def play_banks(dialogues: Sequence[Dialogue], manager: MemoryManager, *, progress: bool = True) -> list[PlayedBanks]:
    """Play every turn of every dialogue; the dialogues advance together, so that one batch serves them all."""
    played = [PlayedBanks() for _ in dialogues]
    banks = [MemoryBank() for _ in dialogues]
    scripts = [_with_previous(dialogue) for dialogue in dialogues]
    rounds = range(max((len(script) for script in scripts), default=0))
    for step in track(rounds, description="playing the manager", disable=not progress):
        rows = [row for row, script in enumerate(scripts) if step < len(script)]
        requests = []
        for row in rows:
            turn, previous = scripts[row][step]
            played[row].before[turn.turn_id] = banks[row].entries()
            requests.append(ManageRequest(turn, previous, banks[row], dialogues[row].speakers))
        for row, request, management in zip(rows, requests, manager.manage(requests), strict=True):
            banks[row].apply(management.checked.accepted, request.turn)
    for row, bank in enumerate(banks):
        played[row].final = bank.entries()
    return played


def _with_previous(dialogue: Dialogue) -> list[tuple[Turn, tuple[Turn, ...]]]:
    """Every turn with the up to two turns before it in its session."""
    return [
        (turn, session.turns[max(0, index - 2) : index])
        for session in dialogue.sessions
        for index, turn in enumerate(session.turns)
    ]
