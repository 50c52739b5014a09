"""Whole optimizer steps against stock TRL: the same completions must give the same adapter, loss and KL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import memory_r1.training.shared_prefix as shared_prefix
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.shared_prefix import PackedGroups, pack
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from tests.tiny import load_base, load_tokenizer, lora_parameters, messages, sharpen, snapshot, with_lora

GENERATIONS, COMPLETION, STEPS = 4, 7, 4
TOLERANCE = 1e-4
PROMPTS = ("Where does Ann live now, and since when?", "Who?")  # of different lengths, so one is padded on the left
LENGTHS = (7, 1, 5, 3, 2, 6, 4, 7)  # of a rollout's completions


@dataclass(frozen=True)
class Trained:
    """The result of training: the change of each LoRA matrix, and the log of the steps."""

    deltas: dict[str, torch.Tensor]
    log: list[dict[str, float]]

    def far_from(self, other: Trained) -> float:
        """Return the largest relative distance between two runs' changes."""
        return max(
            float((delta - other.deltas[name]).norm() / other.deltas[name].norm())
            for name, delta in self.deltas.items()
        )


def fixed_rollouts() -> Callable[..., dict[str, Any]]:
    """Make a `rollout_func` with fixed completions: different in each rollout, the same in each run."""
    calls = itertools.count()

    def rollout(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(next(calls))
        tokenizer = trainer.processing_class
        return {
            "prompt_ids": [
                tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
                for prompt in prompts
            ],
            "completion_ids": [
                torch.randint(3, 256, (length,), generator=generator).tolist()
                for length, _ in zip(LENGTHS, prompts, strict=True)
            ],
            "logprobs": None,
        }

    return rollout


def reward(completions: Any, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    return [sum(ids) / (256 * len(ids)) + len(ids) / 10 for ids in completion_ids]


def make_trainer(kind: type, policy: Any, tiny_model: Path, folder: Path, **fields: Any) -> Any:
    # Plain descent without clipping: Adam and a clipped norm would both hide a gradient of the wrong scale.
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "num_generations": GENERATIONS,
        "num_iterations": 2,
        "max_completion_length": COMPLETION,
        "max_steps": STEPS,
        "beta": 0.1,
        "temperature": 0.7,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 0,
        "disable_tqdm": True,
        **fields,
    }
    stock = kind is GRPOTrainer
    return kind(
        model=policy,
        args=(GRPOConfig if stock else MemoryGRPOConfig)(**options),
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in messages(PROMPTS)]),
        reward_funcs=[reward],
        rollout_func=fixed_rollouts(),
    )


def trained(kind: type, tiny_model: Path, folder: Path, **fields: Any) -> Trained:
    trainer = make_trainer(kind, with_lora(sharpen(load_base(tiny_model)), seed=1), tiny_model, folder, **fields)
    before = snapshot(lora_parameters(trainer.model))
    trainer.train()
    after = lora_parameters(trainer.model)
    log = [row for row in trainer.state.log_history if "loss" in row]
    assert len(log) == STEPS
    return Trained({name: (after[name] - value).detach() for name, value in before.items()}, log)


WHOLE = {"per_device_train_batch_size": 2 * GENERATIONS, "steps_per_generation": 1}
# Our micro-batches hold one group each; stock mixes groups, which a mean over rows does not depend on.
ACCUMULATED = {
    "per_device_train_batch_size": GENERATIONS,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 2,
}


@pytest.mark.parametrize("batches", [WHOLE, ACCUMULATED], ids=["whole", "accumulated"])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_steps_are_those_of_trl(batches: dict[str, int], loss_type: str, tiny_model: Path, tmp_path: Path) -> None:
    stock = trained(GRPOTrainer, tiny_model, tmp_path / "stock", loss_type=loss_type, **batches)
    ours = trained(MemoryGRPOTrainer, tiny_model, tmp_path / "ours", loss_type=loss_type, **batches)
    assert all(delta.norm() > 0 for delta in stock.deltas.values())
    assert stock.deltas.keys() == ours.deltas.keys()
    assert ours.far_from(stock) <= TOLERANCE
    assert stock.log[-1]["kl"] > 1e-3  # the policy has left its reference, so a missing KL would show
    first, second = (row["reward"] for row in stock.log if "reward" in row)
    assert first != second  # two rollouts, each trained on twice
    for expected, found in zip(stock.log, ours.log, strict=True):
        assert found.get("reward_std") == expected.get("reward_std")
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3, abs=1e-6)
        # TRL logs a mean over each micro-batch's tokens, which is the same only if the micro-batches are.
        if batches is WHOLE:
            assert found["kl"] == pytest.approx(expected["kl"], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("column", ["last of the prompt", "first of a completion"])
def test_one_wrong_position_shows_in_the_adapter(
    column: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = trained(GRPOTrainer, tiny_model, tmp_path / "stock", **WHOLE)

    def off_by_one(*args: Any) -> PackedGroups:
        packed = pack(*args)
        place = int(packed.predicting[0, 0]) if column == "last of the prompt" else packed.prompt_length
        packed.positions[0, place] += 1
        return packed

    monkeypatch.setattr(shared_prefix, "pack", off_by_one)
    ours = trained(MemoryGRPOTrainer, tiny_model, tmp_path / "ours", **WHOLE)
    assert ours.far_from(stock) > 10 * TOLERANCE


@pytest.mark.parametrize("shared", [True, False])
def test_a_bfloat16_model_takes_a_step(shared: bool, tiny_model: Path, tmp_path: Path) -> None:
    policy = with_lora(sharpen(load_base(tiny_model)).to(torch.bfloat16), seed=1)
    trainer = make_trainer(MemoryGRPOTrainer, policy, tiny_model, tmp_path, bf16=True, **WHOLE)
    trainer.shared_prefix = shared
    adapters = lora_parameters(trainer.model)
    assert {value.dtype for value in adapters.values()} == {torch.float32}
    assert policy.get_base_model().model.embed_tokens.weight.dtype == torch.bfloat16
    before = snapshot(adapters)
    trainer.train()
    for name, value in before.items():
        assert adapters[name].isfinite().all()
        assert "lora_B" not in name or not torch.equal(value, adapters[name]), name
    log = [row for row in trainer.state.log_history if "loss" in row]
    assert all(torch.tensor([row["loss"], row["kl"], row["grad_norm"]]).isfinite().all() for row in log)
    assert log[-1]["kl"] > 0
