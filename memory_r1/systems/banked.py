"""Systems whose memory is one bank of entries per scope; subclasses decide what to store and how to rank it."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from memory_r1.agents.prompts import memory_line
from memory_r1.errors import StoreError
from memory_r1.memory.list_log import ListLog
from memory_r1.memory.log import Log
from memory_r1.memory.operations import RefusalReason
from memory_r1.memory.record import SESSION_END, SPEAKERS, Event, Record, Refusal
from memory_r1.memory.sqlite_log import SqliteLog, save_log
from memory_r1.systems.base import (
    Capability,
    MemorySystem,
    RecallRequest,
    TokenCounter,
    approximate_tokens,
    check_scope,
)
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Operation, Recall, Turn

# Entries are measured as rendered in the Answer Agent's prompt, where numbers rarely exceed three digits.
_LONGEST_NUMBER = 999

P = ParamSpec("P")
R = TypeVar("R")


class OutdatedError(Exception):
    """What a model has read is erased or replaced, so that nothing it wrote may be stored; raised while writing."""


def reading_again(write: Callable[P, R]) -> Callable[P, R]:
    """Call a function that reads, asks a model and writes once more if what it read is gone before it writes."""

    @wraps(write)
    def until_written(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:  # each time another `forget` came between
            try:
                return write(*args, **kwargs)
            except OutdatedError:
                continue

    return until_written


def check_not_erased(read: ScopeState, now: ScopeState) -> None:
    """Raise an `OutdatedError` if `forget` has erased anything since a model read the state `read`."""
    if now.erased_since(read):
        raise OutdatedError


@dataclass(frozen=True, slots=True)
class Proposal:
    """A system's decision about one turn.

    Attributes:
        operations: The operations to apply, in order, with bank ids.
        record: The record so far: costs, refusals, and events that are no operations, without the turn.
        notes: Maps an index of `operations` to what its event says beside the entry's new version.
        tensors: Maps an index of `operations` to the tensor of its event, as safetensors bytes.
    """

    operations: tuple[Operation, ...] = ()
    record: Record = field(default_factory=Record)
    notes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    tensors: Mapping[int, bytes] = field(default_factory=dict)


class BankedSystem(MemorySystem):
    """A system on a `MemoryBank`; subclasses decide what to write (`_propose`) and what to recall (`_rank`)."""

    capabilities = frozenset({Capability.ENTRIES})
    start: ClassVar[ScopeState] = ScopeState()
    """The state of a scope before its first record."""

    def __init__(
        self, *, count_tokens: TokenCounter = approximate_tokens, states: Mapping[str, ScopeState] | None = None
    ) -> None:
        """Start empty, with a log in memory.

        Args:
            count_tokens: Measures texts for `budget_tokens`, preferably with the Answer Agent's tokenizer.
            states: Scopes that start from a given state, such as a rollout's branches.
        """
        self._count_tokens = lru_cache(maxsize=65_536)(count_tokens)
        self._log: Log[ScopeState] = ListLog(self.start, states)

    @abstractmethod
    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        """Decide what to do about one turn of each of several scopes."""

    def _record(self, turn: Turn, proposal: Proposal, read: ScopeState, now: ScopeState) -> Record:
        """Return the record of a proposal, made on the state `read`, for the state `now`; this calls no model."""
        return record_of(turn, proposal, read, now)

    @abstractmethod
    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        """Return the entries to recall for each request; a budget drops them from the end."""

    def _rank_at_a_cost(
        self, requests: Sequence[RecallRequest]
    ) -> list[tuple[tuple[MemoryEntry, ...], Mapping[str, float]]]:
        """Rank, and return with each ranking what a model's help with it cost, for `Recall.usage`."""
        return [(ranked, {}) for ranked in self._rank(requests)]

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        """Order the kept entries for the prompt; by default best first."""
        return kept

    def begin(self, scope: str, speakers: Sequence[str]) -> None:
        if not {*speakers} <= {*self._log.state(scope).speakers}:
            record = Record(events=(Event(SPEAKERS, payload={"names": list(speakers)}),))
            self._log.write([(scope, lambda _: record)])

    def observe(self, turn: Turn, scope: str) -> Record:
        return self.observe_many([(turn, scope)])[0]

    def observe_many(self, observations: Sequence[tuple[Turn, str]]) -> list[Record]:
        """Read the turns in waves: the first turn of every scope, then the second of every scope, and so on.

        Each wave is one transaction. If another writer changed an entry since the wave was read, the operation on it is
        refused as a conflict. If something of a scope was forgotten since, its wave is read again.
        """
        waves: dict[int, list[int]] = {}
        seen: dict[str, int] = {}
        for position, (_, scope) in enumerate(observations):
            wave = seen.get(check_scope(scope), 0)
            seen[scope] = wave + 1
            waves.setdefault(wave, []).append(position)
        records: dict[int, Record] = {}
        for positions in waves.values():
            written = self._observe_wave([observations[position] for position in positions])
            records.update(zip(positions, written, strict=True))
        return [records[position] for position in range(len(observations))]

    @reading_again
    def _observe_wave(self, wave: Sequence[tuple[Turn, str]]) -> list[Record]:
        read = [(turn, self._log.state(scope)) for turn, scope in wave]
        decisions = [
            (scope, partial(self._record, turn, proposal, before))
            for (turn, scope), (_, before), proposal in zip(wave, read, self._propose(read), strict=True)
        ]
        return self._log.write(decisions)

    def end_session(self, scope: str, now: str) -> None:
        if not self._log.state(scope).ended:
            record = Record(events=(Event(SESSION_END, payload={"now": now}),))
            self._log.write([(scope, lambda _: record)])

    def recall(self, query: str, scope: str, now: str = "", budget_tokens: int | None = None) -> Recall:
        return self.recall_many([RecallRequest(query, scope, now, budget_tokens)])[0]

    def recall_many(self, requests: Sequence[RecallRequest]) -> list[Recall]:
        for request in requests:
            check_scope(request.scope)
        recalls = []
        for request, (entries, cost) in zip(requests, self._rank_at_a_cost(requests), strict=True):
            recall = self._within_budget(entries, request.budget_tokens)
            recalls.append(replace(recall, usage={**recall.usage, **cost}, scope=request.scope))
        return recalls

    def _within_budget(self, ranked: tuple[MemoryEntry, ...], budget_tokens: int | None) -> Recall:
        """Keep leading entries until the next one would exceed the budget."""
        kept = tokens = 0
        for entry in ranked:
            cost = self.prompt_cost(entry)
            if budget_tokens is not None and tokens + cost > budget_tokens:
                break
            kept += 1
            tokens += cost
        return Recall(
            self._arrange(ranked[:kept]),
            usage={"tokens": tokens, "cut": len(ranked) - kept},
        )

    def prompt_cost(self, entry: MemoryEntry) -> int:
        """Return the tokens that an entry takes in the Answer Agent's prompt."""
        return self._count_tokens(memory_line(_LONGEST_NUMBER, entry) + "\n")

    def speakers(self, scope: str) -> tuple[str, ...]:
        """Return the speakers announced or heard in `scope`."""
        return self._log.state(scope).speakers

    def entries(self, scope: str) -> tuple[MemoryEntry, ...]:
        return self._log.state(scope).bank.entries()

    def records(self, scope: str) -> tuple[Record, ...]:
        return self._log.records(scope)

    @property
    def log(self) -> Log[ScopeState]:
        """The log of all scopes."""
        return self._log

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        """Erase a scope, or some of its entries with the text of their turns and what was written from these.

        Raises:
            StoreError: An id belongs to no entry of this scope, live or deleted.
        """
        return self._log.forget(scope, ids, self._with_derived)

    def _with_derived(self, records: Sequence[Record], ids: set[int]) -> set[int]:
        """Return the ids of entries with those of the entries to erase along with them."""
        return ids

    def save(self, path: Path | str) -> None:
        save_log(self._log, path, system=self.name)

    def load(self, path: Path | str, *, create: bool = False) -> None:
        if not create and not Path(path).is_file():
            raise StoreError(f"{path} is missing; give the path of a saved memory system")
        if not create and not Path(path).stat().st_size:
            raise StoreError(f"{path} is empty; give the path of a saved memory system")
        opened = SqliteLog(path, self.start, system=self.name)
        self._log.close()
        self._log = opened


