"""Rewards by name, and errors for unknown names."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.errors import ConfigurationError
from memory_r1.inference.endpoint import Endpoint
from memory_r1.memory.retriever import Retriever
from memory_r1.training.frozen_answering import FrozenAnswering
from rewards import OUTCOMES, REWARDS, RewardContext, build_rewards, check_rewards
from rewards.answers import AnswerReward
from rewards.length import LengthReward
from rewards.llm_judge import Judge
from rewards.outcome import OutcomeReward
from tests.fakes import ScriptedLanguageModel

FIXTURE = Path(__file__).parents[1] / "fixtures" / "length_reward.py"


def context(agent: str, entry_cost: float = 0.25) -> RewardContext:
    frozen = FrozenAnswering(AnswerAgent(ScriptedLanguageModel()), Retriever(None, "bm25"), 2)
    judge = Endpoint("http://127.0.0.1:9/v1", "judge")
    return RewardContext(agent, frozen if agent == "manager" else None, entry_cost, longest=40, judge=judge)


@pytest.mark.parametrize(("agent", "kind"), [("manager", OutcomeReward), ("answer", AnswerReward)])
def test_every_name_is_built_in_order_and_logged_under_that_name(agent: str, kind: type) -> None:
    names = REWARDS[agent]
    check_rewards(names, agent, has_answer_agent=agent == "manager", has_judge=True)
    built, weights = build_rewards(names, context(agent, entry_cost=0.0))
    assert weights == [1.0] * len(names)
    logged = [function.__name__.removesuffix("_reward") for function in built]
    assert logged == list(names)
    scores = [function for function, name in zip(built, names, strict=True) if name in OUTCOMES[agent]]
    assert len(scores) == len(OUTCOMES[agent]) >= 5
    assert all(isinstance(function, kind) for function in scores)
    if agent == "answer":
        assert isinstance(scores[-1].scorer, Judge)


@pytest.mark.parametrize(("margin", "expected"), [(None, 8), (5, 5)])
def test_the_length_reward_knows_the_longest_completion(margin: int | None, expected: int) -> None:
    (reward,), _ = build_rewards(["length"], RewardContext("answer", longest=40, length_margin=margin))
    assert isinstance(reward, LengthReward)
    assert (reward.longest, reward.margin) == (40, expected)


@pytest.mark.parametrize(
    ("names", "agent", "cost", "charged"),
    [
        (["answer_f1"], "manager", 0.25, True),
        (["answer_f1", "operation_format", "llm_judge"], "manager", 0.25, True),  # once, not for each of two outcomes
        (["answer_f1"], "manager", 0.0, False),
        (["operation_format", "compression"], "manager", 0.25, False),  # nothing asks the bank: emptying it would pay
        (["answer_f1"], "answer", 0.25, False),
    ],
)
def test_entries_cost_once_beside_a_managers_outcome_rewards(
    names: list[str], agent: str, cost: float, charged: bool
) -> None:
    given = [0.5, 0.1, 0.2][: len(names)]
    built, weights = build_rewards(names, context(agent, cost), given)
    assert [function.__name__.removesuffix("_reward") for function in built] == names + ["entry_cost"] * charged
    assert weights == given + [1.0] * charged


def test_there_is_one_weight_a_name() -> None:
    with pytest.raises(ConfigurationError, match="reward_weights: found 2, allowed: one for each of the 1"):
        check_rewards(["length"], "answer", [1.0, 0.5], has_answer_agent=False)
    with pytest.raises(ConfigurationError, match="reward_weights: found 1,"):
        build_rewards(["answer_f1", "length"], context("manager"), [1.0])  # the entry cost needs no weight


def test_a_users_own_file_is_loaded_by_path_and_name() -> None:
    name = f"{FIXTURE}:length_reward"
    check_rewards([name], "manager", has_answer_agent=False)
    (reward,), _ = build_rewards([name], RewardContext("manager"))
    completions = [[{"role": "assistant", "content": text}] for text in ("aaaa", "xxxx", "")]
    # Four vowels of four letters and 4 / 1000 for the length; no vowel; nothing.
    assert reward(completions=completions, prompts=[]) == pytest.approx([1.004, 0.004, 0.0])


@pytest.mark.parametrize(
    ("names", "agent", "complaint"),
    [
        ([], "answer", "reward_funcs is empty; allowed for the answer agent: answer_exact_match, answer_f1,"),
        (["answer_f2"], "answer", "found 'answer_f2', allowed for the answer agent: "),
        (["operation_format"], "answer", "found 'operation_format', allowed for the answer agent"),
        (["answer_format"], "manager", "found 'answer_format', allowed for the manager agent"),
        (["operation_format", ""], "manager", "found ''"),
        (["evidence_recall"], "manager", "found 'evidence_recall', allowed for the manager agent"),
        (["compression"], "answer", "found 'compression', allowed for the answer agent"),
        (["llm_judge"], "answer", "'llm_judge' needs a judge; set judge_model"),
        (["answer_f1"], "manager", "'answer_f1' needs a frozen Answer Agent; set answer_adapter"),
        (["answer_containment"], "answer", "found 'answer_containment', allowed for the answer agent"),
        (["answer_likelihood"], "manager", "'answer_likelihood' needs a frozen Answer Agent; set answer_adapter"),
        (["no/such/file.py:reward"], "manager", "no/such/file.py is no file"),
        ([f"{FIXTURE}:no_such_function"], "manager", "has no function 'no_such_function'"),
        ([f"{FIXTURE}:NOT_CALLABLE"], "manager", "has no function 'NOT_CALLABLE'"),
        ([f"{FIXTURE.parent}:reward"], "manager", "is no file"),
        ([f"{FIXTURE}:"], "manager", "has no function ''"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_loaded(
    names: list[str], agent: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_rewards(names, agent, has_answer_agent=False)
    assert complaint in str(caught.value)
    with pytest.raises(ConfigurationError):
        build_rewards(names, RewardContext(agent))


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "reward.txt"
    text.write_text("def reward(): ...")
    broken = tmp_path / "broken.py"
    broken.write_text("def reward(:\n")
    for path in (text, broken):
        with pytest.raises(ConfigurationError, match=path.name):
            build_rewards([f"{path}:reward"], RewardContext("answer"))


def test_a_likelihood_is_not_asked_of_a_server() -> None:
    with pytest.raises(ConfigurationError, match="needs a local Answer Agent; set answer_adapter in place"):
        check_rewards(["answer_likelihood"], "manager", has_answer_agent=True, answers_locally=False)
