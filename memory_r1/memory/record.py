"""The parts of the log: one record per turn, holding the events that changed memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memory_r1.types import Turn

UNDO, REDO, FORGET = "UNDO", "REDO", "FORGET"
NOOP, SPEAKERS, SESSION_END, ID_KEY = "NOOP", "SPEAKERS", "SESSION_END", "ID_KEY"
WRITTEN, RECALLED = "WRITTEN", "RECALLED"
"""Kinds with a special meaning; every other kind is an edit, named by its system, which `undo` takes back."""
MARKERS = frozenset({UNDO, REDO})
NO_EDITS = frozenset({UNDO, REDO, NOOP, SPEAKERS, SESSION_END, ID_KEY, WRITTEN, RECALLED})


@dataclass(frozen=True, slots=True)
class Event:
    """One change of memory.

    Attributes:
        kind: Kind of change. `UNDO` and `REDO` name the event they take back or restore in `payload["target"]`;
            `FORGET` keeps the id of an erased item from being reused.
        item: Id of the changed item (an entry, later an edge or a node), counted from 1 in each scope.
        payload: The new version of the item, as JSON values; see `MemoryBank.shortened` for its sources.
        tensor: The part that JSON cannot hold, as safetensors bytes.
        number: Number among the scope's events, from 1; assigned by the log.
    """

    kind: str
    item: int | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    tensor: bytes | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused element of a completion: its index, the reason, and its JSON."""

    index: int
    reason: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that one turn did to memory, written in one transaction.

    Attributes:
        turn: The turn, or None for changes outside of any.
        events: The changes, in order.
        refusals: The operations that were proposed but refused.
        completion: The model's completion.
        failure: Why the whole completion could not be read; empty if it could.
        prompt_tokens: Tokens that the model read.
        completion_tokens: Tokens that it wrote.
        model_calls: Number of calls to it.
        cut: Parts left out of the prompt to fit the window: earlier turns, memories, the end of the turn.
        written_at: ISO 8601, UTC; assigned by the log.
    """

    turn: Turn | None = None
    events: tuple[Event, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    completion: str = ""
    failure: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    cut: int = 0
    written_at: str = field(default="", compare=False)


def standing_part(record: Record, standing: set[int]) -> Record:
    """Turn a record's undone edits into `UNDO`, which changes nothing but keeps the ids taken."""
    events = (
        event if event.kind in {*NO_EDITS, FORGET} or event.number in standing else Event(UNDO, event.item)
        for event in record.events
    )
    return replace(record, events=tuple(events))


def without_items(record: Record, items: Collection[int]) -> Record:
    """Erase `items` from a record and, if it concerned one of them, also the turn's text and the completion.

    A completion that was not carried out as it stands goes from every record: it may quote all that the model read.
    """
    changed = any(event.item in items for event in record.events)
    if not changed and not any(_entry_named_by(refusal) in items for refusal in record.refusals):
        return record if _carried_out(record) else _without_completion(record)
    events = tuple(
        Event(FORGET, event.item, number=event.number) if event.item in items else event
        for event in record.events
        if not (event.kind in MARKERS and event.item in items)
    )
    turn = record.turn and replace(record.turn, text="")
    return _without_completion(replace(record, turn=turn, events=events))


def _without_completion(record: Record) -> Record:
    refusals = tuple(replace(refusal, raw="") for refusal in record.refusals)
    return replace(record, refusals=refusals, completion="")


def _carried_out(record: Record) -> bool:
    """Whether all that the model wrote became events: it was readable, nothing was refused, no rules stood in."""
    written = (event.payload for event in record.events if event.kind == WRITTEN)
    in_part = any(payload["by"] == "rules" or payload.get("refused") for payload in written)
    return not (record.failure or record.refusals or in_part)


def _entry_named_by(refusal: Refusal) -> int | None:
    """The item that a refused operation was to change or repeated, where the log names it by its own id."""
    raw = json.loads(refusal.raw) if refusal.raw else None
    named = raw.get("entry") if isinstance(raw, dict) else None
    return named if isinstance(named, int) else None
