"""`token-retention`: a few turns are held, and a trained policy decides which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, cast

import numpy as np
from immutables import Map

from memory_r1.errors import ConfigurationError
from memory_r1.memory.record import Record
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.banked import Proposal
from memory_r1.systems.base import Capability, TokenCounter, approximate_tokens
from memory_r1.systems.retrieval import RetrievingSystem
from memory_r1.systems.state import ScopeState
from memory_r1.systems.token_slots import Decision, Observation, SlotPolicy, decode
from memory_r1.types import Operation, OperationKind, Turn


@dataclass(frozen=True)
class RetentionState(ScopeState):
    """A bank whose entries know when they were heard.

    Attributes:
        heard: The number of turns so far.
        heard_at: By entry id: the number of its turn, from 1.
    """

    heard: int = 0
    heard_at: Map[int, int] = field(default_factory=Map)

    def after(self, record: Record) -> Self:
        state = super().after(record)
        if record.turn is None:
            return state
        heard = self.heard + 1
        added = (event.item for event in record.events if event.kind == OperationKind.ADD)
        new = {item: heard for item in added if item is not None}
        return replace(state, heard=heard, heard_at=state.heard_at.update(new))


class TokenRetention(RetrievingSystem):
    """Holds at most `policy.slots` turns, which the policy chose, and recalls the best of them as `rag` does.

    The policy sees what it saw in training (`systems/token_slots.py`). A recall does not write, so it never counts as a
    use here: every slot shows 0 uses.
    """

    name = "token-retention"
    capabilities = frozenset({Capability.ENTRIES, Capability.EDITS})
    start: ClassVar[ScopeState] = RetentionState()

    def __init__(
        self,
        policy: SlotPolicy,
        retriever: Retriever,
        *,
        recall_per_speaker: int,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        """Take the encoder of the policy's observations from the retriever.

        Raises:
            ConfigurationError: The retriever has none.
        """
        super().__init__(retriever, recall_per_speaker=recall_per_speaker, count_tokens=count_tokens, states=states)
        if retriever.embedder is None:
            raise ConfigurationError("token-retention reads embeddings: give a retriever of mode 'hybrid' or 'dense'")
        self._policy, self._embedder = policy, retriever.embedder

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        states = [cast(RetentionState, state) for _, state in turns]
        texts = [turn.text for turn, _ in turns]
        held = [entry.text for state in states for entry in state.bank.entries()]
        rows = iter(self._embedder.embed([*texts, *held]))
        embedded = [next(rows) for _ in texts]
        return [
            self._proposal(turn, row, state, [next(rows) for _ in state.bank.entries()])
            for (turn, _), row, state in zip(turns, embedded, states, strict=True)
        ]

    def _proposal(self, turn: Turn, row: np.ndarray, state: RetentionState, held: list[np.ndarray]) -> Proposal:
        if not turn.text.strip():
            return Proposal()
        entries = state.bank.entries()
        observation = self._observation(
            row, held, [state.heard + 1 - state.heard_at[each.entry_id] for each in entries]
        )
        decision, slot = decode(self._policy.act(observation), len(observation["ages"]))
        operations = []
        if decision is not Decision.RETAIN and slot < len(entries):
            operations.append(Operation(OperationKind.DELETE, entry_id=entries[slot].entry_id))
        if decision is Decision.ADD:
            operations.append(Operation(OperationKind.ADD, turn.text))
        return Proposal(tuple(operations))

    def _observation(self, row: np.ndarray, held: Sequence[np.ndarray], ages: Sequence[int]) -> Observation:
        """Fill the first slots with what is held; a file may hold more turns than the policy has slots."""
        count = max(self._policy.slots, len(held))
        observation = {
            "turn": row,
            "slots": np.zeros((count, len(row)), dtype=np.float32),
            "ages": np.zeros(count, dtype=np.float32),
            "uses": np.zeros(count, dtype=np.float32),
        }
        observation["ages"][: len(held)] = ages
        if held:
            observation["slots"][: len(held)] = held
        return observation
