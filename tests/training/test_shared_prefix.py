"""Sharing a prompt's pass saves time and changes nothing else: same log-probabilities, same gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from trl import GRPOTrainer

import memory_r1.training.shared_prefix as shared_prefix
from memory_r1.inference.tree_attention import use_tree_attention
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.shared_prefix import (
    IGNORED,
    PackedGroups,
    common_prefix_length,
    pack,
    position_ids,
    prefix_cache,
    supports_prefix_cache,
)
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from tests.conftest import TINY_VOCABULARY
from tests.tiny import load_tokenizer, lora_parameters, messages, sharpen, with_lora

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 8  # shorter than every prompt below
IMAGE = 1  # the image's placeholder token, which no completion below has
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES),
    "mistral, sliding window": lambda: MistralConfig(**SIZES, sliding_window=WINDOW),
    "gemma3, every second layer slides": lambda: Gemma3TextConfig(
        **SIZES, sliding_window=WINDOW, query_pre_attn_scalar=8, layer_types=["sliding_attention", "full_attention"]
    ),
}
# Mixtures of experts: tokens are routed one by one, so sharing a prompt changes nothing for them.
EXPERTS: dict[str, Callable[[], PretrainedConfig]] = {
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "qwen3 moe": lambda: Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
}
PROMPT, COMPLETION = 23, 7
# Which prompt each row of the batch has: groups of 3, 2 and 1, shuffled.
GROUPS = (1, 0, 2, 0, 1, 0)
PROMPT_LENGTHS = (23, 14, 17)
COMPLETION_LENGTHS = (7, 1, 5, 3, 7, 2)


def make_policy(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return with_lora(sharpen(AutoModelForCausalLM.from_config(config)), seed=1, scale=0.1)


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Make left-padded prompts with right-padded completions, as TRL concatenates them."""
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 128, (length,), generator=generator) for length in PROMPT_LENGTHS]
    ids = torch.zeros(len(GROUPS), PROMPT + COMPLETION, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (group, length) in enumerate(zip(GROUPS, COMPLETION_LENGTHS, strict=True)):
        start, end = PROMPT - PROMPT_LENGTHS[group], PROMPT + length
        ids[row, start:PROMPT] = prompts[group]
        ids[row, PROMPT:end] = torch.randint(3, 128, (length,), generator=generator)
        mask[row, start:end] = 1
    return ids, mask


def make_multimodal() -> Any:
    """Make a two-layer Llava under LoRA that reads an image of 16 x 16 pixels as four tokens."""
    torch.manual_seed(0)
    sight = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=16, patch_size=8
    )
    config = LlavaConfig(
        vision_config=sight, text_config=LlamaConfig(**SIZES), image_token_index=IMAGE, vision_feature_layer=-1
    )
    return with_lora(sharpen(LlavaForConditionalGeneration(config)), seed=1)


def make_trainer(policy: Any, tiny_model: Path, folder: Path, **options: Any) -> MemoryGRPOTrainer:
    config = MemoryGRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=2,
        num_generations=2,
        temperature=0.7,
        report_to=[],
        max_completion_length=COMPLETION,
        **{name: value for name, value in options.items() if name != "columns"},
    )
    row = {"prompt": messages(["Where?"])[0], **options.get("columns", {})}
    return MemoryGRPOTrainer(
        model=policy,
        args=config,
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list([row]),
        reward_funcs=[lambda completions, **columns: [0.0] * len(completions)],
    )


