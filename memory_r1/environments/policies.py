"""Policies to measure a trained one against: floors, and Belady's rule, which knows the future."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memory_r1.environments.streams import Stream
from memory_r1.environments.token_retention import TokenRetentionEnv
from memory_r1.systems.retention_policy import RetentionPolicy
from memory_r1.systems.token_slots import Decision, action_of

Policy = Callable[[TokenRetentionEnv], int]
Batch = Callable[[Sequence[TokenRetentionEnv]], Sequence[int]]
"""Decides for several environments at once."""


def fifo(env: TokenRetentionEnv) -> int:
    """Add every turn; the oldest gives way."""
    return _add(env, lambda slot: env.held[slot] or 0)


def lru(env: TokenRetentionEnv) -> int:
    """Add every turn; the one used longest ago gives way, where being added counts as a use."""
    return _add(env, lambda slot: env.used_at[slot])


def used_first(env: TokenRetentionEnv) -> int:
    """Add every turn; one that has answered its question gives way or, if there is none, the oldest.

    This rule knows that each question comes once, and nothing of what is said.
    """
    return _add(env, lambda slot: (env.uses[slot] == 0, env.held[slot]))


def at_random(seed: int) -> Policy:
    """Return a policy that adds every turn; a random one gives way."""
    rng = random.Random(seed)
    return lambda env: _add(env, lambda slot: rng.random())


def belady(env: TokenRetentionEnv) -> int:
    """Of the turns held and the incoming one, give up the one whose next question is farthest away.

    A turn given up cannot come back, so this is interval scheduling on K machines, and optimal where each turn is asked
    about once: whoever drops the turn that blocks its slot longest can only gain from what comes before its question
    (Belady, 1966; Faigle and Nawijn, 1995). Where turns are asked about several times, it is good but not a bound.
    """
    never = len(env.stream.embeddings)

    def next_question(turn: int) -> int:
        return min((step for step, about in env.stream.questions if about == turn and step >= env.now), default=never)

    if next_question(env.now) == never:
        return action_of(Decision.RETAIN, 0, env.slots)
    action = _add(env, lambda slot: -next_question(env.held[slot] or 0))
    leaving = env.held[(action - 1) % env.slots]
    if leaving is not None and next_question(leaving) < next_question(env.now):
        return action_of(Decision.RETAIN, 0, env.slots)
    return action


def trained(policy: RetentionPolicy) -> Batch:
    """Return the greedy decisions of a trained policy, on streams of projected embeddings."""

    def decide(envs: Sequence[TokenRetentionEnv]) -> list[int]:
        seen = [env.observe() for env in envs]
        return policy.act_projected({name: np.stack([one[name] for one in seen]) for name in seen[0]}).tolist()

    return decide


def each(policy: Policy) -> Batch:
    """Let a policy decide for one environment after the other."""
    return lambda envs: [policy(env) for env in envs]


def shares(decide: Batch, streams: Sequence[Stream], slots: int) -> list[float]:
    """Play every stream; return the share of each one's questions that was answered."""
    envs = [TokenRetentionEnv([stream], slots) for stream in streams]
    while playing := [env for env in envs if not env.done]:
        for env, action in zip(playing, decide(playing), strict=True):
            env.step(action)
    return [env.answered / len(env.stream.questions) for env in envs]


def _add(env: TokenRetentionEnv, worth: Callable[[int], Any]) -> int:
    """Add the turn in the first empty slot or, if there is none, in the first of the lowest worth."""
    slot = env.held.index(None) if None in env.held else min(range(env.slots), key=worth)
    return action_of(Decision.ADD, slot, env.slots)
