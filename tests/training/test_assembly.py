"""A recipe's fields become the settings of its agents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.banks import Banks
from data.sources import Source
from data.synthetic.generator import generate_split
from memory_r1.adapter_settings import AgentSettings
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.errors import ConfigurationError
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.memory.retriever import Retriever
from memory_r1.systems import bank_cache
from memory_r1.training import runs
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.assembly import agent_settings, contents_of, frozen_answering, manager_tokens, policy_of
from memory_r1.training.frozen_answering import BankQuestion, FrozenAnswering
from memory_r1.training.policy import POLICY
from memory_r1.training.preflight import refuse_past_window, refuse_too_few
from memory_r1.training.trainer_configs import MemoryModelConfig
from memory_r1.types import MemoryEntry, Question
from recipes import training_data
from tests.fakes import ScriptedLanguageModel
from tests.tiny import load_base, load_tokenizer, sharpen, write_adapter


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({"agent": "manager"}, 64),  # the policy's own
        ({"agent": "manager", "credit": "branch"}, 64),
        ({"agent": "manager", "credit": "session"}, 20),  # the policy's holds a whole session
        ({"agent": "answer"}, 20),  # it is the length of an answer
    ],
)
def test_the_manager_that_rebuilds_banks_writes_as_long_as_the_recipe_says(
    fields: dict[str, Any], longest: int
) -> None:
    arguments = MemoryArguments(manager_max_tokens=20, **fields)
    assert manager_tokens(arguments, SimpleNamespace(max_completion_length=64)) == longest


@pytest.mark.parametrize(("style", "longest"), [("ids", 32), ("quotes", 128)])
def test_a_warm_start_is_recorded_with_room_for_an_answer_in_its_style(style: str, longest: int) -> None:
    arguments = MemoryArguments(agent="answer", answer_style=style)
    settings = agent_settings(arguments, SimpleNamespace(), SimpleNamespace(dtype="bfloat16"))
    assert settings.max_new_tokens == longest


def test_a_writers_lengths_and_recall_are_its_systems_own() -> None:
    settings = agent_settings(MemoryArguments(agent="writer"), SimpleNamespace(), SimpleNamespace(dtype="bfloat16"))
    assert settings == AgentSettings(dtype="bfloat16")


def test_the_credit_is_recorded_its_default_too() -> None:
    def credit(**fields: Any) -> object:
        arguments = MemoryArguments(agent="manager", **fields)
        return agent_settings(arguments, SimpleNamespace(), SimpleNamespace(dtype="bfloat16")).to_dict().get("credit")

    assert (credit(), credit(credit="session")) == ("turn", "session")


@pytest.mark.parametrize("style", ["ids", "quotes"])
def test_the_frozen_answer_agent_answers_in_the_recipes_style(style: str) -> None:
    arguments = MemoryArguments(agent="manager", answer_adapter="folder", answer_style=style, answer_max_tokens=129)
    answering = frozen_answering(arguments, None, None, Retriever(None, "bm25"))
    assert answering is not None
    assert (answering.agent.style, answering.agent.max_new_tokens) == (style, 129)


def test_the_base_model_answers_for_a_manager_in_training_without_its_adapter(tiny_model: Path, tmp_path: Path) -> None:
    sharpen(load_base(tiny_model)).save_pretrained(tmp_path / "model")
    load_tokenizer(tiny_model).save_pretrained(tmp_path / "model")
    warm = write_adapter(tmp_path / "model", tmp_path / "warm", seed=1)
    arguments = MemoryArguments(agent="manager", warm_start=str(warm), answer_adapter="base")
    config: Any = SimpleNamespace(bf16=False, fp16=False, seed=0)
    policy, tokenizer, _ = policy_of(
        arguments, config, MemoryModelConfig(model_name_or_path=str(tmp_path / "model"), dtype="float32")
    )
    policy.train()
    trainable = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    retriever = Retriever(None, "bm25")
    entries = tuple(MemoryEntry(number, f"Ann lives in {place}", "Ann", "") for number, place in enumerate("abc"))
    asked = [BankQuestion(Question("q", "Where does Ann live?", "a", "recall"), entries, ("Ann", "Ben"))]

    answering = frozen_answering(arguments, policy, tokenizer, retriever)
    assert answering is not None
    (answer,) = answering.answer(asked)
    plain = LocalLanguageModel(load_base(tmp_path / "model").eval(), tokenizer)
    assert answer == FrozenAnswering(AnswerAgent(plain), retriever, arguments.recall_per_speaker).answer(asked)[0]
    adapted = AnswerAgent(LocalLanguageModel(policy, tokenizer), adapter=POLICY)
    assert answer != FrozenAnswering(adapted, retriever, arguments.recall_per_speaker).answer(asked)[0]

    assert (policy.active_adapter, policy.training) == (POLICY, True)
    assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == trainable
    ids = torch.tensor([tokenizer("Ann lives in Lisbon")["input_ids"]])
    with torch.no_grad():
        learnt = policy(input_ids=ids).logits
        with policy.disable_adapter():
            assert not torch.equal(policy(input_ids=ids).logits, learnt)


def test_a_prompt_that_leaves_no_room_for_its_completion_is_refused_before_training() -> None:
    model: Any = SimpleNamespace(window=20, prompt_tokens=len)
    prompts: Any = [[{}] * 3, [{}] * 12]
    refuse_past_window(prompts, 8, model)
    with pytest.raises(ConfigurationError, match="longest prompt of 12 tokens and max_completion_length 9"):
        refuse_past_window(prompts, 9, model)
    refuse_past_window(prompts, 9, SimpleNamespace(window=None, prompt_tokens=len))  # type: ignore[arg-type]


def test_fewer_rows_than_a_rollout_has_prompts_are_refused() -> None:
    config: Any = SimpleNamespace(generation_batch_size=32, num_generations=8)
    refuse_too_few(4, config)
    with pytest.raises(ConfigurationError, match="3 training rows are fewer than the 4 distinct prompts of a rollout"):
        refuse_too_few(3, config)


def test_a_process_that_saves_nothing_waits_for_the_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    accelerator = SimpleNamespace(
        is_main_process=False,
        wait_for_everyone=lambda: done.append("waited"),
        end_training=lambda: done.append("left"),
    )
    monkeypatch.setattr(runs, "sharding_of", lambda config: 0)
    trainer = SimpleNamespace(accelerator=accelerator, args=None)
    runs.finish_run(
        trainer,
        agent="manager",
        method="sft",
        recipe={},
        settings=AgentSettings(),
        base="",
        base_source="",
        started=0.0,
        results={},
    )
    assert done == ["waited", "left"]


def test_a_manager_plays_each_dialogue_once_for_all_runs_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ScriptedLanguageModel()
    for name in ("resolve_model", "adapter_hash", "resolve_embedder", "weights_hash", "model_hash"):
        monkeypatch.setattr(bank_cache, name, str)
    monkeypatch.setattr(training_data.LocalLanguageModel, "load", lambda *given, **options: model)
    sources = [Source(example.dialogue) for example in generate_split("train", 3, 0)]
    retriever = Retriever(None, "bm25")

    def load(asked: Sequence[Source], longest: int = 48) -> tuple[list[Banks], int]:
        """Return the banks, and the number of turns that the manager was asked about."""
        before = len(model.prompts)
        arguments = MemoryArguments(agent="answer", banks="manager", manager_adapter="folder")
        named: Any = SimpleNamespace(model_name_or_path="model", dtype="float32")
        banks = training_data.load_banks(arguments, asked, named, retriever, tmp_path, longest)
        return banks, len(model.prompts) - before

    turns = [len(source.dialogue.turns()) for source in sources]
    first, asked = load(sources[:2])
    assert asked == turns[0] + turns[1]
    (third, again), asked = load([sources[2], sources[0]])
    assert asked == turns[2]
    assert (dict(again), again.final) == (dict(first[0]), first[0].final)
    assert set(third) == {turn.turn_id for turn in sources[2].dialogue.turns()}
    assert load(sources[:1], longest=64)[1] == turns[0]


def test_what_a_recipe_names_by_path_identifies_its_run_by_content(tiny_model: Path, tmp_path: Path) -> None:
    warm = write_adapter(tiny_model, tmp_path / "warm", seed=1)
    reward = tmp_path / "reward.py"
    reward.write_text("def pay(completions, **columns): return [1.0] * len(completions)")
    arguments = MemoryArguments(agent="manager", warm_start=str(warm), reward_funcs=[f"{reward}:pay"])
    model = MemoryModelConfig(model_name_or_path=str(tiny_model), dtype="float32")
    dialogues = [example.dialogue for example in generate_split("train", 2, 0)]
    before = contents_of(arguments, model, dialogues)
    assert contents_of(arguments, model, dialogues) == before
    write_adapter(tiny_model, tmp_path / "warm", seed=2)
    reward.write_text("def pay(completions, **columns): return [0.0] * len(completions)")
    after = contents_of(arguments, model, dialogues[:1])
    assert {name for name in before if before[name] != after[name]} == {
        "warm_start_sha256",
        "rewards_sha256",
        "data_sha256",
    }
