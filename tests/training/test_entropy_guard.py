"""A run stops when its policy no longer explores, and says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from memory_r1.training import entropy_guard
from tests.training.test_dynamic_sampling import Varied, make_trainer


def test_a_run_stops_once_entropy_stays_below_the_floor(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entropy_guard, "WINDOW", 2)
    caplog.set_level(logging.WARNING, logger="memory_r1")
    for floor, steps in ((100.0, 2), (1e-9, 3)):
        trainer = make_trainer(tiny_model, tmp_path / str(steps), Varied(), entropy_floor=floor)
        trainer.train()
        assert trainer.state.global_step == steps
    assert "below entropy_floor 100.000: training stops at step 2" in caplog.text
