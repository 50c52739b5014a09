"""A run stops when its policy no longer explores or its validation loss no longer falls, and says so."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from memory_r1.training import early_stopping
from memory_r1.training.early_stopping import CpuBudget, Patience
from tests.training.test_dynamic_sampling import Varied, make_trainer


def test_a_run_stops_once_entropy_stays_below_the_floor(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(early_stopping, "WINDOW", 2)
    caplog.set_level(logging.WARNING, logger="memory_r1")
    for floor, steps in ((100.0, 2), (1e-9, 3)):
        trainer = make_trainer(tiny_model, tmp_path / str(steps), Varied(), entropy_floor=floor)
        trainer.train()
        assert trainer.state.global_step == steps
    assert "below entropy_floor 100.000: training stops at step 2" in caplog.text


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0.5, 0.3, 0.4, 0.2, 0.2, 0.25), [False, False, False, False, False, True]),
        ((math.nan, 0.5, 0.4), [False, False, False]),
        ((0.5, math.nan, math.nan), [False, False, True]),
    ],
)
def test_patience_counts_validations_since_the_lowest_loss(losses: tuple[float, ...], expected: list[bool]) -> None:
    patience, state = Patience(2), TrainerState()
    stopped = []
    for loss in losses:
        state.log_history += [{"loss": 0.1}, {"eval_loss": loss}]
        control = TrainerControl()
        patience.on_evaluate(TrainingArguments(), state, control)
        stopped.append(control.should_training_stop)
    assert stopped == expected


def test_a_budget_of_cpu_seconds_ends_a_run() -> None:
    budget, state = CpuBudget(10.0), TrainerState()
    stopped = []
    for row in ({"loss": 1.0, "cpu_seconds": 4.0}, {"train_runtime": 3.0}, {"loss": 0.9, "cpu_seconds": 10.5}):
        state.log_history.append(row)
        control = TrainerControl()
        budget.on_log(TrainingArguments(), state, control)
        stopped.append(control.should_training_stop)
    assert stopped == [False, False, True]
