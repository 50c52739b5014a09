"""MemGPT: a main context that is kept small by paging (Packer et al., 2023).

The main context holds a core block per speaker and a FIFO queue of turns, whose head is a recursive summary. Near its
bound the model is warned and saves what matters by function calls; beyond it, the oldest turns leave the queue and the
summary is written anew. All turns stay in recall storage, and what the model inserts in archival storage; a question
searches both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, cast

from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import Embedder
from memory_r1.systems.banked import Proposal
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.embedded import EmbeddedSystem
from memory_r1.systems.memgpt_context import APPEND, CALLS, INSERT, REPLACE, MemGPTState, Page
from memory_r1.systems.plain_tokens import spoken
from memory_r1.systems.rules import statements
from memory_r1.systems.state import ScopeState
from memory_r1.systems.writer import Writer, WritingTask, joined, lines_of, object_of, text_object, written_from
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
        recall_per_speaker: Turns and archival texts found for a question, per speaker.
        context_tokens: Bound of core blocks, summary and queue, as entries stand in the Answer Agent's prompt.
        count_tokens: As in `BankedSystem`.
        states: As in `BankedSystem`.

    Raises:
        ConfigurationError: `context_tokens` is below 1.
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
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        if context_tokens < 1:
            raise ConfigurationError(f"context_tokens is {context_tokens}: give the context's size, at least 1")
        super().__init__(embedder, count_tokens=count_tokens, states=states)
        self._writer = writer or Writer()
        self._recall_per_speaker = recall_per_speaker
        self._context_tokens = context_tokens
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_WRITES}

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

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        queries = self.embed([request.query for request in requests])  # (B, E)
        ranked = []
        for request, query in zip(requests, queries, strict=True):
            state = cast(MemGPTState, self.embedded_state(request.scope))
            found = state.nearest(query, self._recall_per_speaker * max(1, len(state.speakers)))
            ranked.append(tuple(dict.fromkeys([*state.live(found), *state.core(), *state.live(state.queue[::-1])])))
        return ranked

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        """Put the entries in order of time, blocks and summary by their last edit."""
        return tuple(sorted(kept, key=lambda entry: (entry.timestamp, entry.entry_id)))

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        """Erase entries, and with them the blocks, archival texts and summaries that were written from their turns."""
        if ids is not None:
            ids = written_from(self.records(scope), ids, {"block", "flushed", "archival"})
        return super().forget(scope, ids)


def calls_by_rules(page: Page) -> list[dict[str, str]]:
    """Append to each speaker's block what they said of themselves, unless it is there."""
    blocks = page.state.texts()
    return [
        {"function": APPEND, "block": entry.speaker, "text": said}
        for entry in page.queue()
        for said in statements(entry.text)
        if said not in blocks.get(entry.speaker, "")
    ]
