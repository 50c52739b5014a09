"""Prompts whose groups do not vary are dropped before training, once, and the same ones after a restart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from memory_r1.errors import TrainingError
from memory_r1.training.prompt_filter import RECORD, keep_teaching_rows
from tests.tiny import lora_parameters, snapshot
from tests.training.test_dynamic_sampling import DATA, Varied, make_trainer


def test_rows_that_vary_are_kept_and_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    reward = Varied()
    rows = [*DATA, {**DATA[3], "prompt": DATA[0]["prompt"]}]  # an odd number: the last batch is filled up
    trainer = make_trainer(tiny_model, tmp_path, reward, rows)
    keep_teaching_rows(trainer, tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    assert (record["rows"], record["kept"]) == (7, [3, 4, 5, 6])
    assert len(trainer.train_dataset) == 4
    assert len(reward.calls) == 4  # two prompts at a time
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["groups/zero_variance"] for entry in history] == [0.0] * 3
    assert history[0]["cpu_seconds"] > record["cpu_seconds"] > 0

    resumed = Varied()
    again = make_trainer(tiny_model, tmp_path, resumed, rows)
    keep_teaching_rows(again, tmp_path)
    assert (len(again.train_dataset), resumed.calls) == (4, [])


def test_nothing_that_varies_is_an_error_that_says_what_to_change(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, Varied(), [{**row, "flat": True} for row in DATA])
    with pytest.raises(TrainingError, match=r"none of the 6 groups varies in its main reward, .* raise temperature"):
        keep_teaching_rows(trainer, tmp_path)


def test_every_row_of_a_training_log_says_what_the_loop_has_cost(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, Varied(), save_steps=1)
    trainer.train()
    spent = [entry["cpu_seconds"] for entry in trainer.state.log_history]
    assert spent == sorted(spent) and spent[0] > 0


def test_best_of_group_imitates_only_in_groups_that_vary(tiny_model: Path, tmp_path: Path) -> None:
    def constant(completions: Sequence[Any], **columns: Any) -> list[float]:
        return [0.35] * len(completions)  # whose mean differs from it by a rounding error

    for flat, reward in ((True, constant), (False, Varied())):
        rows = [{**row, "flat": flat} for row in DATA]
        trainer = make_trainer(tiny_model, tmp_path / str(flat), reward, rows, best_of_group=True, learning_rate=0.01)
        before = snapshot(lora_parameters(trainer.model))
        trainer.train()
        same = [torch.equal(value, before[name]) for name, value in lora_parameters(trainer.model).items()]
        assert all(same) if flat else not all(same)
