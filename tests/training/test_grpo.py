"""The trainer's additions to TRL: greedy validation by the same rewards, and metrics that reveal a dead run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from memory_r1.errors import TrainingError
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from memory_r1.training.zero_variance import WINDOW
from tests.tiny import load_base, load_tokenizer, lora_parameters, messages, sharpen, with_lora

ROWS = [
    {"prompt": prompt, "worth": worth}
    for prompt, worth in zip(messages(["Where?", "Who is it?"]), (1.0, 3.0), strict=True)
]


def worth_reward(completions: Sequence[Any], worth: Sequence[float], **columns: Any) -> list[float | None]:
    return list(worth)


def half_reward(
    completions: Sequence[Any], prompts: Sequence[Any], completion_ids: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Take TRL's documented positional names, and return None for the first prompt."""
    assert len(completions) == len(prompts) == len(completion_ids)
    assert all(isinstance(token, int) for ids in completion_ids for token in ids)
    return [None if prompt[0]["content"] == "Where?" else 0.5 for prompt in prompts]


def make_trainer(
    tiny_model: Path, folder: Path, rewards: list[Callable[..., Any]], policy: Any = None, **options: Any
) -> MemoryGRPOTrainer:
    fields: dict[str, Any] = {"max_completion_length": 4, "max_steps": 1, "logging_steps": 1, **options}
    describe = fields.pop("describe", None)
    return MemoryGRPOTrainer(
        model=policy or with_lora(sharpen(load_base(tiny_model)), seed=1),
        args=MemoryGRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=4,
            num_generations=2,
            **fields,
        ),
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list(ROWS),
        eval_dataset=Dataset.from_list(ROWS),
        reward_funcs=rewards,
        describe=describe,
    )


def test_validation_is_the_weighted_mean_over_the_rows_that_a_reward_knows(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, [worth_reward, half_reward], reward_weights=[1.0, 2.0])
    results = trainer.evaluate()
    # Row 1: 1.0, since the second reward is None. Row 2: 3.0 + 2 * 0.5.
    assert results["eval_score"] == pytest.approx((1.0 + 4.0) / 2)
    assert results["eval_reward/worth_reward"] == pytest.approx(2.0)
    assert results["eval_reward/half_reward"] == pytest.approx(0.5)
    assert trainer.state.log_history[-1]["eval_score"] == results["eval_score"]


def test_validation_scores_greedy_completions_of_the_policy(tiny_model: Path, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def note(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        seen.append([completion[0]["content"] for completion in completions])
        return [0.0] * len(completions)

    trainer = make_trainer(tiny_model, tmp_path, [note])
    trainer.model.train()
    trainer.evaluate()
    trainer.evaluate()
    local = LocalLanguageModel(trainer.model, trainer.processing_class)
    greedy = local.generate([row["prompt"] for row in ROWS], max_new_tokens=4, adapter="default")
    assert [[text.strip() for text in texts] for texts in seen] == [[completion.text for completion in greedy]] * 2
    assert trainer.model.training
    assert all(parameter.requires_grad for parameter in lora_parameters(trainer.model).values())


def test_validation_without_any_reward_scores_zero(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, [lambda completions, **columns: [None] * len(completions)])
    assert trainer.evaluate()["eval_score"] == 0.0


def test_other_rows_may_be_validated_under_another_name(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, [worth_reward])
    assert trainer.evaluate(Dataset.from_list(ROWS[1:]), metric_key_prefix="test")["test_score"] == 3.0


@pytest.mark.parametrize(("scale", "share_of_trl"), [("group", 0.5), ("batch", 0.0)])
def test_sparse_rewards_and_collapsed_completions_show_in_the_log(
    scale: str, share_of_trl: float, tiny_model: Path, tmp_path: Path
) -> None:
    described: list[int] = []

    def describe(completions: Sequence[str], rows: Sequence[Any]) -> dict[str, float]:
        described.append(len(completions))
        assert [row["worth"] for row in rows] == [1.0, 1.0, 3.0, 3.0] or [row["worth"] for row in rows] == [
            3.0,
            3.0,
            1.0,
            1.0,
        ]
        return {"share_NOOP": 0.75}

    def one_group(completions: Sequence[Any], worth: Sequence[float], **columns: Any) -> list[float | None]:
        """Vary within the group worth 3, and return zero in the other."""
        return [0.0 if value == 1.0 else float(row % 2) for row, value in enumerate(worth)]

    def alike(completions: Sequence[Any], worth: Sequence[float], **columns: Any) -> list[float | None]:
        return [0.0 if value == 3.0 else 0.25 for value in worth]

    trainer = make_trainer(tiny_model, tmp_path, [one_group, alike], describe=describe, scale_rewards=scale)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["groups/all_zero"] == 0.0  # the two rewards are zero in different groups
    assert log["groups/all_zero/one_group"] == log["groups/all_zero/alike"] == pytest.approx(0.5)
    assert log["groups/zero_variance/one_group"] == pytest.approx(0.5)
    assert log["groups/zero_variance/alike"] == 1.0
    assert log["groups/zero_variance"] == log["groups/flat"] == pytest.approx(0.5)
    assert log["frac_reward_zero_std"] == pytest.approx(share_of_trl)  # over a whole batch, not a share of groups
    assert log["completions/share_NOOP"] == 0.75
    assert described == [4]


def test_a_group_in_which_only_entry_costs_vary_is_flat(tiny_model: Path, tmp_path: Path) -> None:
    def answer(completions: Sequence[Any], worth: Sequence[float], **columns: Any) -> list[float | None]:
        return [0.0 if value == 1.0 else float(row % 2) for row, value in enumerate(worth)]

    def entry_cost(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [-0.01 * (row % 2) for row in range(len(completions))]

    trainer = make_trainer(tiny_model, tmp_path, [answer, entry_cost], reward_weights=[0.5, 1.0])
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["groups/zero_variance"] == 0.0
    assert log["groups/flat"] == log["groups/all_zero"] == pytest.approx(0.5)


@pytest.mark.parametrize(("weights", "told"), [([1.0, 0.1], "flat, of the largest weight"), ([0.1, 1.0], None)])
def test_the_reward_of_the_largest_weight_is_watched(
    weights: list[float], told: str | None, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def flat(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [1.0] * len(completions)

    def varied(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [float(row) for row in range(len(completions))]

    trainer = make_trainer(tiny_model, tmp_path, [flat, varied], reward_weights=weights, max_steps=WINDOW)
    trainer.train()
    assert [text for text in caplog.messages if "zero-variance-groups.md" in text] == (
        [] if told is None else [next(text for text in caplog.messages if told in text)]
    )


def test_nothing_to_train_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    policy = with_lora(load_base(tiny_model))
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable parameter"):
        make_trainer(tiny_model, tmp_path, [worth_reward], policy)


def test_a_step_moves_the_policy_where_rewards_differ_and_leaves_it_where_they_do_not(
    tiny_model: Path, tmp_path: Path
) -> None:
    def constant(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [1.0] * len(completions)

    def varied(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [float(row) for row in range(len(completions))]

    for reward, moves in ((constant, False), (varied, True)):
        trainer = make_trainer(tiny_model, tmp_path, [reward], learning_rate=0.01)
        before = {name: value.detach().clone() for name, value in lora_parameters(trainer.model).items()}
        trainer.train()
        moved = any(not torch.equal(value, before[name]) for name, value in lora_parameters(trainer.model).items())
        assert moved is moves
