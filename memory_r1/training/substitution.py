"""Credit at a dialogue's end by substitution: a turn's operations are replaced in the log of the whole dialogue.

A manager (or gold) has played the dialogue once. A completion for one of its turns is credited with what the bank
answers at the end: the bank before the turn, the completion's operations instead of the logged ones, then all later
operations as logged. An entry too many, a date left out or a forgotten second fact thus costs what it costs in the end,
and no model is run beyond the turn. All completions of a group share what comes later, so their differences are those
of the turn's operations alone.

The later operations name entries by id. An ADD of the completion takes the id of the turn's logged ADD with which it
shares most words, so that a later UPDATE or DELETE of that fact still applies, whatever the order; one that shares none
gets an id that the log never used. A logged UPDATE of an entry that the completion did not add adds it, as the manager
would have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.forms import FLAT, OperationForm
from memory_r1.memory.record import Event
from memory_r1.memory.retriever import Retriever
from memory_r1.metrics import normalize_answer
from memory_r1.training.rows import Row, manager_rows
from memory_r1.types import ADDING, ManagerTuple, MemoryEntry

_UNUSED = 1_000_000  # ids of a log count from 1


def substitution_rows(
    tuples: Sequence[ManagerTuple],
    events: Sequence[Mapping[str, Sequence[Event]]],
    retriever: Retriever,
    recall_per_speaker: int,
    form: OperationForm = FLAT,
) -> list[Row]:
    """Return the rows of `manager_rows` with a column `logged` (JSON): what the turn added, and all later events.

    Args:
        tuples: Each scored by questions that are asked at its dialogue's end.
        events: For each tuple, its dialogue's events by turn id, in dialogue order.
        retriever: Finds what the prompts show.
        recall_per_speaker: Memories recalled per speaker.
        form: How the manager writes operations.
    """
    rows = manager_rows(tuples, retriever, recall_per_speaker, form)
    for item, row, changed in zip(tuples, rows, events, strict=True):
        turn_ids = list(changed)
        later = turn_ids[turn_ids.index(item.turn.turn_id) + 1 :]
        own = changed[item.turn.turn_id]
        added = [(event.item, event.payload["text"]) for event in own if event.kind in ADDING]
        replayed = [
            (event.kind, event.item, dict(event.payload))
            for turn_id in later
            for event in changed[turn_id]
            if event.item is not None
        ]
        row["logged"] = json.dumps({"added": added, "later": replayed}, ensure_ascii=False)
    return rows


def bank_at_end(before: MemoryBank, after: MemoryBank, logged: str) -> tuple[MemoryEntry, ...]:
    """Return a dialogue's last entries, given its bank before and after a completion's operations on one turn.

    Args:
        before: The bank before the turn.
        after: The bank that the completion leaves.
        logged: The column of `substitution_rows`.
    """
    log = json.loads(logged)
    fresh = [entry for entry in after.entries() if entry.entry_id not in before]
    renamed = _matched(fresh, log["added"])
    bank = MemoryBank(_renamed(entry, renamed) for entry in after.entries())
    for kind, item, payload in log["later"]:
        bank.play(Event(kind, item, payload))
    return bank.entries()


def _matched(fresh: Sequence[MemoryEntry], logged: Sequence[tuple[int, str]]) -> dict[int, int]:
    """Map the ids of fresh entries to those of the logged ones that they stand for, or to unused ones."""
    pairs = sorted(
        (
            (-_overlap(entry, text), place, number, entry.entry_id)
            for place, entry in enumerate(fresh)
            for number, text in logged
        ),
    )
    ids: dict[int, int] = {}
    for shared, _, number, entry_id in pairs:
        if shared < 0 and entry_id not in ids and number not in ids.values():
            ids[entry_id] = number
    return {entry.entry_id: ids.get(entry.entry_id, _UNUSED + place) for place, entry in enumerate(fresh)}


def _overlap(entry: MemoryEntry, text: str) -> float:
    """Return the share of words that two memories have in common (Jaccard), the speaker's name aside."""
    name = set(normalize_answer(entry.speaker).split())
    one, other = (set(normalize_answer(words).split()) - name for words in (entry.text, text))
    return len(one & other) / max(1, len(one | other))


def _renamed(entry: MemoryEntry, ids: Mapping[int, int]) -> MemoryEntry:
    over = tuple(ids.get(below, below) for below in entry.over)
    return replace(entry, entry_id=ids.get(entry.entry_id, entry.entry_id), over=over)
