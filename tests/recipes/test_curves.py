"""Runs are drawn over the completions they sampled, however often they trained on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_r1.entry import run_main
from memory_r1.jsonl import read_json, write_json
from recipes import curves


def finished(folder: Path, **recipe: Any) -> Path:
    write_json(
        folder / "training_summary.json",
        {
            **{"method": "ppo", "agent": "manager", "seed": 0, "steps": 4, "wall_seconds": 60.0, "recipe": recipe},
            **{"start_validation": 0.25, "best_validation": 0.5, "kept_start": False},
            "log_history": [
                {"step": 0, "eval_score": 0.25},
                {"step": 2, "reward": 0.1},
                {"step": 4, "reward": 0.3, "critic/explained_variance": None},
            ],
        },
    )
    return folder


def test_steps_count_as_the_completions_they_learned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once = finished(tmp_path / "once", generation_batch_size=32, learning_rate=1e-4)
    twice = finished(tmp_path / "twice", generation_batch_size=32, num_iterations=2)
    split = finished(
        tmp_path / "split", generation_batch_size=32, steps_per_generation=4, gradient_accumulation_steps=2
    )
    output = tmp_path / "out"
    assert run_main(curves.main, [str(once), str(twice), str(split), "--output", str(output)]) == 0
    runs = read_json(output / "curves.json")
    assert {name: run["completions"] for name, run in runs.items()} == {"once": 128, "twice": 64, "split": 64}
    assert runs["once"]["curves"]["reward"] == [[64, 0.1], [128, 0.3]]
    assert runs["twice"]["curves"]["reward"] == [[32, 0.1], [64, 0.3]]
    assert runs["once"]["curves"]["critic/explained_variance"] == []
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "0.250" in capsys.readouterr().out


def test_runs_of_one_name_are_told_apart_and_a_run_without_validation_is_shown(tmp_path: Path) -> None:
    runs = [finished(tmp_path / seed / "run", generation_batch_size=32) for seed in ("0", "1")]
    summary = read_json(runs[1] / "training_summary.json")
    write_json(runs[1] / "training_summary.json", {**summary, "start_validation": None, "best_validation": None})
    assert run_main(curves.main, [*map(str, runs), "--output", str(tmp_path / "out")]) == 0
    assert set(read_json(tmp_path / "out" / "curves.json")) == set(map(str, runs))


def test_a_run_that_sampled_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(curves.main, [str(finished(tmp_path / "sft"))]) == 1
    assert "samples no completions" in capsys.readouterr().err
