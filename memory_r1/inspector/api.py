"""What the page asks for, as JSON values."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from memory_r1.errors import ScopeError, StoreError
from memory_r1.inspector.store import Inspected
from memory_r1.inspector.timeline import Timeline, Version
from memory_r1.memory.record import FORGET, MARKERS, NO_EDITS, SPEAKERS, Record
from memory_r1.types import MemoryEntry

PAGE = 50
"""Rows of a list that are sent at once."""
_KEPT_SCOPES = 4
_EXCERPT = 160  # characters of a turn in the list
_SHOWN: dict[str, Callable[[Record], bool]] = {
    "all": lambda record: True,
    "changes": lambda record: any(event.kind not in {*NO_EDITS, FORGET} for event in record.events),
    "refusals": lambda record: bool(record.refusals or record.failure),
    "undone": lambda record: any(event.kind in MARKERS or event.kind == FORGET for event in record.events),
}


class Api:
    """Answers the page's requests about a memory; thread-safe."""

    def __init__(self, store: Inspected) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._timelines: OrderedDict[str, tuple[Hashable, Timeline]] = OrderedDict()

    def overview(self) -> dict[str, Any]:
        """Return what holds for the whole page."""
        return {
            "title": self._store.title,
            "system": self._store.system,
            "scopes": list(self._store.scopes()),
            "writable": self._store.writable,
            "answers": self._store.answer is not None,
        }

    def records(self, scope: str, show: str, text: str, page: int | None, around: int) -> dict[str, Any]:
        """Return one page of the list of records.

        Args:
            scope: The scope.
            show: Which records: "all", "changes", "refusals" or "undone".
            text: Words that a record's turn or the entries that it wrote must all contain.
            page: Number of the page, from 0; None for the one with the last record up to `around`.
            around: A record's number.
        """
        if show not in _SHOWN:
            raise StoreError(f"show is {show!r}; allowed are {', '.join(_SHOWN)}")
        words, timeline = text.lower().split(), self._timeline(scope)
        found = [
            (number, record)
            for number, record in enumerate(timeline.records, start=1)
            if _SHOWN[show](record) and (not words or _contains(record, words))
        ]
        pages = max(1, -(-len(found) // PAGE))
        if page is None:
            page = max(0, sum(number <= around for number, _ in found) - 1) // PAGE
        page = min(max(page, 0), pages - 1)
        rows = [_row(number, record) for number, record in found[page * PAGE : (page + 1) * PAGE]]
        return {"rows": rows, "page": page, "pages": pages, "found": len(found), "total": len(timeline)}

    def state(self, scope: str, at: int | None, start: int) -> dict[str, Any]:
        """Return record `at` (None: the last) and the bank after it, whose unchanged entries are paged from `start`."""
        timeline = self._timeline(scope)
        at = len(timeline) if at is None else at
        changes = timeline.changes(at)
        changed = {change.after.entry_id for change in changes if change.after is not None}
        rest = [entry for entry in timeline.entries(at) if entry.entry_id not in changed]
        edit = timeline.last_edit() if self._store.writable else None
        return {
            "scope": scope,
            "at": at,
            "total": len(timeline),
            "live": timeline.size(at),
            "record": _record(timeline.records[at - 1]) if at else None,
            "changes": [{"before": _entry(change.before), "after": _entry(change.after)} for change in changes],
            "rest": [_entry(entry) for entry in rest[start : start + PAGE]],
            "start": start,
            "left": max(0, len(rest) - start - PAGE),
            "undo": {"record": edit[0], "kind": edit[1].kind, "item": edit[1].item} if edit else None,
        }

    def entry(self, scope: str, item: int) -> dict[str, Any]:
        """Return all versions of an entry with the turns that caused them."""
        timeline = self._timeline(scope)
        return {
            "id": item,
            "versions": [
                _version(version, timeline.records[version.record - 1]) for version in timeline.versions(item)
            ],
        }

    def search(self, scope: str, query: str) -> dict[str, Any]:
        """Return the entries that fit a query, best first."""
        self._timeline(scope)
        return {"entries": [_entry(entry) for entry in self._store.search(query, scope)] if query.strip() else []}

    def ask(self, scope: str, question: str) -> dict[str, Any]:
        """Answer a question."""
        if self._store.answer is None:
            raise StoreError("no model answers here; open the page with an Answer Agent")
        if not question.strip():
            raise StoreError("the question is empty; write one")
        self._timeline(scope)
        answered = self._store.answer(question, scope)
        return {
            "answer": answered.text,
            "completion": answered.completion,
            "recalled": [
                {**_fields(entry), "distilled": entry.entry_id in answered.distilled} for entry in answered.recalled
            ],
        }

    def undo(self, scope: str, records: int) -> dict[str, Any]:
        """Undo the last edit of a scope that still has as many records as the page has seen."""
        if not self._store.writable:
            raise StoreError("the store is open for reading only; start inspect with --writable")
        now = len(self._timeline(scope))
        if now != records:
            raise StoreError(f"the memory has changed: it has {now} records, not {records}; look again, then undo")
        return {"undone": self._store.undo(scope)}

    def _timeline(self, scope: str) -> Timeline:
        """Return a scope's timeline, made anew after every write, so that nothing erased is still shown."""
        with self._lock:
            version = self._store.version()
            known = self._timelines.pop(scope, None)
            if known is None or known[0] != version:
                records = self._store.records(scope)
                if not records:
                    raise ScopeError(f"the store has no scope {scope!r}; choose one of those on the page")
                known = version, Timeline(records)
            self._timelines[scope] = known
            if len(self._timelines) > _KEPT_SCOPES:
                self._timelines.popitem(last=False)
            return known[1]


def _contains(record: Record, words: Sequence[str]) -> bool:
    texts = [event.payload.get("text") for event in record.events]
    said = f"{record.turn.speaker}: {record.turn.text}" if record.turn else ""
    whole = "\n".join([said, *(text for text in texts if isinstance(text, str))]).lower()
    return all(word in whole for word in words)


def _row(number: int, record: Record) -> dict[str, Any]:
    turn = record.turn
    return {
        "number": number,
        "turn": turn is not None,
        "speaker": turn.speaker if turn else "",
        "text": turn.text[:_EXCERPT] if turn else "",
        "kinds": Counter(str(event.kind) for event in record.events),
        "refused": len(record.refusals),
        "failed": bool(record.failure),
    }


def _record(record: Record) -> dict[str, Any]:
    turn = record.turn
    names = [name for event in record.events if event.kind == SPEAKERS for name in event.payload["names"]]
    return {
        "turn": _turn(record),
        "session": turn.session_id if turn else "",
        "kinds": Counter(str(event.kind) for event in record.events),
        "speakers": names,
        "completion": record.completion,
        "failure": record.failure,
        "refusals": [{"reason": refusal.reason, "raw": refusal.raw} for refusal in record.refusals],
        "read": record.prompt_tokens,
        "wrote": record.completion_tokens,
        "cut": record.cut,
        "written_at": record.written_at,
    }


def _version(version: Version, record: Record) -> dict[str, Any]:
    payload = version.event.payload
    return {
        "record": version.record,
        "kind": version.event.kind,
        "undone": version.undone,
        "text": payload.get("text"),
        "timestamp": payload.get("timestamp", ""),
        "turn": _turn(record),
        "written_at": record.written_at,
    }


def _turn(record: Record) -> dict[str, str] | None:
    turn = record.turn
    if turn is None:
        return None
    return {"id": turn.turn_id, "speaker": turn.speaker, "text": turn.text, "timestamp": turn.timestamp}


def _entry(entry: MemoryEntry | None) -> dict[str, Any] | None:
    return None if entry is None else _fields(entry)


def _fields(entry: MemoryEntry) -> dict[str, Any]:
    return {"id": entry.entry_id, "text": entry.text, "speaker": entry.speaker, "timestamp": entry.timestamp}
