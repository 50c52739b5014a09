"""Groups stay together from rollout to micro-batch, so that each prompt is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import memory_r1.training.grpo as grpo
from memory_r1.errors import ConfigurationError
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.rollouts import shuffle_groups
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from tests.tiny import load_base, load_tokenizer, messages, with_lora


def config(folder: Path, **fields: Any) -> MemoryGRPOConfig:
    return MemoryGRPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], **fields)


def test_blocks_of_rows_move_as_one_and_all_columns_alike() -> None:
    torch.manual_seed(0)
    batch = {
        "completion_ids": torch.arange(12).view(6, 2),
        "advantages": torch.arange(6) * 2,
        "texts": list("abcdef"),
        "num_items_in_batch": torch.tensor(9),
        "absent": None,
    }
    orders = set()
    for _ in range(40):
        shuffled = shuffle_groups(batch, 2)
        rows = [int(ids[0]) // 2 for ids in shuffled["completion_ids"]]
        orders.add(tuple(rows))
        assert shuffled["advantages"].tolist() == [2 * row for row in rows]
        assert shuffled["texts"] == ["abcdef"[row] for row in rows]
        assert shuffled["num_items_in_batch"] == 9 and shuffled["absent"] is None
    # Three pairs have six orders; 40 draws miss one of them with probability 1 in 250.
    assert orders == {
        (0, 1, 2, 3, 4, 5),
        (0, 1, 4, 5, 2, 3),
        (2, 3, 0, 1, 4, 5),
        (2, 3, 4, 5, 0, 1),
        (4, 5, 0, 1, 2, 3),
        (4, 5, 2, 3, 0, 1),
    }


@pytest.mark.parametrize("iterations", [1, 2])
def test_every_pass_reads_each_of_its_prompts_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iterations: int
) -> None:
    distinct: list[int] = []
    whole = grpo.shared_prefix_outputs

    def counting(model: Any, input_ids: torch.Tensor, mask: torch.Tensor, length: int) -> Any:
        distinct.append(len({tuple(row) for row in input_ids[:, :-length].tolist()}))
        assert len(input_ids) == 4
        return whole(model, input_ids, mask, length)

    monkeypatch.setattr(grpo, "shared_prefix_outputs", counting)
    rows = [{"prompt": prompt} for prompt in messages(["Where?", "Who is it?", "When did Ann move?", "What?"])]
    trainer = MemoryGRPOTrainer(
        model=with_lora(load_base(tiny_model)),
        args=config(
            tmp_path,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            num_generations=4,
            num_iterations=iterations,
            max_completion_length=3,
            max_steps=2,
            beta=0.1,
        ),
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list(rows),
        reward_funcs=[lambda completions, **columns: [float(row) for row in range(len(completions))]],
    )
    trainer.train()
    # Four micro-batches in each of two steps, besides the passes over the rollout for reference and old policy.
    assert len(distinct) >= 8
    assert set(distinct) == {1}


@pytest.mark.parametrize(
    "fields",
    [
        {"per_device_train_batch_size": 4, "num_generations": 8, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 6, "num_generations": 4, "gradient_accumulation_steps": 2},
    ],
)
def test_micro_batches_that_cut_a_group_are_refused(tmp_path: Path, fields: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="micro-batches hold whole groups"):
        config(tmp_path, **fields)
    config(tmp_path, **fields, shared_prefix=False)  # stock TRL allows it


def test_a_group_may_be_split_evenly_across_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryGRPOConfig, "world_size", property(lambda self: 2))
    assert config(tmp_path, per_device_train_batch_size=4, num_generations=8).generation_batch_size == 8
    with pytest.raises(ConfigurationError, match="per_device_train_batch_size: found 3"):
        config(tmp_path, per_device_train_batch_size=3, num_generations=6, gradient_accumulation_steps=2)
