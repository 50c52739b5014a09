"""Systems whose memory is one bank of entries per scope: what they store and how they rank it is left open."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from memory_r1.agents.prompts import memory_line
from memory_r1.errors import StoreError
from memory_r1.memory.bank import MemoryBank
from memory_r1.systems.base import (
    Capability,
    MemorySystem,
    OperationRecord,
    Outcome,
    RecallRequest,
    TokenCounter,
    approximate_tokens,
    check_scope,
)
from memory_r1.systems.state import (
    ScopeState,
    state_from_json,
    state_to_json,
    write_whole,
)
from memory_r1.types import MemoryEntry, Operation, OperationKind, Recall, Turn

_FORMAT, _VERSION = "memory_r1.system", 2
# An entry is measured as it stands in the Answer Agent's prompt, where its number has three digits at most as a rule.
_LONGEST_NUMBER = 999


@dataclass(frozen=True, slots=True)
class Draft:
    """One line of the log before it is applied: an operation with bank ids, or why there is none."""

    outcome: Outcome
    operation: Operation | None = None
    proposed: OperationKind | None = None
    reason: str = ""
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """All a system wants to do about one turn, and what deciding it cost."""

    drafts: tuple[Draft, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    cut: int = 0


class BankedSystem(MemorySystem):
    """A system over `MemoryBank`; subclasses say what to write (`_propose`) and what to recall (`_rank`)."""

    capabilities = frozenset({Capability.ENTRIES})

    def __init__(self, *, count_tokens: TokenCounter = approximate_tokens) -> None:
        """`count_tokens` measures texts for `budget_tokens`: the Answer Agent's tokenizer, where there is one."""
        self._count_tokens = lru_cache(maxsize=65_536)(count_tokens)
        self._scopes: dict[str, ScopeState] = {}

    @abstractmethod
    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        """Decide what to do about one turn of each of several scopes."""

    @abstractmethod
    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        """Return the entries to recall for each request, the one to keep longest under a budget first."""

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        """Put what the budget left into the order of the prompt; by default best first."""
        return kept

    def begin(self, scope: str, speakers: Sequence[str]) -> None:
        state = self._state(scope)
        state.speakers.extend(speaker for speaker in speakers if speaker not in state.speakers)

    def observe(self, turn: Turn, scope: str) -> tuple[OperationRecord, ...]:
        return self.observe_many([(turn, scope)])[0]

    def observe_many(self, observations: Sequence[tuple[Turn, str]]) -> list[tuple[OperationRecord, ...]]:
        """Read the turns in waves: the first of every scope together, then the second, and so on."""
        waves: dict[int, list[int]] = {}
        seen: dict[str, int] = {}
        for position, (_, scope) in enumerate(observations):
            wave = seen.get(check_scope(scope), 0)
            seen[scope] = wave + 1
            waves.setdefault(wave, []).append(position)
        results: dict[int, tuple[OperationRecord, ...]] = {}
        for positions in waves.values():
            pairs = [(observations[position][0], self._state(observations[position][1])) for position in positions]
            for position, proposal in zip(positions, self._propose(pairs), strict=True):
                results[position] = self._commit(*observations[position], proposal)
        return [results[position] for position in range(len(observations))]

    def replay(self, turn: Turn, scope: str, records: Sequence[OperationRecord]) -> None:
        """Redo a turn from its records.

        Raises:
            StoreError: The records are not this turn's, or lead to other entry ids than they did.
        """
        state = self._state(scope)
        bank = state.bank.view()
        for record in records:
            if (record.scope, record.turn_id) != (scope, turn.turn_id):
                raise StoreError(
                    f"a record of turn {record.turn_id!r} in scope {record.scope!r} was to be replayed "
                    f"as turn {turn.turn_id!r} in scope {scope!r}"
                )
            if record.outcome is not Outcome.APPLIED or record.kind is None:
                continue
            entry_id = None if record.kind is OperationKind.ADD else record.entry_id
            given = _apply(bank, Operation(record.kind, record.text, entry_id), turn)
            if given != record.entry_id:
                raise StoreError(
                    f"replaying turn {turn.turn_id!r} gave entry {given}, its record says {record.entry_id}: "
                    "records are missing or out of order"
                )
        state.bank = bank
        state.log.extend(records)
        state.note(turn)

    def _commit(self, turn: Turn, scope: str, proposal: Proposal) -> tuple[OperationRecord, ...]:
        """Apply a proposal whole or not at all, and log it."""
        state = self._scopes[scope]
        bank = state.bank.view()
        drafts = proposal.drafts or (Draft(Outcome.EMPTY),)
        records = []
        for index, draft in enumerate(drafts):
            record = OperationRecord(
                scope,
                turn.turn_id,
                index,
                len(drafts),
                draft.outcome,
                reason=draft.reason,
                raw=draft.raw,
            )
            if draft.operation is not None:
                record = replace(
                    record,
                    kind=draft.operation.kind,
                    proposed=draft.proposed,
                    text=draft.operation.text,
                    entry_id=_apply(bank, draft.operation, turn),
                )
            records.append(record)
        records[0] = replace(
            records[0],
            prompt_tokens=proposal.prompt_tokens,
            completion_tokens=proposal.completion_tokens,
            model_calls=proposal.model_calls,
            cut=proposal.cut,
        )
        state.bank = bank
        state.log.extend(records)
        state.note(turn)
        return tuple(records)

    def end_session(self, scope: str, now: str) -> None:
        self._state(scope).recent.clear()

    def recall(self, query: str, scope: str, now: str = "", budget_tokens: int | None = None) -> Recall:
        return self.recall_many([RecallRequest(query, scope, now, budget_tokens)])[0]

    def recall_many(self, requests: Sequence[RecallRequest]) -> list[Recall]:
        for request in requests:
            check_scope(request.scope)
        ranked = self._rank(requests)
        return [
            self._within_budget(entries, request.budget_tokens)
            for entries, request in zip(ranked, requests, strict=True)
        ]

    def _within_budget(self, ranked: tuple[MemoryEntry, ...], budget_tokens: int | None) -> Recall:
        """Keep entries from the first on until the next would exceed the budget."""
        kept = tokens = 0
        for entry in ranked:
            cost = self._count_tokens(memory_line(_LONGEST_NUMBER, entry) + "\n")
            if budget_tokens is not None and tokens + cost > budget_tokens:
                break
            kept += 1
            tokens += cost
        return Recall(
            self._arrange(ranked[:kept]),
            usage={"tokens": tokens, "cut": len(ranked) - kept},
        )

    def speakers(self, scope: str) -> tuple[str, ...]:
        """Return who speaks in `scope`, as far as announced or heard."""
        state = self._scopes.get(check_scope(scope))
        return tuple(state.speakers) if state else ()

    def entries(self, scope: str) -> tuple[MemoryEntry, ...]:
        state = self._scopes.get(check_scope(scope))
        return state.bank.entries() if state else ()

    def operations(self, scope: str) -> tuple[OperationRecord, ...]:
        state = self._scopes.get(check_scope(scope))
        return tuple(state.log) if state else ()

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        """Erase a scope, or entries of it with the texts that the log and the running session hold of them.

        Raises:
            StoreError: An id is none of this scope's entries, live or deleted.
        """
        state = self._scopes.get(check_scope(scope), ScopeState())
        if ids is None:
            self._scopes.pop(scope, None)
            return len(state.bank)
        gone = set(ids)
        unknown = gone.difference(record.entry_id for record in state.log if record.entry_id is not None)
        if unknown:
            raise StoreError(f"scope {scope!r} never held the entries {sorted(unknown)}; see entries() for its ids")
        live = state.bank.entries()
        sources = {record.turn_id for record in state.log if record.entry_id in gone}
        kept = [entry for entry in live if entry.entry_id not in gone]
        state.bank = MemoryBank(kept, highest_id=state.bank.highest_id)
        state.log = [_redacted(record, gone, sources) for record in state.log]
        state.recent = [turn for turn in state.recent if turn.turn_id not in sources]
        return len(live) - len(kept)

    def save(self, path: Path | str) -> None:
        scopes = {scope: state_to_json(state) for scope, state in self._scopes.items()}
        payload = {
            "format": _FORMAT,
            "version": _VERSION,
            "system": self.name,
            "scopes": scopes,
        }
        write_whole(Path(path), json.dumps(payload, ensure_ascii=False))

    def load(self, path: Path | str) -> None:
        try:
            payload = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read as a saved memory system: {error}") from error
        if not isinstance(payload, dict) or (
            payload.get("format"),
            payload.get("version"),
        ) != (_FORMAT, _VERSION):
            raise StoreError(f"{path} is not a saved memory system of version {_VERSION}")
        if payload.get("system") != self.name:
            raise StoreError(
                f"{path} was saved by system {payload.get('system')!r}; load it into that, not {self.name}"
            )
        try:
            self._scopes = {scope: state_from_json(fields) for scope, fields in payload["scopes"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path} is a damaged saved memory system: {error}") from error

    def _state(self, scope: str) -> ScopeState:
        return self._scopes.setdefault(check_scope(scope), ScopeState())


def _apply(bank: MemoryBank, operation: Operation, turn: Turn) -> int | None:
    """Apply one operation and return the id of the entry it made, changed or removed."""
    touched = bank.apply([operation], turn)
    return touched[0].entry_id if touched else operation.entry_id


def _redacted(record: OperationRecord, entry_ids: set[int], turn_ids: set[str]) -> OperationRecord:
    """Return the record without the text of forgotten entries, nor what the manager wrote on the turns behind them."""
    if record.entry_id in entry_ids:
        return replace(record, text=None, raw="", reason="forgotten")
    return replace(record, raw="") if record.turn_id in turn_ids else record
