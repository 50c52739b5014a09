"""Systems whose entries a Memory Manager writes, with all its operations or with ADD alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from memory_r1.agents.memory_manager import Management, ManageRequest, MemoryManager
from memory_r1.memory.record import Record, Refusal
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.banked import Proposal
from memory_r1.systems.base import Capability, TokenCounter, approximate_tokens
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
        recall_per_speaker: int,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        """Recall for questions as the arguments say; the manager's own settings decide what it sees of the bank."""
        super().__init__(retriever, recall_per_speaker=recall_per_speaker, count_tokens=count_tokens, states=states)
        self._manager = manager

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        requests = [
            ManageRequest(
                turn=turn,
                previous=state.previous(turn),
                bank=state.bank.view(),
                # An unannounced speaker enters the state only once the turn is written.
                speakers=tuple(dict.fromkeys([*state.speakers, turn.speaker])),
            )
            for turn, state in turns
        ]
        return [self._proposal(management) for management in self._manager.manage(requests)]

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        try:
            return super().forget(scope, ids)
        finally:  # as in `RetrievingSystem`
            self._manager.retriever.clear()

    def _proposal(self, management: Management) -> Proposal:
        checked, completion = management.checked, management.completion
        proposed = checked.accepted
        done = tuple(self._permitted(operation) for operation in proposed)
        refusals = (
            Refusal(index, item.refusal.value, json.dumps(item.raw, ensure_ascii=False))
            for index, item in enumerate(checked.operations)
            if item.refusal is not None
        )
        record = Record(
            refusals=tuple(refusals),
            completion=completion.text,
            failure=checked.failure.reason.value if checked.failure else "",
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            model_calls=1,
            cut=management.cut,
        )
        notes = {
            place: {"instead_of": wrote.kind.value}
            for place, (wrote, does) in enumerate(zip(proposed, done, strict=True))
            if wrote.kind is not does.kind
        }
        return Proposal(done, record, notes)

    def _permitted(self, operation: Operation) -> Operation:
        """Return the operation to apply in place of a proposed one."""
        return operation


class PromptedManager(ManagedMemory):
    """An untrained manager, prompted with worked turns, as Mem0 is: what training has to beat."""

    name = "prompted-manager"


class AddOnly(ManagedMemory):
    """The same manager and prompt, but UPDATE adds its text beside the old entry and DELETE does nothing.

    The difference from `memory-r1` shows the value of UPDATE and DELETE.
    """

    name = "add-only"
    capabilities = frozenset({Capability.ENTRIES, Capability.MODEL_WRITES})

    def _permitted(self, operation: Operation) -> Operation:
        if operation.kind is OperationKind.UPDATE:
            return Operation(OperationKind.ADD, operation.text)
        return operation if operation.kind is OperationKind.ADD else Operation(OperationKind.NOOP)


class AddOnlyNewestFirst(AddOnly):
    """ADD-only with the recalled entries newest first, so that an outdated entry comes after its replacement."""

    name = "add-only-newest-first"

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        return tuple(sorted(kept, key=lambda entry: (entry.timestamp, entry.entry_id), reverse=True))
