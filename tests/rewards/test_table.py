"""Rewards by name, and what is said of a name that means nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.endpoint import Endpoint
from memory_r1.errors import ConfigurationError
from memory_r1.memory.retriever import Retriever
from memory_r1.training.answering import FrozenAnswering
from rewards import OUTCOMES, REWARDS, RewardContext, build_rewards, check_rewards
from rewards.answers import AnswerReward
from rewards.judge import Judge
from rewards.length import LengthReward
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
    built = build_rewards(names, context(agent))
    logged = [function.__name__.removesuffix("_reward") for function in built]
    assert logged == list(names)
    scores = [function for function, name in zip(built, names, strict=True) if name in OUTCOMES]
    assert len(scores) == 5
    assert all(isinstance(function, kind) for function in scores)
    assert isinstance(scores[-1].scorer, Judge)


@pytest.mark.parametrize(("margin", "expected"), [(None, 8), (5, 5)])
def test_the_length_reward_knows_the_longest_completion(margin: int | None, expected: int) -> None:
    (reward,) = build_rewards(["length"], RewardContext("answer", longest=40, length_margin=margin))
    assert isinstance(reward, LengthReward)
    assert (reward.longest, reward.margin) == (40, expected)


def test_an_outcome_reward_has_the_recipes_entry_cost() -> None:
    (reward,) = build_rewards(["answer_f1"], context("manager", 0.125))
    assert isinstance(reward, OutcomeReward)
    assert reward.entry_cost == 0.125


def test_a_users_own_file_is_loaded_by_path_and_name() -> None:
    name = f"{FIXTURE}:length_reward"
    check_rewards([name], "manager", has_answer_agent=False)
    (reward,) = build_rewards([name], RewardContext("manager"))
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
