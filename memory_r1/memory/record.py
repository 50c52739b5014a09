"""What the log is made of: a record for each turn, and in it the events that changed memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memory_r1.memory.operations import RefusalReason
from memory_r1.types import Turn

UNDO, REDO, FORGET = "UNDO", "REDO", "FORGET"
NOOP, SPEAKERS, SESSION_END = "NOOP", "SPEAKERS", "SESSION_END"
"""Kinds with a meaning of their own; every other kind is an edit, which `undo` takes back. Systems name theirs."""
MARKERS = frozenset({UNDO, REDO})
NO_EDITS = frozenset({UNDO, REDO, NOOP, SPEAKERS, SESSION_END})


@dataclass(frozen=True, slots=True)
class Event:
    """One change of memory.

    Attributes:
        kind: What happened. `UNDO` and `REDO` name the event they take back or restore in `payload["target"]`;
            `FORGET` keeps the id of an erased item from being given again.
        item: Id of what changed (an entry, later an edge or a node), counted from 1 in each scope.
        payload: JSON values: the whole new version of the item.
        tensor: What JSON cannot hold, as safetensors bytes.
        number: Place among the scope's events, from 1; the log gives it.
    """

    kind: str
    item: int | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    tensor: bytes | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An element of a completion that was not applied: its place there, why, and what it said (JSON)."""

    index: int
    reason: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """All that one turn did to memory, written in one transaction; without a turn, what was done at no turn.

    Attributes:
        turn: What was said.
        events: What changed, in order.
        refusals: What was proposed and not applied.
        completion: What the model wrote.
        failure: Why the whole completion could not be read; empty if it could.
        prompt_tokens: Tokens that the model read.
        completion_tokens: Tokens that it wrote.
        model_calls: How often it was asked.
        cut: What its prompt left out to fit the window: earlier turns, memories, the turn's end.
        written_at: ISO 8601, UTC; the log gives it.
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
    """The record with the edits that were taken back as `FORGET`: they change nothing, and their ids stay taken."""
    events = (
        event if event.kind in NO_EDITS or event.number in standing else Event(FORGET, event.item)
        for event in record.events
    )
    return replace(record, events=tuple(events))


def without_items(record: Record, items: Collection[int]) -> Record:
    """The record without `items`, the words of its turn and what was written on it, where it changed one of them."""
    changed = any(event.item in items for event in record.events)
    if not changed and not any(_entry_in_conflict(refusal) in items for refusal in record.refusals):
        return record
    events = tuple(
        Event(FORGET, event.item, number=event.number) if event.item in items else event
        for event in record.events
        if not (event.kind in MARKERS and event.item in items)
    )
    return replace(
        record,
        turn=record.turn and replace(record.turn, text=""),
        events=events,
        refusals=tuple(replace(refusal, raw="") for refusal in record.refusals),
        completion="",
    )


def _entry_in_conflict(refusal: Refusal) -> int | None:
    """The item that a refused operation was to change, where the log names it by its own id."""
    named = json.loads(refusal.raw).get("entry") if refusal.reason == RefusalReason.CONFLICT and refusal.raw else None
    return named if isinstance(named, int) else None
