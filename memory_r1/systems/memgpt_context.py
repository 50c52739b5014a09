"""MemGPT's main context: what it holds, and what one turn changes in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from immutables import Map

from memory_r1.memory.record import WRITTEN, Record
from memory_r1.systems.embedded import EmbeddedState
from memory_r1.systems.rules import statements
from memory_r1.systems.writer import Writing, counting_refused, lines_of
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn

APPEND, REPLACE, INSERT = "core_memory_append", "core_memory_replace", "archival_memory_insert"
CONVERSATION, ARCHIVE = "conversation_search", "archival_memory_search"
CALLS = "function calls"
"""Name of the task in which the model, once warned, calls functions."""
BLOCK_CHARACTERS = 2000

Entries = tuple[MemoryEntry, ...]


@dataclass(frozen=True)
class MemGPTState(EmbeddedState):
    """Entries by their place: turns in the queue, oldest first, core blocks by name, the summary, archival texts.

    `warned` says whether the model was warned since the last flush.
    """

    queue: tuple[int, ...] = ()
    blocks: Map[str, int] = field(default_factory=Map)
    summary: int = 0
    archival: Map[int, None] = field(default_factory=Map)
    warned: bool = False

    def after(self, record: Record) -> Self:
        state = super().after(record)
        queue, blocks, summary, warned = state.queue, state.blocks, state.summary, state.warned
        archival = state.archival
        for event in record.events:
            version, item = event.payload, event.item
            if event.kind == WRITTEN and version["task"] == CALLS:
                warned = True
            elif item is None or "text" not in version:
                continue
            elif "block" in version:
                blocks = blocks.set(version["block"], item)
            elif "flushed" in version:
                summary, warned = item, False
                queue = tuple(queued for queued in queue if queued not in version["flushed"])
            elif "archival" in version:
                archival = archival.set(item, None)
            else:
                queue = (*queue, item)
        queue = tuple(item for item in queue if item in state.bank)
        return replace(state, queue=queue, blocks=blocks, summary=summary, archival=archival, warned=warned)

    def live(self, items: Collection[int]) -> list[MemoryEntry]:
        """Return the entries with these ids that are remembered."""
        return [entry for item in items if (entry := self.bank.find(item)) is not None]

    def core(self) -> list[MemoryEntry]:
        """Return the core blocks, by their age, and the summary."""
        return self.live([*sorted(self.blocks.values()), self.summary])

    def storage(self, function: str) -> list[int]:
        """Return the ids that a function searches: all turns for `CONVERSATION`, archival texts for `ARCHIVE`."""
        return [item for item in self.vectors if (item in self.archival) == (function == ARCHIVE)]

    @property
    def paged_out(self) -> bool:
        """Whether storage holds what main context does not show."""
        return len(self.vectors) > len(self.queue)

    def texts(self) -> dict[str, str]:
        """Return the texts of the core blocks by name, in alphabetical order."""
        return {name: entry.text for name, item in sorted(self.blocks.items()) for entry in self.live([item])}


class Page:
    """One turn's changes of one scope: operations, what their events note and embed, and what was written."""

    def __init__(self, turn: Turn, state: MemGPTState) -> None:
        self.turn = turn
        self.state = state
        self.operations: list[Operation] = []
        self.notes: list[dict[str, Any]] = []
        self.embedded: list[str | None] = []
        self.written: list[Writing] = []

    def queue(self) -> list[MemoryEntry]:
        """Return the queue with the new turn at its end."""
        turn = self.turn
        new = MemoryEntry(self.state.bank.highest_id + 1, turn.text, turn.speaker, turn.timestamp, (turn.turn_id,))
        return [*self.state.live(self.state.queue), new]

    def write(
        self, kind: OperationKind, text: str, item: int | None = None, *, embedded: str | None = None, **note: Any
    ) -> None:
        """Add an operation."""
        self.operations.append(Operation(kind, text, item))
        self.notes.append(note)
        self.embedded.append(embedded)

    def obey(self, writing: Writing) -> None:
        """Carry out function calls; those on an unknown block, past its bound or of a text it lacks are refused."""
        shown = sources(self.queue())
        before, texts, refused = self.state.texts(), self.state.texts(), 0
        for call in writing.value["calls"]:
            block, old = call.get("block", ""), call.get("old", "")
            known = block in {*self.state.speakers, self.turn.speaker}
            if call["function"] == INSERT:
                self.write(OperationKind.ADD, call["text"], embedded=call["text"], archival=True, turn_ids=shown)
                continue
            if call["function"] == APPEND:
                new = f"{texts.get(block, '')} {call['text']}".strip()
            else:
                new = texts.get(block, "").replace(old, call["text"]) if old and old in texts.get(block, "") else ""
            if known and 0 < len(new) <= BLOCK_CHARACTERS:
                texts[block] = new
            else:
                refused += 1
        for name, text in texts.items():
            if text != before.get(name):
                held = self.state.bank.find(self.state.blocks.get(name, 0))
                turn_ids = list(dict.fromkeys([*(held.source_turn_ids if held else ()), *shown]))
                kind = OperationKind.UPDATE if held else OperationKind.ADD
                item = held.entry_id if held else None
                self.write(kind, text, item, block=name, speaker=name, turn_ids=turn_ids)
        self.written.append(counting_refused(writing, refused))

    def flush(self, flushed: Sequence[MemoryEntry], writing: Writing) -> None:
        """Take turns out of the queue, into the summary."""
        held = self.state.bank.find(self.state.summary)
        turn_ids = list(dict.fromkeys([*(held.source_turn_ids if held else ()), *sources(flushed)]))
        note: dict[str, Any] = {"flushed": [entry.entry_id for entry in flushed], "speaker": "", "turn_ids": turn_ids}
        kind = OperationKind.UPDATE if held else OperationKind.ADD
        self.write(kind, writing.value["summary"], held.entry_id if held else None, **note)
        self.written.append(writing)


