"""The memory system behind `Memory`: Memory-R1 with guards, sessions, and one transaction for all turns of a call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Self, cast

from immutables import Map

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.assistant.guards import Guards
from memory_r1.assistant.ids import new_key
from memory_r1.memory.log import Log
from memory_r1.memory.record import ID_KEY, SESSION_END, Event, Record, Refusal
from memory_r1.systems.banked import Proposal, reading_again, record_of
from memory_r1.systems.base import TokenCounter
from memory_r1.systems.manager import ManagedMemory
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn


@dataclass(frozen=True, slots=True)
class Said(Turn):
    """A turn with what the caller adds to it.

    Attributes:
        metadata: Kept with the memories that come of the turn.
        verbatim: Store the turn as it is, without asking the model.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    verbatim: bool = False


@dataclass(frozen=True)
class AssistantState(ScopeState):
    """What `Memory` knows of a user beside the bank.

    Attributes:
        key: Key of the public ids; empty until the first write.
        sessions: Number of the current session, from 1.
        said_at: Time of the last turn.
        deletions: The model's deletions in the current session that stand.
        created: By entry: the time of its first version.
        metadata: By entry: the caller's metadata.
    """

    key: str = ""
    sessions: int = 1
    said_at: str = ""
    deletions: int = 0
    created: Map[int, str] = field(default_factory=Map)
    metadata: Map[int, Mapping[str, Any]] = field(default_factory=Map)

    def after(self, record: Record) -> Self:
        state = super().after(record)
        key, sessions, deletions, created, metadata = (
            self.key,
            self.sessions,
            self.deletions,
            self.created,
            self.metadata,
        )
        for event in record.events:
            if event.kind == ID_KEY:
                key = key or event.payload["key"]
            elif event.kind == SESSION_END:
                sessions, deletions = sessions + 1, 0
            elif event.kind == OperationKind.DELETE and record.turn is not None:
                deletions += 1
            elif event.item is not None and event.kind in (OperationKind.ADD, OperationKind.UPDATE):
                created = created.set(event.item, created.get(event.item, event.payload["timestamp"]))
                more = event.payload.get("metadata", {})
                metadata = metadata.set(event.item, {**metadata.get(event.item, {}), **more})
        said_at = record.turn.timestamp if record.turn is not None else self.said_at
        return replace(
            state, key=key, sessions=sessions, said_at=said_at, deletions=deletions, created=created, metadata=metadata
        )


def key_of(log: Log[AssistantState], scope: str) -> str:
    """Return the key of the ids of a scope; make it if the scope has none yet."""
    if not log.state(scope).key:
        record = Record(events=(Event(ID_KEY, payload={"key": new_key()}),))
        log.write([(scope, lambda _: record)])  # if another process was quicker, its key stays
    return log.state(scope).key


@dataclass(frozen=True, slots=True)
class Written:
    """The record of a turn, and the bank's state before it."""

    record: Record
    before: ScopeState


