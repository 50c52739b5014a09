"""MEM1: one carried state of bounded length, rewritten after every few turns (Zhou et al., 2025).

What the model reads is the state and the turns since it was last rewritten; everything earlier is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

from memory_r1.agents.prompts import dialogue_lines
from memory_r1.errors import ConfigurationError
from memory_r1.memory.record import SESSION_END, Event, Record
from memory_r1.systems.banked import BankedSystem, OutdatedError, Proposal, reading_again, record_of
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.rules import ended, newest, sentences, statements
from memory_r1.systems.state import ScopeState
from memory_r1.systems.writer import Writer, Writing, WritingTask, object_of, texts_of, written_from
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn

LONGEST = 600
"""Characters of the state."""
STATE = WritingTask(
    "state",
    "Rewrite the state: add the facts of the dialogue with names, replace what has changed, and keep what still holds. "
    'Reply with JSON only: {"state": "Kim has a goat called Gus."} or {"state": ""}.',
    object_of({"state": {"type": "string", "maxLength": LONGEST}}),
    max_new_tokens=160,
)
NOTHING = "nothing yet"
CARRIED = "carried"
"""Marks the state's entry in the log."""


@dataclass(frozen=True)
class Mem1State(ScopeState):
    """A bank that holds the carried state, the entry with the id `carried`, and the turns not yet in it."""

    carried: int = 0

    def after(self, record: Record) -> Self:
        marked = [event.item for event in record.events if event.item and CARRIED in event.payload]
        return replace(super().after(record), carried=(marked or [self.carried])[-1])

    @property
    def state(self) -> MemoryEntry | None:
        """The carried state; None if there is none yet."""
        return self.bank.find(self.carried)

    @property
    def fresh(self) -> list[MemoryEntry]:
        """The turns since the state was last rewritten."""
        return [entry for entry in self.bank.entries() if entry.entry_id != self.carried]


class Mem1(BankedSystem):
    """Carries one state, rewritten after `block_turns` turns and at the end of a session.

    A question reads the state and the turns since; a budget drops the oldest of these first and the state last.

    Args:
        writer: Rewrites the state; by default the rules do, which keep the newest statements.
        block_turns: Turns read at once.
        count_tokens: As in `BankedSystem`.
        states: As in `BankedSystem`.

    Raises:
        ConfigurationError: `block_turns` is below 1.
    """

    name = "mem1"
    capabilities = frozenset({Capability.ENTRIES, Capability.EDITS})
    cut_rule = "oldest turn first, the state last"
    start: ClassVar[ScopeState] = Mem1State()

    def __init__(
        self,
        writer: Writer | None = None,
        *,
        block_turns: int = 4,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        if block_turns < 1:
            raise ConfigurationError(f"block_turns is {block_turns}: give the number of turns read at once, at least 1")
        super().__init__(count_tokens=count_tokens, states=states)
        self._writer = writer or Writer()
        self._block_turns = block_turns
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_WRITES}

    def state(self, scope: str) -> Mem1State:
        """Return what is remembered of a scope."""
        return cast(Mem1State, self._log.state(scope))

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        proposals: dict[int, Proposal] = {}
        full: dict[int, tuple[Mem1State, list[MemoryEntry]]] = {}
        for place, (turn, held) in enumerate(turns):
            state = cast(Mem1State, held)
            if not turn.text.strip():
                proposals[place] = Proposal()
            elif len(state.fresh) + 1 < self._block_turns:
                proposals[place] = Proposal((Operation(OperationKind.ADD, turn.text),))
            else:
                new = MemoryEntry(0, turn.text, turn.speaker, turn.timestamp, (turn.turn_id,))
                full[place] = state, [*state.fresh, new]
        proposals.update(zip(full, self._rewrite(list(full.values())), strict=True))
        return [proposals[place] for place in range(len(turns))]

    def _record(self, turn: Turn, proposal: Proposal, read: ScopeState, now: ScopeState) -> Record:
        """Refuse a rewriting as a whole if another writer has changed what it replaces, for a part would lose turns."""
        record = record_of(turn, proposal, read, now)
        if record.refusals:
            raise OutdatedError
        return record

    @reading_again
    def end_session(self, scope: str, now: str) -> None:
        read = self.state(scope)
        if read.ended:
            return
        (proposal,) = self._rewrite([(read, read.fresh)]) if read.fresh else [Proposal()]
        closing = Turn("", "", "", timestamp=now)

        def decide(held: ScopeState) -> Record:
            record = self._record(closing, proposal, read, held)
            return replace(record, turn=None, events=(Event(SESSION_END, payload={"now": now}), *record.events))

        self._log.write([(scope, decide)])

    def _rewrite(self, blocks: Sequence[tuple[Mem1State, list[MemoryEntry]]]) -> list[Proposal]:
        """Return for each state and block of turns what rewrites the state and drops the turns."""
        carried = [state.state.text if state.state else "" for state, _ in blocks]
        written = self._writer.write(
            STATE,
            [state_lines(block, text) for (_, block), text in zip(blocks, carried, strict=True)],
            [{"state": _by_rules(block, text)} for (_, block), text in zip(blocks, carried, strict=True)],
        )
        return [_proposal(state, block, writing) for (state, block), writing in zip(blocks, written, strict=True)]

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        states = [self.state(request.scope) for request in requests]
        return [(*([state.state] if state.state else ()), *reversed(state.fresh)) for state in states]

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        return tuple(sorted(kept, key=lambda entry: entry.entry_id))  # the state is older than the turns since

    def _with_derived(self, records: Sequence[Record], ids: set[int]) -> set[int]:
        """Add to a turn the state that was written from it, and to the state all turns that are in it."""
        versions = texts_of(records)
        states = {item for item, version in versions if CARRIED in version}.intersection(ids)
        sources = {turn_id for item, version in versions if item in states for turn_id in version["turn_ids"]}
        inside = {item for item, version in versions if sources.intersection(version["turn_ids"])}
        return written_from(records, inside.union(ids), {CARRIED})


def state_lines(block: Sequence[MemoryEntry], state: str) -> list[str]:
    """Return what a model reads to rewrite a state: the turns, then the state, which a small window never cuts."""
    return [*dialogue_lines(block), f"State: {state or NOTHING}"]


def _proposal(state: Mem1State, block: Sequence[MemoryEntry], writing: Writing) -> Proposal:
    text, old = writing.value["state"].strip(), state.state
    operations = [Operation(OperationKind.DELETE, entry_id=entry.entry_id) for entry in block if entry.entry_id]
    notes: dict[int, dict[str, Any]] = {}
    if text and (old is None or text != old.text):
        sources = [turn_id for entry in (*([old] if old else ()), *block) for turn_id in entry.source_turn_ids]
        notes[len(operations)] = {CARRIED: True, "speaker": "", "turn_ids": list(dict.fromkeys(sources))}
        kind = OperationKind.UPDATE if old else OperationKind.ADD
        operations.append(Operation(kind, text, old.entry_id if old else None))
    elif old and not text:
        operations.append(Operation(OperationKind.DELETE, entry_id=old.entry_id))
    return Proposal(tuple(operations), writing.record, notes)


def _by_rules(block: Sequence[MemoryEntry], state: str) -> str:
    told = [f"{entry.speaker}: {ended(said)}" for entry in block for said in statements(entry.text)]
    return newest([*sentences(state), *told], LONGEST)