class Lookup:
    """One question on a scope: what the model has searched for and found so far."""

    def __init__(self, query: str, state: MemGPTState) -> None:
        self.query = query
        self.state = state
        self.found: dict[MemoryEntry, None] = {}
        self.results: list[str] = []
        self.written: list[Writing] = []

    def lines(self) -> list[str]:
        """Return what the model reads: main context, what it found, and the question, which a window never cuts."""
        shown = [*self.state.core(), *self.state.live(self.state.queue)]
        return [*lines_of(shown), *self.results, f"Question: {self.query}"]

    def calls(self) -> list[dict[str, str]]:
        """Return the searches of the last reply."""
        return list(self.written[-1].value["calls"])

    def calls_by_rules(self) -> list[dict[str, str]]:
        """Search both storages with the question."""
        query = self.query.strip()[:300]
        return [{"function": function, "query": query} for function in (CONVERSATION, ARCHIVE)] if query else []

    def show(self, call: Mapping[str, str], found: Sequence[MemoryEntry]) -> None:
        """Take in the result of a search, of which the model reads what it has not read yet."""
        fresh = [entry for entry in found if entry not in self.found]
        self.results += [f"{call['function']} {call['query']}:", *(lines_of(fresh) or ["nothing new"])]
        self.found.update(dict.fromkeys(fresh))

    def ranked(self) -> Entries:
        """Return what was found, then core blocks and summary, then the queue, newest first."""
        state = self.state
        return tuple(dict.fromkeys([*self.found, *state.core(), *state.live(state.queue[::-1])]))


def calls_by_rules(page: Page) -> list[dict[str, str]]:
    """Append what speakers said of themselves to their blocks, unless it is there; archive what has no room there."""
    texts, calls = page.state.texts(), []
    for entry in page.queue():
        for said in statements(entry.text):
            block = texts.get(entry.speaker, "")
            if said in block:
                continue
            longer = f"{block} {said}".strip()
            if len(longer) <= BLOCK_CHARACTERS:
                texts[entry.speaker] = longer
                calls.append({"function": APPEND, "block": entry.speaker, "text": said})
            else:
                calls.append({"function": INSERT, "text": said})
    return calls


def sources(entries: Sequence[MemoryEntry]) -> list[str]:
    """Return the source turns of entries, each once."""
    return list(dict.fromkeys(turn_id for entry in entries for turn_id in entry.source_turn_ids))
