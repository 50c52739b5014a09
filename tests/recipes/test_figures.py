"""Figures of committed records, and runs drawn over the completions that they sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_r1.entry import run_main
from memory_r1.evaluation.report import charts
from memory_r1.jsonl import read_json, write_json
from recipes import figures, reproduce, task_graph
from tests.fake_runs import RIGHT, FakeCommands

Drawn = list[tuple[str, Any]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What is drawn: the label of the x axis and the panels, for each chart of lines; panels of scores."""
    calls: Drawn = []

    def draw_lines(panels: Any, x_label: str, **options: Any) -> Any:
        calls.append((x_label, panels))
        return charts.draw_lines(panels, x_label, **options)

    def draw_scores(panels: Any) -> Any:
        calls.append(("scores", panels))
        return charts.draw_scores(panels)

    monkeypatch.setattr(figures, "draw_lines", draw_lines)
    monkeypatch.setattr(figures, "draw_scores", draw_scores)
    return calls


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


def test_every_curve_of_a_record_is_drawn_once(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task_graph, "start", FakeCommands().start)
    monkeypatch.setattr(task_graph, "POLL_SECONDS", 0.0)
    results = tmp_path / "results"
    assert reproduce.main(["--folder", str(tmp_path / "runs"), "--results", str(results)]) == 0
    record = read_json(results / "everyday-seed0.json")
    write_json(results / "curves-own.json", {"one": record["training"]["manager_grpo"]})
    capsys.readouterr()
    assert run_main(figures.main, ["--results", str(results)]) == 0
    files = sorted(results.glob("*.png"))
    names = ["curves-own.png", "everyday-seed0-answer.png", "everyday-seed0-manager.png", "everyday.png"]
    assert [path.name for path in files] == names
    assert sorted(capsys.readouterr().out.split()) == list(map(str, files))
    for path in files:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 100_000
    (axis, manager), (_, answer), (_, scores), (over, own) = drawn
    assert {*manager["validation score"], *answer["validation score"]} == {
        name.partition("_")[2] for name in record["training"]
    }
    assert axis == "CPU seconds of training"
    # Three quarters of the groups are flat, at 40 and 80 of the run's 100 CPU seconds; SFT has a loss instead.
    assert manager["share of groups that teach"]["grpo"] == [(40, 0.25), (80, 0.25)]
    assert manager["validation score"]["sft"] == []
    assert manager["validation loss of SFT"]["sft"] == [(12, 0.5), (24, 0.5)]
    assert scores["both agents, F1"]["GRPO"]["mean"] == RIGHT["grpo"] / 4
    assert over == "completions sampled" and own["entropy"]["one"] == [(64, 0.3), (128, 0.3)]


def test_steps_count_as_the_completions_they_learned_from(drawn: Drawn, tmp_path: Path) -> None:
    once = finished(tmp_path / "once", generation_batch_size=32, learning_rate=1e-4)
    twice = finished(tmp_path / "twice", generation_batch_size=32, num_iterations=2)
    split = finished(
        tmp_path / "split", generation_batch_size=32, steps_per_generation=4, gradient_accumulation_steps=2
    )
    output = tmp_path / "out"
    assert run_main(figures.main, [str(once), str(twice), str(split), "--output", str(output)]) == 0
    runs = read_json(output / "curves.json")
    assert {name: run["completions"] for name, run in runs.items()} == {"once": 128, "twice": 64, "split": 64}
    [(_, panels)] = drawn
    assert panels["mean reward of sampled completions"]["once"] == [(64, 0.1), (128, 0.3)]
    assert panels["mean reward of sampled completions"]["twice"] == [(32, 0.1), (64, 0.3)]
    assert set(panels) == {"validation score", "mean reward of sampled completions"}
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [finished(tmp_path / seed / "run", generation_batch_size=32) for seed in ("0", "1")]
    assert run_main(figures.main, [*map(str, runs), "--output", str(tmp_path / "out")]) == 0
    assert set(read_json(tmp_path / "out" / "curves.json")) == set(map(str, runs))


def test_a_run_that_sampled_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(figures.main, [str(finished(tmp_path / "sft"))]) == 1
    assert "samples no completions" in capsys.readouterr().err
