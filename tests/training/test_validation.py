"""Validation picks the checkpoint, by rows or by dialogues that the manager plays itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.memory.retriever import Retriever
from memory_r1.training.frozen_answering import FrozenAnswering
from memory_r1.training.policy import POLICY
from memory_r1.training.validation import PlayedDialogues, merged, score_greedily
from memory_r1.training.zero_variance import without_failed
from memory_r1.types import Dialogue, Question, Session, Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel
from tests.tiny import load_base, load_tokenizer, with_lora

NAN = float("nan")
TURNS = (Turn("s1:1", "Ann", "I live in Rome.", "s1"), Turn("s1:2", "Ben", "Nice day.", "s1"))
DIALOGUE = Dialogue(
    "d1",
    ("Ann", "Ben"),
    (Session("s1", "2023-01-01T00:00:00", TURNS),),
    (Question("q1", "Where does Ann live?", "Rome", "recall", ("s1:1",)), Question("q2", "Who?", "Ben", "recall")),
)


def played(answer: str = "") -> PlayedDialogues:
    agent = AnswerAgent(ScriptedLanguageModel(lambda prompt, adapter: answer), max_new_tokens=8)
    return PlayedDialogues([DIALOGUE], FrozenAnswering(agent, Retriever(FakeEmbedder()), 2), 2)


@pytest.fixture
def policy(tiny_model: Path) -> tuple[Any, Any]:
    return with_lora(load_base(tiny_model)), load_tokenizer(tiny_model)


def test_a_manager_plays_its_dialogues_and_all_questions_are_asked(
    policy: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def script(prompt: Any, adapter: str | None) -> str:
        asked.append(adapter)
        return '[{"op": "ADD", "text": "Ann lives in Rome"}]' if "Rome" in prompt[-1]["content"] else "[]"

    scripted = ScriptedLanguageModel(script)
    monkeypatch.setattr(
        LocalLanguageModel, "generate", lambda self, prompts, **options: scripted.generate(prompts, **options)
    )
    scores, measures = played("**Answer:** Rome").score(*policy, [DIALOGUE], 8)
    assert scores == [1.0, 0.0]
    assert measures["entries"] >= 1
    assert asked == [POLICY, POLICY]  # one turn at a time


def test_a_process_without_a_share_has_nothing_to_say(policy: tuple[Any, Any]) -> None:
    assert played().score(*policy, [], 8) == ([], {})
    assert score_greedily(*policy, [], [], torch.ones(0), max_new_tokens=4) == ([], {})


def test_rewards_are_given_the_tokens_that_were_generated(
    policy: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = policy
    hello = tokenizer.encode("hello", add_special_tokens=False)
    generated = [[*hello[:1], *hello, tokenizer.eos_token_id], hello]  # ended, and cut off
    monkeypatch.setattr(LocalLanguageModel, "generate_ids", lambda self, prompts, **options: generated)
    seen: list[tuple[str, list[int]]] = []

    def note(completions: Any, completion_ids: Any, **columns: Any) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        seen.extend(zip(texts, completion_ids, strict=True))
        return [1.0, float("nan")]

    rows = [{"prompt": [{"role": "user", "content": "Hi"}]}] * 2
    scores, measures = score_greedily(model, tokenizer, rows, [note], torch.tensor([0.5]), max_new_tokens=8)
    assert seen == [(tokenizer.decode(generated[0][:-1]), generated[0]), (tokenizer.decode(hello), hello)]
    assert scores == [0.5, None]  # NaN is no score, in TRL too
    assert measures == {"reward/note": 1.0}


def test_shares_are_merged_by_their_sizes() -> None:
    score, measures = merged([([1.0, 0.0, None], {"entries": 4.0}), ([1.0], {"entries": 8.0}), ([], {})])
    assert score == pytest.approx(2 / 3)
    assert measures == {"entries": pytest.approx(5.0)}
    assert merged([([], {})]) == (0.0, {})


def test_rows_that_lack_a_reward_of_their_group_are_taken_out() -> None:
    rewards = torch.tensor([[0.5, 1.0], [NAN, 1.0], [NAN, 1.0], [NAN, 0.0]])
    kept = without_failed(rewards, generations=2)
    assert kept[0].tolist() == [0.5, 1.0]
    assert kept[1].isnan().all()
    # a reward that applies to none of a group does not count for it
    assert kept[2:, 1].tolist() == [1.0, 0.0]
