"""A run without improvement keeps its initial policy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memory_r1.training.restore_start import RestoreStart
from tests.tiny import load_base, lora_parameters, randomise, snapshot, with_lora


class FakeTrainer:
    """The part of a trainer that the callback uses; counts `evaluate`."""

    def __init__(self, policy: Any, score: float = 0.5) -> None:
        self.model = policy
        self.score = score
        self.evaluations = 0
        self.eval_dataset = [{"prompt": "x"}]
        self.accelerator = SimpleNamespace(is_main_process=True, unwrap_model=lambda model: model)
        self.state = SimpleNamespace(best_metric=None, global_step=0)

    def evaluate(self) -> dict[str, float]:
        self.evaluations += 1
        return {"eval_score": self.score}


@pytest.fixture
def policy(tiny_model: Path) -> Any:
    return with_lora(load_base(tiny_model), seed=1)


def begin(folder: Path, trainer: FakeTrainer, *, step: int = 0, strategy: str = "steps") -> RestoreStart:
    callback = RestoreStart(folder)
    callback.trainer = trainer
    arguments = SimpleNamespace(eval_strategy=strategy)
    callback.on_train_begin(arguments, SimpleNamespace(global_step=step), None)  # type: ignore[arg-type]
    return callback


def test_the_start_is_scored_and_kept_once(policy: Any, tmp_path: Path) -> None:
    start = snapshot(lora_parameters(policy))
    trainer = FakeTrainer(policy)
    assert begin(tmp_path, trainer).score == 0.5
    stored = load_file(tmp_path / "start" / "policy.safetensors")
    assert {name: value.shape for name, value in stored.items()}.keys() == {
        name.replace(".default.", ".") for name in start
    }
    assert all(torch.equal(value, stored[name.replace(".default.", ".")]) for name, value in start.items())
    assert json.loads((tmp_path / "start" / "score.json").read_text()) == {"score": 0.5}
    assert trainer.evaluations == 1


@pytest.mark.parametrize("step", [0, 10])  # killed before the first checkpoint, or after it
def test_a_resumed_run_reads_what_its_first_launch_noted(policy: Any, tmp_path: Path, step: int) -> None:
    begin(tmp_path, FakeTrainer(policy, score=0.5))
    stored = (tmp_path / "start" / "policy.safetensors").read_bytes()
    randomise(lora_parameters(policy), seed=9)  # the policy of a later checkpoint
    resumed = FakeTrainer(policy, score=0.9)
    assert begin(tmp_path, resumed, step=step).score == 0.5
    assert resumed.evaluations == 0
    assert (tmp_path / "start" / "policy.safetensors").read_bytes() == stored


@pytest.mark.parametrize(("best", "restored"), [(0.4, True), (0.5, True), (0.6, False)])
def test_the_start_comes_back_unless_a_checkpoint_beat_it(
    policy: Any, tmp_path: Path, best: float, restored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    start = snapshot(lora_parameters(policy))
    trainer = FakeTrainer(policy, score=0.5)
    callback = begin(tmp_path, trainer)
    randomise(lora_parameters(policy), seed=9)
    trained = snapshot(lora_parameters(policy))
    trainer.state.best_metric = best
    assert callback.restore_unless_beaten() is restored
    expected = start if restored else trained
    assert all(torch.equal(value, expected[name]) for name, value in lora_parameters(policy).items())
    assert ("the starting policy is kept" in caplog.text) is restored


def test_without_validation_what_was_trained_is_kept(policy: Any, tmp_path: Path) -> None:
    trainer = FakeTrainer(policy)
    callback = begin(tmp_path, trainer, strategy="no")
    randomise(lora_parameters(policy), seed=9)
    trained = snapshot(lora_parameters(policy))
    assert callback.restore_unless_beaten() is False
    assert all(torch.equal(value, trained[name]) for name, value in lora_parameters(policy).items())
    assert trainer.evaluations == 0
    assert not (tmp_path / "start").exists()


def test_a_run_resumed_without_a_noted_start_does_not_take_a_checkpoint_for_it(policy: Any, tmp_path: Path) -> None:
    callback = begin(tmp_path, FakeTrainer(policy), step=10)
    assert callback.score is None
    assert callback.restore_unless_beaten() is False


def test_only_the_main_process_writes(policy: Any, tmp_path: Path) -> None:
    trainer = FakeTrainer(policy)
    trainer.accelerator.is_main_process = False
    assert begin(tmp_path, trainer).score == 0.5
    assert list(tmp_path.iterdir()) == []
