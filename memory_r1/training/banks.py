"""Banks along dialogues as a given Memory Manager writes them: what RL trains on where no gold operations exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.progress import track

from memory_r1.agents.memory_manager import ManageRequest, MemoryManager
from memory_r1.memory.bank import MemoryBank
from memory_r1.types import Dialogue, MemoryEntry, Turn

Entries = tuple[MemoryEntry, ...]
Script = list[tuple[Turn, tuple[Turn, ...]]]


@dataclass
class PlayedBanks:
    """The bank before each turn (by turn id) and after the last."""

    before: dict[str, Entries] = field(default_factory=dict)
    final: Entries = ()


@dataclass
class Game:
    """A bank and what is to be played on it: turns, each with the up to two turns before it in its session."""

    script: Script
    speakers: tuple[str, ...]
    bank: MemoryBank = field(default_factory=MemoryBank)


def play_banks(dialogues: Sequence[Dialogue], manager: MemoryManager, *, progress: bool = True) -> list[PlayedBanks]:
    """Play every turn of every dialogue from an empty bank."""
    return play([Game(script_of(dialogue), dialogue.speakers) for dialogue in dialogues], manager, progress=progress)


def play(games: Sequence[Game], manager: MemoryManager, *, progress: bool = False) -> list[PlayedBanks]:
    """Play every game's turns, greedily; the games advance together, so that one batch serves them all.

    The games' own banks stay as they are. An unreadable completion changes nothing.
    """
    played = [PlayedBanks() for _ in games]
    banks = [game.bank.view() for game in games]
    rounds = range(max((len(game.script) for game in games), default=0))
    for step in track(rounds, description="playing the manager", disable=not progress):
        rows = [row for row, game in enumerate(games) if step < len(game.script)]
        requests = []
        for row in rows:
            turn, previous = games[row].script[step]
            played[row].before[turn.turn_id] = banks[row].entries()
            requests.append(ManageRequest(turn, previous, banks[row], games[row].speakers))
        for row, request, management in zip(rows, requests, manager.manage(requests), strict=True):
            banks[row].apply(management.checked.accepted, request.turn)
    for row, bank in enumerate(banks):
        played[row].final = bank.entries()
    return played


def script_of(dialogue: Dialogue) -> Script:
    """Every turn with the up to two turns before it in its session."""
    previous = dialogue.previous_turns()
    return [(turn, previous[turn.turn_id]) for turn in dialogue.turns()]
