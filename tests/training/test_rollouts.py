"""Sampling over a shared prompt gives TRL the same as its own generation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.rollouts import shared_prefix_rollout, supports_shared_rollout
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from tests.tiny import load_base, load_tokenizer, messages, sharpen, with_lora

PROMPTS = messages(["Where does Ann live?", "Who sold his bicycle?"])


def make_config(folder: Path, **options: Any) -> MemoryGRPOConfig:
    plain: dict[str, Any] = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 5}
    return MemoryGRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], **{**plain, "temperature": 0.8, **options}
    )


def make_trainer(tiny_model: Path, folder: Path, **options: Any) -> MemoryGRPOTrainer:
    return MemoryGRPOTrainer(
        model=with_lora(sharpen(load_base(tiny_model)), seed=1, scale=0.3),
        args=make_config(folder, **options),
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        reward_funcs=[lambda completions, **columns: [float(len(c[0]["content"])) for c in completions]],
    )


def test_prompts_and_completions_are_as_trl_wants_them(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path)
    assert trainer.rollout_func is shared_prefix_rollout
    trainer.model.train()
    repeated = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    output = shared_prefix_rollout(repeated, trainer)
    tokenizer = trainer.processing_class
    assert output["prompt_ids"] == [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        for prompt in repeated
    ]
    assert output["logprobs"] is None
    assert all(1 <= len(ids) <= 5 for ids in output["completion_ids"])
    assert all(tokenizer.eos_token_id not in ids[:-1] for ids in output["completion_ids"])
    assert trainer.model.training
    assert trainer.model.active_adapter == "default"


def test_first_tokens_are_drawn_from_the_policy_at_its_temperature(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, max_completion_length=1, temperature=0.25)
    torch.manual_seed(0)
    draws = 1000
    drawn = shared_prefix_rollout([PROMPTS[0]] * draws, trainer)["completion_ids"]
    ids = trainer.processing_class.apply_chat_template(
        PROMPTS[0], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        log_chances = torch.log_softmax(trainer.model(**ids).logits[0, -1] / 0.25, dim=-1)  # (V,)
    mean = (log_chances.exp() * log_chances).sum()
    deviation = ((log_chances.exp() * log_chances**2).sum() - mean**2).sqrt().item()
    found = torch.stack([log_chances[row[0]] for row in drawn]).mean()
    # The mean of `draws` log-probabilities, within five standard deviations.
    assert found.item() == pytest.approx(mean.item(), abs=5 * deviation / draws**0.5)


def test_a_step_trains_on_what_was_rolled_out(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, max_steps=1, logging_steps=1, learning_rate=0.01)
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert 1 <= trainer.state.log_history[0]["completions/mean_length"] <= 5


@pytest.mark.parametrize(
    "options",
    [{"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.1}, {"repetition_penalty": 1.2}, {"generation_kwargs": {"a": 1}}],
)
def test_sampling_that_only_trl_knows_is_left_to_it(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert supports_shared_rollout(make_config(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert not supports_shared_rollout(make_config(tmp_path, **options))
    assert next(iter(options)) in caplog.text


def test_a_trainer_with_other_sampling_generates_by_itself(tiny_model: Path, tmp_path: Path) -> None:
    assert make_trainer(tiny_model, tmp_path, top_p=0.9).rollout_func is None
