"""Reward functions in TRL's signature, one theme a module, and the table a recipe names them by."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_r1.errors import ConfigurationError
from memory_r1.metrics import exact_match, f1_mem0, f1_squad
from memory_r1.training.answering import FrozenAnswering
from rewards.answers import AnswerReward
from rewards.formats import answer_format_reward, operation_format_reward
from rewards.outcome import OutcomeReward

RewardFunction = Callable[..., list[float | None]]

SCORES = {"answer_exact_match": exact_match, "answer_f1": f1_squad, "answer_f1_mem0": f1_mem0}
"""Scores of a final answer. For the Answer Agent it is the completion's; for the Memory Manager it is what the frozen
Answer Agent answers from the bank that the completion leaves."""
FORMATS: dict[str, dict[str, RewardFunction]] = {
    "manager": {"operation_format": operation_format_reward},
    "answer": {"answer_format": answer_format_reward},
}
REWARDS = {agent: (*SCORES, *formats) for agent, formats in FORMATS.items()}
"""Agent to the names a recipe may give in `reward_funcs`; `path/to/file.py:name` also works."""


@dataclass(frozen=True, slots=True)
class RewardContext:
    """What rewards are made from: the agent that is trained and, for the manager, who answers and what entries cost."""

    agent: str
    answering: FrozenAnswering | None = None
    entry_cost: float = 0.01


def check_rewards(names: Sequence[str], agent: str, *, has_answer_agent: bool) -> None:
    """Refuse what `build_rewards` could not build, before a model is loaded.

    Raises:
        ConfigurationError: No name is given, a name is unknown for this agent, a file is unusable, or the Answer Agent
            that a reward needs is missing.
    """
    allowed = f"allowed for the {agent} agent: {', '.join(REWARDS[agent])}, or path/to/file.py:name"
    if not names:
        raise ConfigurationError(f"reward_funcs is empty; {allowed}")
    for name in names:
        if ":" in name:
            _from_file(name)
        elif name not in REWARDS[agent]:
            raise ConfigurationError(f"reward_funcs: found '{name}', {allowed}")
        if name in SCORES and agent == "manager" and not has_answer_agent:
            raise ConfigurationError(
                f"reward_funcs: '{name}' needs a frozen Answer Agent; set answer_adapter to an adapter folder"
            )


def build_rewards(names: Sequence[str], context: RewardContext) -> list[RewardFunction]:
    """The reward functions that a recipe names, in order; raises as `check_rewards`."""
    check_rewards(names, context.agent, has_answer_agent=context.answering is not None)
    return [_build(name, context) for name in names]


def _build(name: str, context: RewardContext) -> RewardFunction:
    if ":" in name:
        return _from_file(name)
    if name in FORMATS[context.agent]:
        return FORMATS[context.agent][name]
    if context.answering is None:
        return AnswerReward(name, SCORES[name])
    return OutcomeReward(name, SCORES[name], context.answering, context.entry_cost)


def _from_file(name: str) -> RewardFunction:
    """Load `path/to/file.py:function`: the user's own code, run because the user's recipe names it."""
    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise ConfigurationError(f"reward_funcs: found '{name}', but {path} is no file; allowed: path/to/file.py:name")
    spec = importlib.util.spec_from_file_location(f"user_reward_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"reward_funcs: {path} is not a Python file")
    module: Any = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigurationError(f"reward_funcs: {path} is not valid Python: {error}") from error
    reward = getattr(module, function, None)
    if not callable(reward):
        raise ConfigurationError(f"reward_funcs: {path} has no function '{function}'")
    return reward