def record_of(turn: Turn, proposal: Proposal, read: ScopeState, now: ScopeState) -> Record:
    """Return the record of a proposal, made on the state `read`, for the state `now`.

    Raises:
        OutdatedError: Something of the scope was forgotten in between; the proposal may quote it.
    """
    check_not_erased(read, now)
    bank, events = now.bank.view(), []
    refusals = list(proposal.record.refusals)
    refused = {refusal.index for refusal in refusals}
    places = (place for place in range(len(proposal.operations) + len(refused)) if place not in refused)
    for number, (place, operation) in enumerate(zip(places, proposal.operations, strict=True)):
        named = operation.over if operation.entry_id is None else (operation.entry_id,)
        changed = next((target for target in named if now.bank.find(target) != read.bank.find(target)), None)
        if changed is not None:
            raw = json.dumps({"op": operation.kind, "entry": changed, "text": operation.text}, ensure_ascii=False)
            refusals.append(Refusal(place, RefusalReason.CONFLICT.value, raw))
            continue
        event = bank.event(operation, turn)
        payload = {**event.payload, **proposal.notes.get(number, {})}
        event = bank.shortened(replace(event, payload=payload, tensor=proposal.tensors.get(number)))
        bank.play(event)
        events.append(event)
    ordered = tuple(sorted(refusals, key=lambda refusal: refusal.index))
    return replace(proposal.record, turn=turn, events=(*events, *proposal.record.events), refusals=ordered)
