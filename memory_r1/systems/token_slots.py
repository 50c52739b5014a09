"""A bounded token memory as a policy sees it: what it observes before a turn, and the actions it may take.

With K slots and embeddings of size E, an observation is a dict of float32 arrays:

- `turn` (E,): the embedding of the incoming turn,
- `slots` (K, E): the embeddings of the turns held, zero where a slot is empty,
- `ages` (K,): turns since each was heard, from 1; 0 where a slot is empty,
- `uses` (K,): questions that each has answered.

There are 1 + 2K actions: 0 *retains* the memory as it is and lets the turn go, 1 to K *discard* what a slot holds and
let the turn go too, and K + 1 to 2K *add* the turn in a slot, in place of what it holds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import numpy as np

Observation = dict[str, np.ndarray]


class Decision(StrEnum):
    """What a policy may do with its memory when a turn comes in."""

    RETAIN = "retain"
    DISCARD = "discard"
    ADD = "add"


class SlotPolicy(Protocol):
    """Decides which turns a bounded memory holds."""

    @property
    def slots(self) -> int:
        """The number of slots, K."""
        ...

    def act(self, observation: Observation) -> int:
        """Return an action. `turn` and `slots` hold whole embeddings of the encoder."""
        ...


def action_of(decision: Decision, slot: int, slots: int) -> int:
    """Return the number of an action on a slot (from 0); RETAIN has none and ignores it."""
    return {Decision.RETAIN: 0, Decision.DISCARD: 1 + slot, Decision.ADD: 1 + slots + slot}[decision]


def decode(action: int, slots: int) -> tuple[Decision, int]:
    """Return the decision and the slot (from 0) of an action; the slot of RETAIN is 0."""
    if action == 0:
        return Decision.RETAIN, 0
    decision = Decision.DISCARD if action <= slots else Decision.ADD
    return decision, (action - 1) % slots


def allowed_actions(ages: np.ndarray) -> np.ndarray:
    """Return which actions make sense: bool, (..., 1 + 2K) for `ages` (..., K).

    Only a filled slot can be discarded, and of the empty slots, which are all alike, only the first is added to.
    """
    empty = ages == 0  # (..., K)
    first_empty = empty & (np.cumsum(empty, axis=-1) == 1)
    always = np.ones((*ages.shape[:-1], 1), dtype=bool)
    return np.concatenate([always, ~empty, ~empty | first_empty], axis=-1)
