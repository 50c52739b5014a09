"""The warm start's loss is plain cross-entropy on the completions, however the forward pass is arranged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from memory_r1.errors import TrainingError
from memory_r1.inference.tree_attention import IMPLEMENTATION
from memory_r1.training.policy import require_trainable
from memory_r1.training.sft import IGNORED, CompletionSFTTrainer, left_pad
from memory_r1.training.trainer_configs import MemorySFTConfig
from tests.tiny import load_base, load_tokenizer, lora_parameters, messages, sharpen, with_lora

# (prompt, completion) token ids of a row; the rows of COMMON share their first four prompt tokens.
COMMON = [
    ([5, 6, 7, 8, 9], [20, 21, 2]),
    ([5, 6, 7, 8, 10, 11, 12, 13, 14], [22, 2]),
    ([5, 6, 7, 8, 15, 16], [23, 24, 25, 26, 2]),
]
APART = [([30 + row, *prompt], completion) for row, (prompt, completion) in enumerate(COMMON)]
# One row's whole prompt is the common prefix: its last token must still predict its first completion token.
SHORT = [([5, 6, 7, 8], [20, 2]), ([5, 6, 7, 8, 9, 10], [21, 22, 2])]
EQUAL = [COMMON[0], COMMON[0]]
BATCHES = {"common": COMMON, "apart": APART, "short": SHORT, "equal": EQUAL, "single": COMMON[:1]}


def collate(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Pad right and leave prompts unlabelled, like TRL's collator."""
    length = max(len(prompt) + len(completion) for prompt, completion in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, completion in rows:
        padding = length - len(prompt) - len(completion)
        batch["input_ids"].append(prompt + completion + [0] * padding)
        batch["attention_mask"].append([1] * (length - padding) + [0] * padding)
        batch["labels"].append([IGNORED] * len(prompt) + completion + [IGNORED] * padding)
    return {key: torch.tensor(value) for key, value in batch.items()}


def plain_sum(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


def make_trainer(model: Any, tiny_model: Path, folder: Path, **options: Any) -> CompletionSFTTrainer:
    row = {"prompt": messages(["Where?"])[0], "completion": [{"role": "assistant", "content": "Rome"}]}
    return CompletionSFTTrainer(
        model=model,
        args=MemorySFTConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], **options),
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list([row]),
    )


@pytest.fixture
def trainer(tiny_model: Path, tmp_path: Path) -> CompletionSFTTrainer:
    return make_trainer(
        with_lora(sharpen(load_base(tiny_model)), seed=1), tiny_model, tmp_path, activation_checkpointing=False
    )


def test_a_warm_start_attends_as_the_other_trainers_do(trainer: CompletionSFTTrainer) -> None:
    assert trainer.model.config._attn_implementation == IMPLEMENTATION


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in lora_parameters(model).items()}


@pytest.mark.parametrize("name", BATCHES)
def test_the_loss_and_its_gradients_are_cross_entropy_on_the_completions(
    trainer: CompletionSFTTrainer, name: str
) -> None:
    batch = collate(BATCHES[name])
    labelled = sum(len(completion) for _, completion in BATCHES[name])
    expected = plain_sum(trainer.model, batch) / labelled
    loss = trainer.compute_loss(trainer.model, dict(batch))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    wanted, found = gradients(trainer.model, expected), gradients(trainer.model, loss)
    for key, gradient in wanted.items():
        assert (found[key] - gradient).norm() <= 1e-4 * gradient.norm(), key


def test_over_accumulated_steps_the_sum_is_divided_by_all_their_tokens(trainer: CompletionSFTTrainer) -> None:
    batch = collate(COMMON)
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(40))
    torch.testing.assert_close(loss, plain_sum(trainer.model, batch) / 40, rtol=1e-5, atol=1e-5)


def test_the_instructions_run_once_and_only_completions_reach_the_vocabulary(trainer: CompletionSFTTrainer) -> None:
    inputs, projected = [], []
    base = trainer.model.get_base_model()
    base.model.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    base.lm_head.register_forward_hook(lambda module, args, output: projected.append(output.shape[1]))
    _, outputs = trainer.compute_loss(trainer.model, collate(COMMON), return_outputs=True)
    # Three of the four common tokens (the shortest row keeps one before its completion), then the remaining eight.
    assert inputs == [(1, 3), (3, 8)]
    # Left padding aligns the ends, so only the longest completion (5 tokens) and the position before it are projected.
    assert projected == [1, 6]
    assert outputs.logits.shape[1] == 6


def test_activation_checkpointing_costs_the_shared_pass_and_no_exactness(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        with_lora(sharpen(load_base(tiny_model)), seed=1), tiny_model, tmp_path, gradient_checkpointing=True
    )
    trainer.model.gradient_checkpointing_enable()
    assert trainer.model.is_gradient_checkpointing
    batch = collate(COMMON)
    expected = plain_sum(trainer.model, batch) / 10
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected, rtol=1e-5, atol=1e-5)


def test_accuracy_is_the_share_of_completion_tokens_predicted(trainer: CompletionSFTTrainer) -> None:
    batch = collate(COMMON)
    with torch.no_grad():
        predicted = trainer.model(**{k: v for k, v in batch.items() if k != "labels"}).logits.argmax(-1)[:, :-1]
    # Teach the expected tokens as targets in two of ten places.
    labels = batch["labels"].clone()
    places = (labels[:, 1:] != IGNORED).nonzero()
    wrong = (predicted + 1) % 300
    for number, (row, column) in enumerate(places.tolist()):
        labels[row, column + 1] = predicted[row, column] if number < 2 else wrong[row, column]
    trainer.model.eval()
    trainer._metrics["eval"].clear()
    trainer.compute_loss(trainer.model, {**batch, "labels": labels})
    assert trainer._metrics["eval"]["mean_token_accuracy"] == [pytest.approx(0.2)]


def test_padding_moves_to_the_left_with_everything_that_belongs_to_a_token() -> None:
    ids = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 4]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    labels = torch.tensor([[IGNORED, 6, IGNORED, IGNORED], [IGNORED, IGNORED, 9, 4]])
    moved = left_pad(ids, mask, labels)
    assert [tensor.tolist() for tensor in moved] == [
        [[0, 0, 5, 6], [7, 8, 9, 4]],
        [[0, 0, 1, 1], [1, 1, 1, 1]],
        [[IGNORED, IGNORED, IGNORED, 6], [IGNORED, IGNORED, 9, 4]],
    ]


def test_a_model_in_which_nothing_would_be_trained_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    policy = with_lora(load_base(tiny_model))
    assert require_trainable(policy) == sum(parameter.numel() for parameter in lora_parameters(policy).values())
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable parameter"):
        require_trainable(policy)
    with pytest.raises(TrainingError, match="is_trainable=True"):
        make_trainer(policy, tiny_model, tmp_path)