class GuardedMemory(ManagedMemory):
    """Memory-R1 behind guards; its files are those of `memory-r1`."""

    start = AssistantState()

    def __init__(
        self, manager: MemoryManager, guards: Guards, *, recall_per_speaker: int, count_tokens: TokenCounter
    ) -> None:
        super().__init__(manager, manager.retriever, recall_per_speaker=recall_per_speaker, count_tokens=count_tokens)
        self._guards = guards

    @property
    def assistant_log(self) -> Log[AssistantState]:
        """The log, whose states are all `AssistantState`s, since it starts from one."""
        return cast("Log[AssistantState]", self._log)

    def observe_many(self, observations: Sequence[tuple[Turn, str]]) -> list[Record]:
        """Read the turns in one transaction: all are stored, or none."""
        return [written.record for written in self.write_turns(observations)]

    @reading_again
    def write_turns(self, observations: Sequence[tuple[Turn, str]]) -> list[Written]:
        """Read the turns as `observe_many` does; return each record with the state before it.

        The model reads the turns in waves, the first turn of every scope together, on states that nobody else sees.
        """
        states = {scope: self._log.state(scope) for _, scope in observations}
        proposals: dict[int, tuple[Proposal, ScopeState]] = {}
        while len(proposals) < len(observations):
            wave: dict[str, int] = {}
            for place, (_, scope) in enumerate(observations):
                if place not in proposals:
                    wave.setdefault(scope, place)
            read = [(observations[place][0], states[scope]) for scope, place in wave.items()]
            for (scope, place), (turn, state), proposal in zip(wave.items(), read, self._propose(read), strict=True):
                proposals[place] = (proposal, state)
                states[scope] = state.after(record_of(turn, proposal, state, state))
        befores: list[ScopeState] = []

        def decide(turn: Turn, proposal: Proposal, read: ScopeState, now: ScopeState) -> Record:
            befores.append(now)
            if now is not read:  # guard it again, since another writer may have used up a limit or stored the text
                proposal = self._guarded(turn, now, proposal)
            return record_of(turn, proposal, read, now)

        records = self._log.write(
            [(scope, partial(decide, turn, *proposals[place])) for place, (turn, scope) in enumerate(observations)]
        )
        return [Written(record, before) for record, before in zip(records, befores, strict=True)]

    def search(self, query: str, scope: str, limit: int) -> list[tuple[MemoryEntry, float | None]]:
        """Return the `limit` best entries, best first, each with its cosine similarity (None without an embedder)."""
        entries = self.entries(scope)
        if not entries:
            return []
        self._remember_embeddings(scope)
        found = self._retriever.retrieve(query, entries, limit)
        self._keep_embeddings(scope, entries)
        embedder = self._retriever.embedder
        if embedder is None or not found:
            return [(entry, None) for entry in found]
        rows = embedder.embed([query, *(f"{entry.speaker}: {entry.text}" for entry in found)])  # (1 + K, E)
        return [(entry, float(row @ rows[0])) for entry, row in zip(found, rows[1:], strict=True)]

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        asked = [(turn, state) for turn, state in turns if not _is_verbatim(turn)]
        managed = iter(super()._propose(asked) if asked else ())
        return [
            self._guarded(turn, state, _as_it_is(turn) if _is_verbatim(turn) else next(managed))
            for turn, state in turns
        ]

    def _guarded(self, turn: Turn, state: ScopeState, proposal: Proposal) -> Proposal:
        """Return a proposal without the operations that a guard refuses."""
        taken = {refusal.index for refusal in proposal.record.refusals}
        places = (place for place in count() if place not in taken)
        refusals, kept = list(proposal.record.refusals), list[Operation]()
        deletions = state.deletions if isinstance(state, AssistantState) else 0
        for place, proposed in zip(places, proposal.operations, strict=False):
            operation = self._guards.operation(proposed)
            objection = self._guards.objection(operation, kept, deletions, state.bank.entries())
            if objection is None:
                kept.append(operation)
                continue
            reason, echoed = objection
            named = echoed if echoed is not None else operation.entry_id
            raw = json.dumps({"op": operation.kind, "entry": named, "text": operation.text}, ensure_ascii=False)
            refusals.append(Refusal(place, reason.value, raw))
        metadata = dict(turn.metadata) if isinstance(turn, Said) else {}
        changed = (OperationKind.ADD, OperationKind.UPDATE)
        notes = {
            number: {"metadata": metadata}
            for number, operation in enumerate(kept)
            if metadata and operation.kind in changed
        }
        return Proposal(tuple(kept), replace(proposal.record, refusals=tuple(refusals)), notes)


def _is_verbatim(turn: Turn) -> bool:
    return isinstance(turn, Said) and turn.verbatim


def _as_it_is(turn: Turn) -> Proposal:
    return Proposal((Operation(OperationKind.ADD, turn.text),))