def measured(
    trainer: MemoryGRPOTrainer, method: Callable[..., Any]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Return log-probabilities, entropies, and gradients of a weighting of both that tells all positions apart."""
    ids, mask = make_batch()
    completions = mask[:, PROMPT:].bool()
    log_probs, entropies, _ = method(trainer, trainer.model, ids, mask, COMPLETION, compute_entropy=True)
    weights = torch.linspace(-1, 2, log_probs.numel()).view_as(log_probs)
    trainer.model.zero_grad()
    ((log_probs + 0.1 * entropies) * weights)[completions].sum().backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in lora_parameters(trainer.model).items()
        if "vision" not in name and "projector" not in name  # a text has no such gradients
    }
    return log_probs[completions].detach(), entropies[completions].detach(), gradients


@pytest.mark.parametrize("name", [*CONFIGS, *EXPERTS, "llava"])
def test_log_probabilities_and_gradients_are_those_of_trl(name: str, tiny_model: Path, tmp_path: Path) -> None:
    policy = make_multimodal() if name == "llava" else make_policy({**CONFIGS, **EXPERTS}[name]())
    trainer = make_trainer(policy, tiny_model, tmp_path)
    assert trainer.shared_prefix
    expected, expected_entropy, expected_gradients = measured(trainer, GRPOTrainer._get_per_token_logps_and_entropies)
    found, entropy, gradients = measured(trainer, MemoryGRPOTrainer._get_per_token_logps_and_entropies)
    assert expected.std() > 0.1  # a constant model would hide any mistake
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(entropy, expected_entropy, rtol=0, atol=1e-4)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in expected_gradients.items():
        assert gradient.norm() > 0
        assert (gradients[key] - gradient).norm() <= 1e-4 * gradient.norm(), key


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_under_a_mask_as_on_a_gpu_they_are_the_same(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_policy(CONFIGS[name]()), tiny_model, tmp_path)
    method = MemoryGRPOTrainer._get_per_token_logps_and_entropies
    expected, _, expected_gradients = measured(trainer, method)
    monkeypatch.setattr(PackedGroups, "branches", lambda packed: None)
    found, _, gradients = measured(trainer, method)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    for key, gradient in expected_gradients.items():
        assert (gradients[key] - gradient).norm() <= 1e-4 * gradient.norm(), key


@pytest.mark.parametrize("column", [0, PROMPT_LENGTHS[0] - 1, PROMPT, PROMPT + COMPLETION + 2])
def test_one_wrong_position_shows(
    column: int, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_policy(CONFIGS["llama"]()), tiny_model, tmp_path)
    method = MemoryGRPOTrainer._get_per_token_logps_and_entropies
    right, _, _ = measured(trainer, method)

    def off_by_one(*args: Any) -> PackedGroups:
        packed = pack(*args)
        packed.positions[:, column] += 1
        return packed

    monkeypatch.setattr(shared_prefix, "pack", off_by_one)
    wrong, _, _ = measured(trainer, method)
    assert (right - wrong).abs().max() > 1e-3


def test_each_distinct_prompt_runs_once(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_policy(CONFIGS["llama"]()), tiny_model, tmp_path)
    shapes: list[tuple[int, ...]] = []
    trainer.model.get_base_model().model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    measured(trainer, MemoryGRPOTrainer._get_per_token_logps_and_entropies)
    # Three prompts, each padded to the three completions of the largest group.
    assert shapes == [(3, PROMPT + 3 * COMPLETION)]


def test_it_can_be_switched_off(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_policy(CONFIGS["llama"]()), tiny_model, tmp_path)
    trainer.shared_prefix = False
    off = measured(trainer, MemoryGRPOTrainer._get_per_token_logps_and_entropies)[0]
    assert torch.equal(off, measured(trainer, GRPOTrainer._get_per_token_logps_and_entropies)[0])


def test_the_same_tokens_behind_another_padding_are_another_prompt() -> None:
    ids = torch.tensor([[0, 5, 6, 7], [0, 5, 6, 8]])  # in the second row, token 0 is real
    packed = pack(ids, torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), 1)
    assert packed.ids.tolist() == [[5, 6, 0, 7], [0, 5, 6, 8]]
    assert packed.predicting.tolist() == [[1], [2]]
    assert packed.positions.tolist() == [[0, 1, 2, 2], [0, 1, 2, 3]]


def test_completions_see_their_prompt_and_themselves_only() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 0]])
    packed = pack(ids, torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]), 2)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9, 0]]
    assert packed.labels.tolist() == [[7, 8, 9, IGNORED]]
    assert packed.predicting.tolist() == [[1, 2, 1, 4]]
    completions = [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert packed.visible[0].int().tolist() == completions
    assert packed.visible_to_all()[0].int().tolist() == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], *completions]


@pytest.mark.parametrize(
    ("config", "supported"),
    [
        (LlamaConfig(**SIZES), True),
        (MistralConfig(**SIZES, sliding_window=WINDOW), True),
        (LlamaConfig(**SIZES, attn_implementation="eager"), False),
        (Gemma2Config(**SIZES, query_pre_attn_scalar=8), False),  # caps its scores, which SDPA cannot
        (MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=4), False),
    ],
)
def test_only_attention_with_keys_and_values_of_its_own_is_shared(config: PretrainedConfig, supported: bool) -> None:
    assert use_tree_attention(AutoModelForCausalLM.from_config(config)) is supported


def test_a_model_that_cannot_share_trains_as_trl_trains_it(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = make_policy(LlamaConfig(**SIZES, attn_implementation="eager"))
    trainer = make_trainer(policy, tiny_model, tmp_path)
    assert not trainer.shared_prefix
    assert "shared_prefix is off" in caplog.text
    found = measured(trainer, MemoryGRPOTrainer._get_per_token_logps_and_entropies)[0]
    assert torch.equal(found, measured(trainer, GRPOTrainer._get_per_token_logps_and_entropies)[0])


@pytest.mark.parametrize("name", EXPERTS)
def test_the_load_balancing_loss_goes_the_way_of_trl_and_that_is_said_once(
    name: str, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"max_steps": 2, "logging_steps": 1, "router_aux_loss_coef": 0.1, "beta": 0.1}
    config = EXPERTS[name]()
    config.vocab_size = TINY_VOCABULARY
    trainer = make_trainer(make_policy(config), tiny_model, tmp_path, **options)
    trainer.train()
    (warning,) = [text for text in caplog.messages if "shared_prefix is off" in text]
    assert "load-balancing loss" in warning and "router_aux_loss_coef: 0" in warning
    log = [row for row in trainer.state.log_history if "aux_loss" in row]
    # A step has two passes: the reference's, which shares, and the one with gradients, which does not.
    assert [row["shared_prefix/used"] for row in log] == [0.5, 0.5]

    caplog.clear()
    options["router_aux_loss_coef"] = 0.0
    trainer = make_trainer(make_policy(config), tiny_model, tmp_path / "without", **options)
    trainer.train()
    assert "shared_prefix is off" not in caplog.text
    assert trainer.state.log_history[0]["shared_prefix/used"] == 1.0


def test_what_goes_with_images_is_read_by_trl_and_that_is_said_once(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(make_multimodal(), tiny_model, tmp_path)
    assert trainer.shared_prefix  # only its text rows are shared
    ids, mask = make_batch()
    ids[:, PROMPT - 6 : PROMPT - 2] = IMAGE
    pixels = torch.randn(len(ids), 3, 16, 16, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"pixel_values": pixels, "num_images": [1] * len(ids)}
    for _ in range(2):
        found, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, COMPLETION, **options)
    expected, *_ = GRPOTrainer._get_per_token_logps_and_entropies(
        trainer, trainer.model, ids, mask, COMPLETION, **options
    )
    assert torch.equal(found, expected)
    assert len([text for text in caplog.messages if "shared_prefix is off" in text]) == 1
    assert trainer._metrics["train"]["shared_prefix/used"] == [0.0, 0.0]


def test_rows_with_images_are_left_to_trl_from_the_start(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(make_multimodal(), tiny_model, tmp_path, columns={"image": "a picture"})
    assert not trainer.shared_prefix and trainer.rollout_func is None
    assert "rollouts are off: rows have images" in caplog.text
    assert "shared_prefix is off: rows with images" in caplog.text


def test_activation_checkpointing_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_policy(CONFIGS["llama"]()), tiny_model, tmp_path)
    method = MemoryGRPOTrainer._get_per_token_logps_and_entropies
    expected = measured(trainer, method)
    trainer.model.train()
    trainer.model.gradient_checkpointing_enable()
    trainer.model.enable_input_require_grads()
    found = measured(trainer, method)
    torch.testing.assert_close(found[0], expected[0])
    for key, gradient in expected[2].items():
        torch.testing.assert_close(found[2][key], gradient)


def test_a_repeated_prefix_is_read_by_every_row() -> None:
    policy = make_policy(CONFIGS["llama"]()).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 10, 11]])
    with torch.no_grad():
        whole = policy(input_ids=ids).logits[:, 3:]
        cache = prefix_cache(policy, ids[0, :3], rows=2)
        rest = policy(input_ids=ids[:, 3:], past_key_values=cache).logits
    torch.testing.assert_close(rest, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "supported"),
    [(LlamaConfig(**SIZES), True), (MistralConfig(**SIZES, sliding_window=WINDOW), False)],
)
def test_rows_go_on_from_whole_caches_only(config: PretrainedConfig, supported: bool) -> None:
    policy = AutoModelForCausalLM.from_config(config)
    assert supports_prefix_cache(policy) is supported
    policy.gradient_checkpointing_enable()
    assert not supports_prefix_cache(policy)


@pytest.mark.parametrize(
    ("ids", "mask", "length"),
    [
        ([[5, 6, 7], [5, 6, 8]], [[1, 1, 1], [1, 1, 1]], 2),
        ([[5, 6, 7], [4, 6, 7]], [[1, 1, 1], [1, 1, 1]], 0),  # equality after a difference is no prefix
        ([[5, 6, 0], [5, 6, 0]], [[1, 1, 0], [1, 1, 0]], 2),  # padding is not shared
        ([[5, 6, 7]], [[1, 1, 1]], 3),
    ],
)
def test_the_common_prefix_ends_where_rows_differ_or_end(
    ids: list[list[int]], mask: list[list[int]], length: int
) -> None:
    assert common_prefix_length(torch.tensor(ids), torch.tensor(mask)) == length


def test_positions_count_real_tokens() -> None:
    assert position_ids(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
