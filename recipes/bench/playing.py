"""One memory system in a process of its own: it hears turns, answers questions, and reports as it goes."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from memory_r1.entry import keep_freed_memory
from memory_r1.systems.banked import BankedSystem
from memory_r1.systems.base import MemorySystem
from memory_r1.types import Turn
from recipes.bench.measuring import OUT_OF_MEMORY, resident_peak, restart_peak
from recipes.bench.scripted import (
    SESSION_TURNS,
    SPEAKERS,
    AddingModel,
    HashedEmbedder,
    HashedWeaver,
    questions,
    turns,
)

RECALLS = 30
AFTER_A_TURN = 5
"""Recalls that are timed right after one more turn."""
RECALL_PER_SPEAKER = 30
SCOPE = "user"
_WARM_UP = 2 * SESSION_TURNS
_REPORT_SECONDS = 0.1


def serve(connection: Connection, name: str, size: int, path: Path) -> None:
    """Play `size` turns into an empty system, whose store is `path`, and send dictionaries of what is known so far.

    The first one has `empty`, the bytes that the process has resident before (None if the system cannot tell). Others
    have `played` and `seconds`, turns so far and how long they took, or parts of a row. The last one has `done`, or
    `stopped`.
    """
    keep_freed_memory()  # as in every command of this project
    try:
        for message in _measured(name, size, path):
            connection.send(message)
    except MemoryError:
        connection.send({"stopped": OUT_OF_MEMORY})


def _measured(name: str, size: int, path: Path) -> Iterator[dict[str, Any]]:
    _warm_up(name)
    gc.collect()
    can_tell = restart_peak()
    system, heard = new_system(name), turns()
    system.load(path, create=True)
    system.begin(SCOPE, SPEAKERS)
    empty = resident_peak() if can_tell else None
    yield {"empty": empty}

    started = reported = time.perf_counter()
    now = ""
    for number, turn in enumerate(itertools.islice(heard, size), start=1):
        now = _hear(system, number, turn)
        if (clock := time.perf_counter()) - reported > _REPORT_SECONDS:
            reported = clock
            yield {"played": number, "seconds": clock - started}
    written = time.perf_counter() - started
    yield {"played": size, "seconds": written, "write_seconds": written}

    asked = questions(RECALLS + AFTER_A_TURN + 1, size)
    first = _recall_seconds(system, asked[-1], now)
    yield {"first_recall_seconds": first}
    seconds = sorted(_recall_seconds(system, question, now) for question in asked[:RECALLS])
    yield {"recall_p50": statistics.median(seconds), "recall_p95": seconds[int(0.95 * (len(seconds) - 1) + 0.5)]}
    yield {"entries": len(system.entries(SCOPE))}

    fresh = []
    for number, turn in enumerate(itertools.islice(heard, AFTER_A_TURN), start=1):
        now = _hear(system, size + number, turn)
        fresh.append(_recall_seconds(system, asked[RECALLS + number - 1], now))
    peak = resident_peak()
    above = None if empty is None or peak is None else max(0, peak - empty)
    yield {"recall_after_turn": statistics.median(fresh), "peak_bytes": above}
    system.log.close()  # which empties the write-ahead log
    yield {"log_bytes": path.stat().st_size, "done": True}


def _warm_up(name: str) -> None:
    """Play a little, so that what the libraries take is not counted."""
    system = new_system(name)
    for number, turn in enumerate(itertools.islice(turns(seed=1), _WARM_UP), start=1):
        now = _hear(system, number, turn)
    _recall_seconds(system, questions(1, _WARM_UP)[0], now)


def new_system(name: str) -> BankedSystem:
    """Return a system that rules and stand-ins write, by its name in `SYSTEMS`."""
    from memory_r1.agents.memory_manager import MemoryManager
    from memory_r1.memory.forms import FORMS
    from memory_r1.memory.retriever import Retriever
    from memory_r1.systems.table import build_system, system_spec

    retriever = Retriever(HashedEmbedder())
    form = FORMS[system_spec(name).operations]
    system = build_system(
        name,
        retriever=retriever,
        manager=MemoryManager(AddingModel(form), retriever, form=form) if system_spec(name).needs_manager else None,
        weaver=HashedWeaver(),
        recall_per_speaker=RECALL_PER_SPEAKER,
    )
    assert isinstance(system, BankedSystem), "each of the table is"
    return system


def _hear(system: MemorySystem, number: int, turn: Turn) -> str:
    """Play turn `number`, counted from 1, and the end of its session; return its time."""
    system.observe(turn, SCOPE)
    if number % SESSION_TURNS == 0:
        system.end_session(SCOPE, turn.timestamp)
    return turn.timestamp


def _recall_seconds(system: MemorySystem, question: str, now: str) -> float:
    started = time.perf_counter()
    system.recall(question, SCOPE, now)
    return time.perf_counter() - started


def rate(reports: Sequence[tuple[int, float]], stopped_at: float) -> float | None:
    """Return the turns per second in the last tenth of the time before a stop, from reports of turns and seconds.

    None if nothing was reported.
    """
    if not reports:
        return None
    earlier = [report for report in [(0, 0.0), *reports] if report[1] <= 0.9 * stopped_at]
    turns_before, seconds_before = earlier[-1]
    return (reports[-1][0] - turns_before) / (stopped_at - seconds_before)
