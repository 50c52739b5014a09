"""Profile: a notebook of what users said of themselves, kept across chats and read out whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, cast

from immutables import Map

from memory_r1.memory.record import Record
from memory_r1.systems.banked import BankedSystem, Proposal
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.rules import statements
from memory_r1.systems.state import ScopeState
from memory_r1.systems.writer import Writer, WritingTask, object_of
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn

MAX_FACTS = 4

FACTS = WritingTask(
    "facts",
    "List the lasting facts that the speaker of the last line states about themselves or others, each a short sentence "
    'with a name. Reply with JSON only: {"facts": ["Kim has a goat called Gus"]} or {"facts": []}.',
    object_of(
        {
            "facts": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 300},
                "maxItems": MAX_FACTS,
            }
        }
    ),
    max_new_tokens=64,
)


@dataclass(frozen=True)
class ProfileState(ScopeState):
    """A notebook; `noted` has the speaker and text of every note, so that a turn need not read them all."""

    noted: Map[tuple[str, str], None] = field(default_factory=Map)

    def after(self, record: Record) -> Self:
        state = super().after(record)
        new = [event.payload for event in record.events if event.kind == OperationKind.ADD]
        noted = state.noted.update({(note["speaker"], note["text"]): None for note in new})
        return replace(state, noted=noted)


class Profile(BankedSystem):
    """Notes the facts of each turn and recalls all notes for every question, oldest first; a budget cuts the oldest.

    The notebook is written and read, never thought about: what it holds decides neither what is noted next, except
    that no fact is noted twice, nor what is recalled. No later turn changes or removes a note.
    """

    name = "profile"
    cut_rule = "oldest first"
    start: ClassVar[ScopeState] = ProfileState()

    def __init__(
        self,
        writer: Writer | None = None,
        *,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        """Let `writer` find the facts; by default the rules do (`statements`)."""
        super().__init__(count_tokens=count_tokens, states=states)
        self._writer = writer or Writer()
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_WRITES}

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        spoken = [(turn, state) for turn, state in turns if turn.text.strip()]
        written = self._writer.write(
            FACTS,
            [[f"{said.speaker}: {said.text}" for said in (*state.previous(turn), turn)] for turn, state in spoken],
            [{"facts": statements(turn.text)[:MAX_FACTS]} for turn, _ in spoken],
        )
        found = iter(written)
        proposals = []
        for turn, state in turns:
            if not turn.text.strip():
                proposals.append(Proposal())
                continue
            writing = next(found)
            noted = cast(ProfileState, state).noted
            new = [fact for fact in dict.fromkeys(writing.value["facts"]) if (turn.speaker, fact) not in noted]
            operations = tuple(Operation(OperationKind.ADD, fact) for fact in new)
            proposals.append(Proposal(operations, writing.record))
        return proposals

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        return [tuple(reversed(self.entries(request.scope))) for request in requests]

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        return tuple(reversed(kept))
