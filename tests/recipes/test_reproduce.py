"""The committed experiments: what is trained from what, and what is evaluated on which banks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from memory_r1.errors import ConfigurationError, TrainingError
from memory_r1.jsonl import read_json
from recipes import reproduce, task_graph
from recipes.commands import recipe_fields
from recipes.reproduce import CEILING_SEED, STAGES, Experiment
from recipes.tables import TABLES
from tests.fake_runs import LOOP_SECONDS, N_QUESTIONS, RIGHT, STEPS, FakeCommands

SCHEDULE = ["manager_sft", "answer_sft", "answer_turns", "manager_grpo", "answer_grpo"]
SEED = 3


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> FakeCommands:
    fake = FakeCommands()
    monkeypatch.setattr(task_graph, "start", fake.start)
    monkeypatch.setattr(task_graph, "POLL_SECONDS", 0.0)
    return fake


def run(folder: Path, *stages: str, seed: int = SEED) -> Experiment:
    experiment = Experiment(folder, seed)
    experiment.run(stages, Console(quiet=True), jobs=16)
    return experiment


def adapters(options: dict[str, Any]) -> dict[str, str]:
    """The adapters that a command reads, by the names of their folders."""
    names = ("warm_start", "manager_adapter", "answer_adapter", "manager", "answer")
    return {name: Path(options[name]).name for name in names if name in options}


def evaluated(commands: FakeCommands) -> list[str]:
    return [name for name in commands.calls if name.count(".") == 2]


def test_the_schedule_alternates_between_the_agents(commands: FakeCommands, tmp_path: Path) -> None:
    run(tmp_path, "train")
    assert commands.calls == SCHEDULE
    assert {options["seed"] for options in commands.options.values()} == {str(SEED)}
    read = {name: adapters(commands.options[name]) for name in SCHEDULE}
    assert read == {
        "manager_sft": {},
        "answer_sft": {},
        "answer_turns": {"warm_start": "answer_sft"},
        "manager_grpo": {
            "warm_start": "manager_sft",
            "manager_adapter": "manager_sft",
            "answer_adapter": "answer_turns",
        },
        "answer_grpo": {"warm_start": "answer_turns", "manager_adapter": "manager_grpo"},
    }
    assert "banks" not in commands.options["answer_turns"]  # plain turns, as its recipe says
    assert commands.options["answer_grpo"]["banks"] == "manager"
    for name, needed in read.items():
        assert set(needed.values()) <= set(commands.before[name])


def test_controls_have_the_same_information_or_the_same_cpu_seconds(commands: FakeCommands, tmp_path: Path) -> None:
    run(tmp_path, "answer", "both")
    options = commands.options
    for control, imitates in (("answer_best_turns", "answer_turns"), ("manager_best", "manager_grpo")):
        assert options[control].pop("best_of_group") == "True"
        assert {**options[control], "output_dir": ""} == {**options[imitates], "output_dir": ""}
    assert options["answer_best"]["best_of_group"] == "True"
    assert adapters(options["answer_best"]) == {"warm_start": "answer_best_turns", "manager_adapter": "manager_grpo"}
    # The Answer Agent has two runs of GRPO, the manager one; SFT takes as many steps as fit into their CPU seconds.
    a_run = LOOP_SECONDS["grpo"] / LOOP_SECONDS["sft"] * STEPS["sft"]
    for control, runs in (("manager_sft_continued", 1), ("answer_sft_continued", 2), ("answer_worked", 2)):
        agent = control.split("_")[0]
        assert Path(options[control]["config"]).name == f"{agent}_sft.yaml"
        assert adapters(options[control]) == {"warm_start": f"{agent}_sft"}
        assert options[control]["max_steps"] == str(round(runs * a_run))
        assert options[control]["patience"] == "0"
        assert float(options[control]["max_cpu_seconds"]) == runs * LOOP_SECONDS["grpo"]
    rows = ("dataset", "banks", "answerable_only", "train_dialogues", "validation_dialogues", "max_validation_rows")
    recipe = recipe_fields("answer", "grpo")
    assert {field: options["answer_worked"][field] for field in rows} == {field: str(recipe[field]) for field in rows}
    assert "dataset" not in options["answer_sft_continued"]


def test_evaluations_of_one_manager_share_its_banks(commands: FakeCommands, tmp_path: Path) -> None:
    run(tmp_path, *STAGES)
    names = evaluated(commands)
    assert len(names) == len(set(names))
    assert {commands.options[name]["banks"] for name in names} == {str(tmp_path / "banks")}
    writers: dict[str, str] = {}
    for name in names:
        system, manager, answer = name.split(".")
        told = {"manager": f"manager_{manager}" if manager else "", "answer": f"answer_{answer}"}
        assert adapters(commands.options[name]) == {agent: row for agent, row in told.items() if row}
        assert commands.options[name]["system"] == system
        assert set(filter(None, told.values())) <= set(commands.before[name])
        if system == "memory-r1" and (writer := writers.setdefault(manager, name)) != name:
            assert writer in commands.before[name]
    assert set(writers) == {"sft", "sft_continued", "best", "grpo"}


def test_each_table_has_its_evaluations(commands: FakeCommands, tmp_path: Path) -> None:
    for stage, tables in TABLES.items():
        run(tmp_path, stage, seed=CEILING_SEED)
        assert {name for table in tables for name in table.rows.values()} <= set(evaluated(commands)), stage


def test_the_ceiling_and_the_base_model_are_of_one_seed(commands: FakeCommands, tmp_path: Path) -> None:
    run(tmp_path / "other", *STAGES)
    parts = {part for name in evaluated(commands) for part in name.split(".")}
    assert not {"base", "gold"} & parts and "manager_gold" not in commands.calls
    run(tmp_path / "ceiling", *STAGES, seed=CEILING_SEED)
    assert {"memory-r1.base.base", "memory-r1.gold.turns"} <= set(evaluated(commands))
    assert commands.options["manager_gold"]["dataset"] == "everyday-labelled"
    assert adapters(commands.options["memory-r1.base.base"]) == {"manager": "base", "answer": "base"}
    labelled = [name for name, options in commands.options.items() if "labelled" in options.get("dataset", "")]
    assert labelled == ["manager_gold"]


def test_nothing_is_run_twice_and_a_cut_run_keeps_what_it_has_shown(commands: FakeCommands, tmp_path: Path) -> None:
    command = ["--seed", str(SEED), "--folder", str(tmp_path / "runs"), "--results", str(tmp_path)]
    commands.fail_at = "manager_grpo"
    with pytest.raises(TrainingError, match="'manager_grpo' ended"):
        reproduce.main(command)
    path = tmp_path / f"everyday-seed{SEED}.json"
    assert {"manager_sft", "answer_turns"} <= set(read_json(tmp_path / "runs" / path.name)["training"])
    assert not path.exists()  # what is published stays as it is until all is done
    commands.fail_at = None
    assert reproduce.main([*command, "--stage", "train"]) == 0
    assert evaluated(commands) == []
    assert reproduce.main(command) == 0
    assert len(commands.calls) == len(set(commands.calls))
    calls, whole = list(commands.calls), read_json(path)
    assert reproduce.main(command) == 0
    assert commands.calls == calls and read_json(path) == whole


def test_a_table_trains_what_it_compares_and_no_more(commands: FakeCommands, tmp_path: Path) -> None:
    run(tmp_path, "systems")
    assert [name for name in commands.calls if "." not in name] == SCHEDULE


def test_runs_of_another_seed_or_of_replaced_adapters_are_refused(commands: FakeCommands, tmp_path: Path) -> None:
    run(tmp_path, "both")
    with pytest.raises(ConfigurationError, match=rf"was trained with seed {SEED}, not {SEED + 1}; give another"):
        run(tmp_path, "both", seed=SEED + 1)
    shutil.rmtree(tmp_path / "manager_sft")
    with pytest.raises(
        ConfigurationError, match=r"used another manager_sft than .*; remove manager_.* to run it again"
    ):
        run(tmp_path, "both")
    for folder in tmp_path.glob("*_*"):
        if folder.name not in ("answer_sft", "answer_turns"):
            shutil.rmtree(folder)
    with pytest.raises(ConfigurationError, match=r"memory-r1\..* used another .*; remove memory-r1"):
        run(tmp_path, "both")


def test_the_record_holds_scores_and_curves_and_no_text(
    commands: FakeCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(["--seed", str(SEED), "--stage", "both"]) == 0
    path = Path(f"outputs/reproduce/seed{SEED}/everyday-seed{SEED}.json")
    assert not Path("docs").exists()  # published only when told to
    record = read_json(path)
    assert record["seed"] == SEED
    assert set(record["training"]) == {name for name in commands.calls if "." not in name}
    assert set(record["evaluations"]) == set(evaluated(commands))
    trained = record["training"]["manager_grpo"]
    assert (trained["steps"], trained["completions"]) == (STEPS["grpo"], 64 * STEPS["grpo"])
    assert trained["cpu_seconds"] == LOOP_SECONDS["grpo"]
    assert [row["reward"] for row in trained["curves"]] == [0.1, 0.2]
    assert all("lr" not in row and "train_runtime" not in row for row in trained["curves"])
    evaluation = record["evaluations"]["memory-r1.grpo.grpo"]
    right = dict(zip(record["questions"], evaluation["scores"]["f1_squad"], strict=True))
    assert right == {
        f"everyday-test-{number % 2 + 1:03}/q{number}": float(number < RIGHT["grpo"]) for number in range(N_QUESTIONS)
    }
    assert evaluation["operations"]["ADD"] == 1 and len(evaluation["predictions_sha256"]) == 64
    text = path.read_text(encoding="utf-8")
    assert not [said for said in ("Oslo", "Where?", "hello", "outputs/") if said in text]
