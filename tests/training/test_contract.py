"""The undocumented parts of TRL that the code relies on; if TRL changes them, these tests fail first."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import DynamicCache, Trainer
from trl import GRPOTrainer, SFTTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import add_fused_lm_head, split_tensor_dict, use_adapter

from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.policy import POLICY
from memory_r1.training.sft import CompletionSFTTrainer
from memory_r1.training.trainer_configs import MemoryGRPOConfig, MemorySFTConfig
from tests.tiny import load_base, load_tokenizer, lora_parameters, messages, sharpen, snapshot, with_lora


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("method", "leading"),
    [
        (
            GRPOTrainer._get_per_token_logps_and_entropies,
            "self model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss",
        ),
        (GRPOTrainer._prepare_inputs, "self generation_batch"),
        (GRPOTrainer._generate, "self prompts"),
        (GRPOTrainer._generate_and_score_completions, "self inputs"),
        (GRPOTrainer._get_train_sampler, "self dataset"),
        (GRPOTrainer._calculate_rewards, "self inputs prompts completions completion_ids_list"),
        (Trainer.evaluate, "self eval_dataset ignore_keys metric_key_prefix"),
        (SFTTrainer.compute_loss, "self model inputs return_outputs num_items_in_batch"),
    ],
)
def test_overridden_methods_take_what_they_took(method: Any, leading: str) -> None:
    expected = leading.split()
    assert parameters(method)[: len(expected)] == expected


def test_what_else_the_log_probability_pass_may_be_given_is_for_other_modalities() -> None:
    rest = parameters(GRPOTrainer._get_per_token_logps_and_entropies)[8:]
    assert set(rest) == {
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    }


OVERRIDDEN = {
    "_calculate_rewards",
    "_generate",
    "_generate_and_score_completions",
    "_get_per_token_logps_and_entropies",
    "_get_train_sampler",
    "_prepare_inputs",
}


@pytest.mark.parametrize("name", sorted(OVERRIDDEN - {"_get_train_sampler", "_prepare_inputs"}))
def test_trl_still_calls_the_overridden_methods(name: str) -> None:
    calls = inspect.getsource(GRPOTrainer).count(f"self.{name}(")
    assert calls >= 1


def test_private_trl_methods_are_overridden_in_one_class_only() -> None:
    private = {name for name in vars(MemoryGRPOTrainer) if name.startswith("_") and not name.startswith("__")}
    assert private & set(dir(GRPOTrainer)) == OVERRIDDEN
    assert set(vars(CompletionSFTTrainer)) & set(vars(SFTTrainer)) >= {"compute_loss"}


def test_a_rollout_is_buffered_and_cut_as_the_override_does_it() -> None:
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._step % generate_every == 0 or self._buffered_inputs is None" in source
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in source
    assert "shuffle_sequence_dict(generation_batch)" in source
    assert parameters(split_tensor_dict) == ["tensor_dict", "num_chunks"]


def test_a_settled_rollout_is_what_trl_makes_of_one() -> None:
    # `training/dynamic_sampling.py` hands TRL this tuple, with the extra columns in the rows already.
    assert (
        inspect.getsource(GRPOTrainer._generate)
        .rstrip()
        .endswith(
            "return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images"
        )
    )
    rest = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert rest.count("= self._generate(prompts)") == 1
    assert rest.count("self._calculate_rewards(inputs, prompts, completions, completion_ids_list)") == 1


def test_helpers_of_trl_are_where_they_were() -> None:
    assert parameters(disable_gradient_checkpointing)[:2] == ["model", "gradient_checkpointing_kwargs"]
    assert parameters(use_adapter)[:2] == ["model", "adapter_name"]


def test_the_fused_head_runs_over_a_cache(tiny_model: Path) -> None:
    model = sharpen(load_base(tiny_model)).eval()
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        expected = torch.log_softmax(model(input_ids=ids).logits[:, 3:5], dim=-1)  # (1, 2, V), of tokens 4 and 5
        cache = DynamicCache(config=model.config)
        model(input_ids=ids[:, :3], past_key_values=cache, use_cache=True, logits_to_keep=1)
        labels = torch.tensor([[-100, 9, 10]])
        output = model(input_ids=ids[:, 3:], past_key_values=cache, labels=labels, fused_lm_head=True)
    chosen = expected.gather(-1, ids[:, 4:, None]).squeeze(-1)
    torch.testing.assert_close(output.log_probs, chosen, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.entropy, -(expected.exp() * expected).sum(-1), rtol=0, atol=1e-5)


def make_trainer(policy: Any, tiny_model: Path, folder: Path, beta: float, **options: Any) -> MemoryGRPOTrainer:
    config = MemoryGRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=4,
        beta=beta,
        report_to=[],
        **options,
    )
    rows = [{"prompt": prompt, "extra": ["x", str(n)]} for n, prompt in enumerate(messages(["Where?", "Who is it?"]))]
    return MemoryGRPOTrainer(
        model=policy,
        args=config,
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        reward_funcs=[recording_reward],
    )


def recording_reward(completions: list[Any], extra: list[Any], **columns: Any) -> list[float | None]:
    RECORDED.append((completions, extra, columns))
    return [float(len(completion[0]["content"])) for completion in completions]


RECORDED: list[tuple[list[Any], list[Any], dict[str, Any]]] = []


def test_a_reference_adapter_is_a_frozen_copy_of_the_policy(tiny_model: Path, tmp_path: Path) -> None:
    policy = with_lora(load_base(tiny_model), seed=1)
    start = snapshot(lora_parameters(policy))
    trainer = make_trainer(policy, tiny_model, tmp_path, beta=0.1, max_steps=1, learning_rate=0.1)
    reference = lora_parameters(trainer.model, "ref")
    assert {name.replace(".ref.", f".{POLICY}."): True for name in reference}.keys() == start.keys()
    assert not any(parameter.requires_grad for parameter in reference.values())
    trainer.train()
    moved = lora_parameters(trainer.model, POLICY)
    assert all(torch.equal(value, start[name.replace(".ref.", f".{POLICY}.")]) for name, value in reference.items())
    assert any(not torch.equal(value, start[name]) for name, value in moved.items())
    assert "kl" in trainer.state.log_history[0]


def test_no_reference_adapter_without_a_kl_term(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(with_lora(load_base(tiny_model)), tiny_model, tmp_path, beta=0.0)
    assert set(trainer.model.peft_config) == {POLICY}


def test_rewards_see_every_column_once_for_each_completion(tiny_model: Path, tmp_path: Path) -> None:
    RECORDED.clear()
    make_trainer(with_lora(load_base(tiny_model)), tiny_model, tmp_path, beta=0.0, max_steps=1).train()
    completions, extra, columns = RECORDED[0]
    assert len(completions) == len(extra) == 4
    assert [row[0]["role"] for row in completions] == ["assistant"] * 4
    # Generations of one prompt are adjacent, and lists in a column survive.
    assert extra[0] == extra[1] != extra[2] == extra[3]
    assert all(isinstance(row, list) and row[0] == "x" for row in extra)
    assert {"prompts", "completion_ids", "trainer_state", "log_extra", "log_metric"} <= columns.keys()


def test_supervised_rows_keep_their_prompt_out_of_the_labels(tiny_model: Path, tmp_path: Path) -> None:
    row = {"prompt": messages(["Where?"])[0], "completion": [{"role": "assistant", "content": "Rome"}]}
    tokenizer = load_tokenizer(tiny_model)
    trainer = CompletionSFTTrainer(
        model=with_lora(load_base(tiny_model)),
        args=MemorySFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[]),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([row]),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert {"input_ids", "attention_mask", "labels"} <= batch.keys()
    labelled = batch["labels"][0]
    text = tokenizer.decode(labelled[labelled != -100])
    assert text.startswith("Rome<|im_end|>")
