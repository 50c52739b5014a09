"""The demo's order, record and summary, with commands that leave folders and train nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1.jsonl import read_json
from recipes import demo
from tests.fake_runs import N_QUESTIONS, RIGHT, FakeCommands

ORDER = [
    *("memory_r1.models", "eval_base", "manager_sft", "answer_sft", "eval_sft"),
    *("manager_grpo", "answer_grpo", "eval_grpo"),
]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> FakeCommands:
    fake = FakeCommands()
    monkeypatch.setattr(demo, "launch", fake.launch)
    monkeypatch.setattr(demo, "run_python", fake.run_python)
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
    assert summary["wall_seconds"] == round(sum(summary["seconds"].values()), 1)
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
    assert manager["warm_start"] == manager["manager_adapter"] == answer["manager_adapter"] == sft["manager"]
    assert answer["warm_start"] == manager["answer_adapter"] == sft["answer"]
    assert not {"manager", "answer"} & set(commands.options["eval_base"])
    for stage in ("sft", "grpo"):
        for agent in ("manager", "answer"):
            assert commands.options[f"eval_{stage}"][agent] == str(tmp_path / f"{agent}_{stage}")


def test_a_finished_stage_is_not_run_again(commands: FakeCommands, tmp_path: Path) -> None:
    commands.fail_at = "manager_grpo"
    with pytest.raises(InterruptedError):
        run(tmp_path)
    assert commands.calls == ORDER[:5]
    assert not (tmp_path / "summary.json").exists()
    seconds = read_json(tmp_path / "seconds.json")
    commands.fail_at = None
    assert run(tmp_path) == 0
    assert commands.calls == ORDER  # each once, over both launches
    summary = read_json(tmp_path / "summary.json")
    assert {name: summary["seconds"][name] for name in seconds} == seconds
    assert len(summary["seconds"]) == len(ORDER)
    assert run(tmp_path) == 0
    assert commands.calls == ORDER
    assert read_json(tmp_path / "summary.json") == summary
