"""MemGPT: a main context that is kept small by paging (Packer et al., 2023).

The main context holds a core block per speaker and a FIFO queue of turns, whose head is a recursive summary. Near its
bound the model is warned and saves what matters by function calls; beyond it, the oldest turns leave the queue and the
summary is written anew. All turns stay in recall storage, and what the model inserts in archival storage; for a
question the model pages in what it finds there, by function calls again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import Embedder
from memory_r1.memory.record import Record
from memory_r1.systems.banked import Proposal
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.embedded import EmbeddedSystem
from memory_r1.systems.memgpt_context import (
    APPEND,
    ARCHIVE,
    CALLS,
    CONVERSATION,
    INSERT,
    REPLACE,
    Entries,
    Lookup,
    MemGPTState,
    Page,
    calls_by_rules,
)
from memory_r1.systems.plain_tokens import spoken
from memory_r1.systems.state import ScopeState
from memory_r1.systems.writer import (
    Writer,
    WritingTask,
    cost_of,
    joined,
    lines_of,
    object_of,
    text_object,
    written_from,
)
from memory_r1.types import MemoryEntry, OperationKind, Turn

WARN_AT, FLUSH, KEEP_LAST = 0.75, 0.75, 3
"""Shares of the context at which the model is warned, and of the queue that an overflow flushes; turns always kept."""
SUMMARY_BY_RULES = 400  # characters: the end of what was flushed

_TEXT = {"type": "string", "minLength": 1, "maxLength": 300}
FUNCTION_CALLS = WritingTask(
    CALLS,
    "The context is nearly full. Save the facts that must not be lost, in short sentences with names. Reply with JSON "
    f'only: {{"calls": [{{"function": "{APPEND}", "block": "Kim", "text": "Kim has a goat."}}, {{"function": '
    f'"{REPLACE}", "block": "Kim", "old": "Kim has a goat.", "text": "Kim has a cow."}}, {{"function": "{INSERT}", '
    '"text": "Lou left."}]}.',
    object_of(
        {
            "calls": {
                "type": "array",
                "maxItems": 4,
                "items": {
                    **object_of(
                        {
                            "function": {"type": "string", "enum": [APPEND, REPLACE, INSERT]},
                            "block": _TEXT,
                            "old": _TEXT,
                            "text": _TEXT,
                        }
                    ),
                    "required": ["function", "text"],
                },
            }
        }
    ),
    max_new_tokens=160,
)
PAGING = WritingTask(
    "paging",
    "Search for what the question needs and the context lacks. Reply with JSON only: "
    f'{{"calls": [{{"function": "{CONVERSATION}", "query": "Kim goat"}}, {{"function": "{ARCHIVE}", "query": "goat"}}]'
    '} or {"calls": []}.',
    object_of(
        {
            "calls": {
                "type": "array",
                "maxItems": 2,
                "items": object_of({"function": {"type": "string", "enum": [CONVERSATION, ARCHIVE]}, "query": _TEXT}),
            }
        }
    ),
    max_new_tokens=96,
)
SUMMARY = WritingTask(
    "recursive summary",
    "Summarise the earlier summary and the messages after it, in at most 100 words with names. Reply with JSON only: "
    '{"summary": "Kim adopted a goat."}.',
    text_object("summary", 1000),
    max_new_tokens=160,
)


class MemGPT(EmbeddedSystem):
    """Keeps a main context of `context_tokens` and searches the rest.

    Args:
        embedder: Encodes turns, archival texts and questions.
        writer: Makes function calls and writes the summary; by default the rules do.
        recall_per_speaker: Turns or archival texts that one search finds, per speaker.
        context_tokens: Bound of core blocks, summary and queue, as entries stand in the Answer Agent's prompt.
        heartbeats: How often the model may search on for one question after it has read what it found.
        count_tokens: As in `BankedSystem`.
        states: As in `BankedSystem`.

    Raises:
        ConfigurationError: `context_tokens` is below 1, or `heartbeats` below 0.
    """

    name = "memgpt"
    capabilities = frozenset({Capability.ENTRIES, Capability.EDITS})
    start: ClassVar[ScopeState] = MemGPTState()

    def __init__(
        self,
        embedder: Embedder,
        writer: Writer | None = None,
        *,
        recall_per_speaker: int,
        context_tokens: int = 2048,
        heartbeats: int = 1,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        if context_tokens < 1:
            raise ConfigurationError(f"context_tokens is {context_tokens}: give the context's size, at least 1")
        if heartbeats < 0:
            raise ConfigurationError(f"heartbeats is {heartbeats}: give how often the model may search on, at least 0")
        super().__init__(embedder, count_tokens=count_tokens, states=states)
        self._writer = writer or Writer()
        self._recall_per_speaker = recall_per_speaker
        self._context_tokens = context_tokens
        self._heartbeats = heartbeats
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_WRITES, Capability.MODEL_READS}

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        pages = [Page(turn, cast(MemGPTState, state)) for turn, state in turns]
        told = [page for page in pages if page.turn.text.strip()]
        for page in told:
            page.write(OperationKind.ADD, page.turn.text, embedded=spoken(page.turn))
        warned = [page for page in told if self._fullness(page) > WARN_AT and not page.state.warned]
        texts = [lines_of([*page.state.core(), *page.queue()]) for page in warned]
        calls = self._writer.write(FUNCTION_CALLS, texts, [{"calls": calls_by_rules(page)} for page in warned])
        for page, writing in zip(warned, calls, strict=True):
            page.obey(writing)
        over = [page for page in told if self._fullness(page) > 1 and self._flushed(page)]
        texts = [lines_of([*page.state.live([page.state.summary]), *self._flushed(page)]) for page in over]
        rules = [{"summary": " ".join(lines)[-SUMMARY_BY_RULES:]} for lines in texts]
        for page, writing in zip(over, self._writer.write(SUMMARY, texts, rules), strict=True):
            page.flush(self._flushed(page), writing)
        return [self._proposal(page) for page in pages]

    def _fullness(self, page: Page) -> float:
        """Return the share of the context that core blocks, summary and queue take, with the new turn."""
        return sum(map(self.prompt_cost, [*page.state.core(), *page.queue()])) / self._context_tokens

    def _flushed(self, page: Page) -> list[MemoryEntry]:
        """Return the oldest turns of a full queue: `FLUSH` of its tokens, but never the last `KEEP_LAST` turns."""
        queue = page.queue()
        left, flushed = FLUSH * sum(map(self.prompt_cost, queue)), []
        for entry in queue[:-KEEP_LAST]:
            if left <= 0:
                break
            flushed.append(entry)
            left -= self.prompt_cost(entry)
        return flushed

    def _proposal(self, page: Page) -> Proposal:
        rows = iter(self.embed([text for text in page.embedded if text is not None]))
        tensors = {place: self.event_tensor(next(rows)) for place, text in enumerate(page.embedded) if text is not None}
        notes: dict[int, dict[str, Any]] = {
            place: {**note, **(self.encoder_note if place in tensors else {})} for place, note in enumerate(page.notes)
        }
        return Proposal(tuple(page.operations), joined(page.written), notes, tensors)

    def _rank(self, requests: Sequence[RecallRequest]) -> list[Entries]:
        return [ranked for ranked, _ in self._rank_at_a_cost(requests)]

    def _rank_at_a_cost(self, requests: Sequence[RecallRequest]) -> list[tuple[Entries, Mapping[str, float]]]:
        """Let the model page in what it searches for; rank that first, then the rest of main context."""
        paged = {(request.scope, request.query): self._lookup(request) for request in requests}
        searching = [lookup for lookup in paged.values() if lookup.state.paged_out]
        in_view = [lookup for lookup in paged.values() if not lookup.state.paged_out]
        self._search([(lookup, call) for lookup in in_view for call in lookup.calls_by_rules()])  # only to rank
        for beat in range(1 + self._heartbeats):
            rules = [{"calls": [] if beat else lookup.calls_by_rules()} for lookup in searching]
            written = self._writer.write(PAGING, [lookup.lines() for lookup in searching], rules)
            for lookup, writing in zip(searching, written, strict=True):
                lookup.written.append(writing)
            self._search([(lookup, call) for lookup in searching for call in lookup.calls()])
            searching = [lookup for lookup in searching if lookup.calls()]
        lookups = [paged[request.scope, request.query] for request in requests]
        return [(lookup.ranked(), cost_of(lookup.written)) for lookup in lookups]

    def _lookup(self, request: RecallRequest) -> Lookup:
        return Lookup(request.query, cast(MemGPTState, self.embedded_state(request.scope)))

    def _search(self, calls: Sequence[tuple[Lookup, Mapping[str, str]]]) -> None:
        """Carry out searches, all embedded at once."""
        queries = self.embed([call["query"] for _, call in calls])  # (B, E)
        for (lookup, call), query in zip(calls, queries, strict=True):
            k = self._recall_per_speaker * max(1, len(lookup.state.speakers))
            found = lookup.state.nearest(query, k, lookup.state.storage(call["function"]))
            lookup.show(call, lookup.state.live(found))

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        """Put the entries in order of time, blocks and summary by their last edit."""
        return tuple(sorted(kept, key=lambda entry: (entry.timestamp, entry.entry_id)))

    def _with_derived(self, records: Sequence[Record], ids: set[int]) -> set[int]:
        """Add the blocks, archival texts and summaries that were written from the turns of the entries."""
        return written_from(records, ids, {"block", "flushed", "archival"})
