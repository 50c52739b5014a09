"""Systems whose entries a Memory Manager writes: with all its operations, or with ADD alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from memory_r1.agents.memory_manager import Management, ManageRequest, MemoryManager
from memory_r1.memory.operations import CheckedOperation
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.banked import Draft, Proposal
from memory_r1.systems.base import Capability, Outcome, TokenCounter, approximate_tokens
from memory_r1.systems.retrieval import RetrievingSystem
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn


class ManagedMemory(RetrievingSystem):
    """Memory-R1: the Memory Manager reads every turn and its accepted operations edit the bank."""

    name = "memory-r1"
    capabilities = frozenset({Capability.ENTRIES, Capability.EDITS, Capability.MODEL_WRITES})

    def __init__(
        self,
        manager: MemoryManager,
        retriever: Retriever,
        *,
        top_k: int,
        count_tokens: TokenCounter = approximate_tokens,
    ) -> None:
        """`retriever` and `top_k` serve `recall`; what the manager is shown of the bank is its own affair."""
        super().__init__(retriever, top_k=top_k, count_tokens=count_tokens)
        self._manager = manager

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        requests = [
            ManageRequest(
                turn=turn,
                previous=state.previous(turn),
                bank=state.bank.view(),
                # Who speaks now is a speaker, announced or not; `note` makes that lasting once the turn is applied.
                speakers=tuple(dict.fromkeys([*state.speakers, turn.speaker])),
            )
            for turn, state in turns
        ]
        return [self._proposal(management) for management in self._manager.manage(requests)]

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        erased = super().forget(scope, ids)
        self._manager.retriever.clear()
        return erased

    def _proposal(self, management: Management) -> Proposal:
        checked, completion = management.checked, management.completion
        if checked.failure is not None:
            drafts: tuple[Draft, ...] = (
                Draft(
                    Outcome.PARSE_FAILURE,
                    reason=checked.failure.reason.value,
                    raw=completion.text,
                ),
            )
        else:
            drafts = tuple(self._draft(operation) for operation in checked.operations)
        return Proposal(
            drafts,
            completion.prompt_tokens,
            completion.completion_tokens,
            model_calls=1,
            cut=management.cut,
        )

    def _draft(self, checked: CheckedOperation) -> Draft:
        if checked.operation is None:
            reason = checked.refusal.value if checked.refusal else ""
            return Draft(
                Outcome.REFUSED,
                reason=reason,
                raw=json.dumps(checked.raw, ensure_ascii=False),
            )
        return Draft(Outcome.APPLIED, self._permitted(checked.operation), checked.operation.kind)

    def _permitted(self, operation: Operation) -> Operation:
        """Return what is done where the manager proposed `operation`."""
        return operation


class AddOnly(ManagedMemory):
    """The same manager and prompt, but an UPDATE adds its text beside the old entry and a DELETE does nothing.

    So a difference to `memory-r1` is what UPDATE and DELETE are worth.
    """

    name = "add-only"
    capabilities = frozenset({Capability.ENTRIES, Capability.MODEL_WRITES})

    def _permitted(self, operation: Operation) -> Operation:
        if operation.kind is OperationKind.UPDATE:
            return Operation(OperationKind.ADD, operation.text)
        return operation if operation.kind is OperationKind.ADD else Operation(OperationKind.NOOP)


class AddOnlyNewestFirst(AddOnly):
    """ADD-only that shows what it recalls newest first, so that an outdated entry stands below what replaced it."""

    name = "add-only-newest-first"

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        return tuple(sorted(kept, key=lambda entry: (entry.timestamp, entry.entry_id), reverse=True))
