"""The demo's order, record and summary, with commands that leave folders and train nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1.errors import TrainingError
from memory_r1.jsonl import read_json
from recipes import demo, task_graph
from tests.fake_runs import N_QUESTIONS, RIGHT, FakeCommands

# In starting order: the stage, and the folder (or module) by which the stand-ins recognise its command.
COMMANDS = {
    "models": "memory_r1.models",
    "manager sft": "manager_sft",
    "answer sft": "answer_sft",
    "base evaluation": "eval_base",
    "manager grpo": "manager_grpo",
    "sft evaluation": "eval_sft",
    "answer grpo": "answer_grpo",
    "grpo evaluation": "eval_grpo",
}
ORDER = list(COMMANDS.values())


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> FakeCommands:
    fake = FakeCommands()
    monkeypatch.setattr(task_graph, "start", fake.start)
    monkeypatch.setattr(task_graph, "POLL_SECONDS", 0.0)
    return fake


def run(folder: Path) -> int:
    return demo.main(["--output", str(folder)])


def test_the_summary_has_the_documented_fields(
    commands: FakeCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert commands.calls == ORDER
    summary = read_json(tmp_path / "summary.json")
    assert {"wall_seconds", "stages", "manager_adapter", "answer_adapter", "report"} <= set(summary)
    assert summary["wall_seconds"] == round(read_json(tmp_path / "seconds.json")["wall"], 1)
    assert [stage["name"] for stage in summary["stages"]] == ["base", "sft", "grpo"]
    for stage in summary["stages"]:
        assert set(stage) == {"name", "exact_match", "f1_squad", "n_questions"}
        assert stage["n_questions"] == N_QUESTIONS
        for metric in (stage["exact_match"], stage["f1_squad"]):
            assert {"mean", "low", "high", "interval"} <= set(metric)
            assert metric["mean"] == RIGHT[stage["name"]] / N_QUESTIONS
            assert metric["low"] <= metric["mean"] <= metric["high"]
            assert metric["interval"] == "within-dialogue"  # two dialogues are too few to resample
    assert summary["manager_adapter"] == str(tmp_path / "manager_grpo")
    assert summary["answer_adapter"] == str(tmp_path / "answer_grpo")
    assert summary["report"] == str(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "manager wrote" in page and "answer wrote" in page and "token F1, grpo less sft" in page
    shown = capsys.readouterr().out
    assert all(f"{RIGHT[stage] / N_QUESTIONS:.3f}" in shown for stage in demo.STAGES)


def test_each_stage_gets_the_adapters_of_the_one_before(commands: FakeCommands, tmp_path: Path) -> None:
    run(tmp_path)
    sft = {agent: tmp_path / f"{agent}_sft" for agent in ("manager", "answer")}
    manager, answer = commands.options["manager_grpo"], commands.options["answer_grpo"]
    assert manager["warm_start"] == manager["manager_adapter"] == answer["manager_adapter"] == str(sft["manager"])
    assert answer["warm_start"] == manager["answer_adapter"] == str(sft["answer"])
    base = commands.options["eval_base"]
    assert base["manager"] == base["answer"] == "base"
    for stage in ("sft", "grpo"):
        for agent in ("manager", "answer"):
            assert commands.options[f"eval_{stage}"][agent] == str(tmp_path / f"{agent}_{stage}")


def test_a_finished_stage_is_not_run_again(commands: FakeCommands, tmp_path: Path) -> None:
    commands.fail_at = "manager_grpo"
    with pytest.raises(TrainingError, match=r"'manager grpo' ended with status 1: error: told to fail .*fake\.log"):
        run(tmp_path)
    assert commands.calls[:4] == ORDER[:4]
    assert not {"manager_grpo", "eval_grpo"} & set(commands.calls)
    assert not (tmp_path / "summary.json").exists()
    finished = read_json(tmp_path / "seconds.json")
    commands.fail_at = None
    assert run(tmp_path) == 0
    again = commands.calls[4:]
    assert set(commands.calls) == set(ORDER)
    assert not set(finished["stages"]) & {stage for stage, name in COMMANDS.items() if name in again}
    summary = read_json(tmp_path / "summary.json")
    assert {name: summary["seconds"][name] for name in finished["stages"]} == finished["stages"]
    assert len(summary["seconds"]) == len(ORDER)
    assert summary["wall_seconds"] >= round(finished["wall"], 1)
    ended = list(commands.calls)
    assert run(tmp_path) == 0
    assert commands.calls == ended
    assert read_json(tmp_path / "summary.json") == summary


def test_no_stage_starts_before_those_whose_results_it_reads(tmp_path: Path) -> None:
    after = {task.name: set(task.after) for task in demo.Demo(tmp_path).tasks()}
    assert after["manager grpo"] == after["answer grpo"] == after["sft evaluation"] == {"manager sft", "answer sft"}
    assert after["grpo evaluation"] == {"manager grpo", "answer grpo"}
    assert all("models" in after[name] for name in ("manager sft", "answer sft", "base evaluation"))
