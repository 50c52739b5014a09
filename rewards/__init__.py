"""Reward functions in TRL's signature, one theme per module, and the names that recipes use for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from memory_r1.errors import ConfigurationError
from memory_r1.inference.endpoint import Endpoint
from memory_r1.metrics import bleu1, exact_match, f1_mem0, f1_squad
from memory_r1.training.frozen_answering import BankRecall, FrozenAnswering
from rewards.answers import AnswerReward, Scorer, one_by_one
from rewards.evidence import EvidenceReward, precision_share, recall_share
from rewards.faithfulness import operation_faithfulness_reward
from rewards.formats import answer_format_reward, operation_format_reward
from rewards.length import LengthReward, compression_reward, memory_size_reward
from rewards.llm_judge import Judge
from rewards.outcome import EntryCost, OutcomeReward, by_answer, by_containment, by_likelihood

RewardFunction = Callable[..., list[float | None]]

SCORES = {
    "answer_exact_match": exact_match,
    "answer_f1": f1_squad,
    "answer_f1_mem0": f1_mem0,
    "answer_bleu1": bleu1,
}
"""Scores of a final answer: the Answer Agent's completion, or, for the Memory Manager, the frozen Answer Agent's answer
from the bank that the completion leaves."""
JUDGE, LENGTH = "llm_judge", "length"
CONTAINMENT, LIKELIHOOD = "answer_containment", "answer_likelihood"
OUTCOMES = {"manager": (*SCORES, JUDGE, CONTAINMENT, LIKELIHOOD), "answer": (*SCORES, JUDGE)}
"""Outcome rewards, by agent. The manager's dense ones need no decoding: whether the recalled memories hold the gold
answer, and how probable that answer is to the frozen Answer Agent."""
PLAIN: dict[str, dict[str, RewardFunction]] = {
    "manager": {
        "operation_format": operation_format_reward,
        "operation_faithfulness": operation_faithfulness_reward,
        "compression": compression_reward,
        "memory_size": memory_size_reward,
    },
    "answer": {
        "answer_format": answer_format_reward,
        "evidence_recall": EvidenceReward("evidence_recall", recall_share),
        "evidence_precision": EvidenceReward("evidence_precision", precision_share),
    },
}
"""Rewards by agent that read only the completion and its row, with no model."""
REWARDS = {agent: (*OUTCOMES[agent], *plain, LENGTH) for agent, plain in PLAIN.items()}
"""Names allowed in `reward_funcs`, by agent; `path/to/file.py:name` also works."""


@dataclass(frozen=True, slots=True)
class RewardContext:
    """Dependencies and settings of the rewards.

    Attributes:
        agent: The agent in training, "manager" or "answer".
        recall: Recalls from a manager's banks; a `FrozenAnswering` answers too.
        entry_cost: Cost of each live entry to a manager with an outcome reward; 0 turns it off.
        longest: Maximum completion length, in tokens.
        length_margin: Tokens before `longest` over which the length reward falls; default: a fifth of `longest`.
        judge: The server that grades answers.
    """

    agent: str
    recall: BankRecall | None = None
    entry_cost: float = 0.01
    longest: int = 256
    length_margin: int | None = None
    judge: Endpoint | None = None


def check_rewards(
    names: Sequence[str],
    agent: str,
    weights: Sequence[float] | None = None,
    *,
    has_answer_agent: bool,
    answers_locally: bool = True,
    has_judge: bool = False,
) -> None:
    """Check the arguments of `build_rewards` before any model is loaded.

    Raises:
        ConfigurationError: No name is given, the agent has no such reward, a file is unusable, a reward lacks its
            Answer Agent or judge, or the number of weights differs from the number of names.
    """
    allowed = f"allowed for the {agent} agent: {', '.join(REWARDS[agent])}, or path/to/file.py:name"
    if not names:
        raise ConfigurationError(f"reward_funcs is empty; {allowed}")
    for name in names:
        if ":" in name:
            _from_file(name)
        elif name not in REWARDS[agent]:
            raise ConfigurationError(f"reward_funcs: found '{name}', {allowed}")
        if name == JUDGE and not has_judge:
            raise ConfigurationError(f"reward_funcs: '{JUDGE}' needs a judge; set judge_model and judge_url")
        if name == LIKELIHOOD and not answers_locally:
            raise ConfigurationError(
                f"reward_funcs: '{name}' needs a local Answer Agent; set answer_adapter in place of answer_server"
            )
        needs_answers = name in OUTCOMES[agent] and name != CONTAINMENT
        if needs_answers and agent == "manager" and not has_answer_agent:
            raise ConfigurationError(
                f"reward_funcs: '{name}' needs a frozen Answer Agent; set answer_adapter to an adapter or to base"
            )
    if weights is not None and len(weights) != len(names):
        raise ConfigurationError(
            f"reward_weights: found {len(weights)}, allowed: one for each of the {len(names)} reward_funcs"
        )


def build_rewards(
    names: Sequence[str], context: RewardContext, weights: Sequence[float] | None = None
) -> tuple[list[RewardFunction], list[float]]:
    """Return the named reward functions in order, and their weights; raise like `check_rewards`.

    If a manager has outcome rewards and entries cost something, `EntryCost` is appended with weight 1.
    """
    has_answer_agent, has_judge = isinstance(context.recall, FrozenAnswering), context.judge is not None
    check_rewards(names, context.agent, weights, has_answer_agent=has_answer_agent, has_judge=has_judge)
    functions = [_build(name, context) for name in names]
    each = list(weights) if weights is not None else [1.0] * len(functions)
    outcomes = [function for function in functions if isinstance(function, OutcomeReward)]
    if outcomes and context.entry_cost > 0:
        return [*functions, EntryCost(context.entry_cost, outcomes)], [*each, 1.0]
    return functions, each


def _build(name: str, context: RewardContext) -> RewardFunction:
    if ":" in name:
        return _from_file(name)
    if name == LENGTH:
        return LengthReward(context.longest, context.length_margin or max(1, context.longest // 5))
    if name in PLAIN[context.agent]:
        return PLAIN[context.agent][name]
    if name == CONTAINMENT and context.recall is not None:
        return OutcomeReward(name, by_containment(context.recall))
    if name == LIKELIHOOD and isinstance(context.recall, FrozenAnswering):
        return OutcomeReward(name, by_likelihood(context.recall))
    scorer: Scorer = Judge(context.judge) if name == JUDGE and context.judge else one_by_one(SCORES[name])
    if isinstance(context.recall, FrozenAnswering):
        return OutcomeReward(name, by_answer(context.recall, scorer))
    return AnswerReward(name, scorer)


def _from_file(name: str) -> RewardFunction:
    """Load `path/to/file.py:function`; this runs the user's own code because the user's recipe names it."""
    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise ConfigurationError(f"reward_funcs: found '{name}', but {path} is no file; use path/to/file.py:name")
    reward = getattr(_module(Path(path).resolve()), function, None)
    if not callable(reward):
        raise ConfigurationError(f"reward_funcs: {path} has no function '{function}'")
    return reward


@cache  # check_rewards and build_rewards both load it; execute it once
def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"user_reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"reward_funcs: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code may raise anything; report it in one line
        raise ConfigurationError(f"reward_funcs: {path} cannot be loaded ({type(error).__name__}: {error})") from error
    return module
