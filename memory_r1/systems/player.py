"""Play dialogues into a memory system, for training and evaluation alike.

All dialogues advance together in batches: turn i of each, then turn i + 1. A dialogue continues after the turns that
the system's log already holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from rich.progress import Progress

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.errors import DataError
from memory_r1.memory.log import Log
from memory_r1.memory.record import Record
from memory_r1.systems.base import MemorySystem
from memory_r1.systems.manager import ManagedMemory
from memory_r1.systems.state import ScopeState
from memory_r1.types import Dialogue, MemoryEntry, Turn

Entries = tuple[MemoryEntry, ...]


@dataclass(frozen=True, slots=True)
class Episode:
    """Turns to play in a scope; `session_ends` maps the index of a session's last turn to the session's time."""

    scope: str
    speakers: tuple[str, ...]
    turns: tuple[Turn, ...]
    session_ends: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, dialogue: Dialogue) -> Episode:
        """Return a whole dialogue, with its id as the scope."""
        ends = accumulate(len(session.turns) for session in dialogue.sessions)
        closed = {end - 1: of.timestamp for end, of in zip(ends, dialogue.sessions, strict=True) if of.turns}
        return cls(dialogue.dialogue_id, dialogue.speakers, dialogue.turns(), closed)


def play(
    system: MemorySystem,
    episodes: Sequence[Episode],
    *,
    batch_size: int | None = None,
    advance: Callable[[int], object] = lambda turns: None,
) -> None:
    """Play every episode to its end.

    Args:
        system: The system; a scope that holds an episode's first turns continues after them.
        episodes: One per scope.
        batch_size: Number of episodes that advance together; None for all.
        advance: Called with the number of turns done: first those already held, then after each batch.

    Raises:
        DataError: A scope holds turns other than the episode's first ones.
    """
    done = [_resume(system, episode) for episode in episodes]
    advance(sum(done))
    for place in range(max((len(episode.turns) for episode in episodes), default=0)):
        wave = [episode for episode, held in zip(episodes, done, strict=True) if held <= place < len(episode.turns)]
        size = batch_size or max(1, len(wave))
        for first in range(0, len(wave), size):
            together = wave[first : first + size]
            system.observe_many([(episode.turns[place], episode.scope) for episode in together])
            for episode in together:
                _end_session(system, episode, place)
            advance(len(together))


def play_manager(dialogues: Sequence[Dialogue], manager: MemoryManager, *, progress: bool = False) -> Log[ScopeState]:
    """Play whole dialogues with a manager, from empty banks and in memory; return the log, one scope per dialogue."""
    system = ManagedMemory(manager, manager.retriever, recall_per_speaker=manager.recall_per_speaker)
    episodes = [Episode.of(dialogue) for dialogue in dialogues]
    with Progress(*Progress.get_default_columns(), disable=not progress) as bars:
        task = bars.add_task("playing the manager", total=sum(len(episode.turns) for episode in episodes))
        play(system, episodes, advance=lambda turns: bars.advance(task, turns))
    return system.log


def turns_of(records: Sequence[Record]) -> list[str]:
    """Return the turn ids of the records, in order."""
    return [record.turn.turn_id for record in records if record.turn is not None]


def banks_along(records: Sequence[Record]) -> tuple[dict[str, Entries], Entries]:
    """Return the entries before each turn (by turn id) and after the last, from a bank-backed system's log."""
    state = ScopeState()
    before: dict[str, Entries] = {}
    for record in records:
        if record.turn is not None:
            before[record.turn.turn_id] = state.bank.entries()
        state = state.after(record)
    return before, state.bank.entries()


def _resume(system: MemorySystem, episode: Episode) -> int:
    """Announce the speakers, and return how many of the episode's turns the system holds already."""
    held = turns_of(system.records(episode.scope))
    if held != [turn.turn_id for turn in episode.turns[: len(held)]]:
        raise DataError(
            f"memory of {episode.scope!r} does not follow the order of its turns: it holds {held[-1]!r} as turn "
            f"{len(held)}; start from an empty memory"
        )
    system.begin(episode.scope, episode.speakers)
    _end_session(system, episode, len(held) - 1)  # in case a kill came just before the session's end
    return len(held)


def _end_session(system: MemorySystem, episode: Episode, place: int) -> None:
    if place in episode.session_ends:
        system.end_session(episode.scope, episode.session_ends[place])
