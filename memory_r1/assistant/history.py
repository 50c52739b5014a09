"""The history of one memory, read from its log."""

from __future__ import annotations

from collections.abc import Sequence

from memory_r1.assistant.results import Change
from memory_r1.memory.record import MARKERS, UNDO, Event, Record
from memory_r1.types import OperationKind


def changes_of(memory_id: str, history: Sequence[tuple[Record, Event]]) -> list[Change]:
    """Return the changes of a memory, given `Log.history`."""
    changes: list[Change] = []
    text: str | None = None
    around: dict[int, tuple[str | None, str | None]] = {}  # by event number: the text before and after it
    created = ""
    for record, event in history:
        old = text
        if event.kind in MARKERS:
            before, after = around.get(event.payload["target"], (old, old))
            text = before if event.kind == UNDO else after
        else:
            text = event.payload.get("text")  # a DELETE or FORGET has none
            around[event.number] = (old, text)
        happened = record.turn.timestamp if record.turn else record.written_at
        created = created or happened
        changes.append(
            Change(
                id=f"{memory_id}.{event.number}",
                memory_id=memory_id,
                old_memory=old,
                new_memory=text,
                event=str(event.kind),
                created_at=created,
                updated_at=happened,
                is_deleted=event.kind == OperationKind.DELETE,
                actor_id=record.turn.speaker if record.turn else None,
                source=(record.turn.text or None) if record.turn else None,
            )
        )
    return changes
