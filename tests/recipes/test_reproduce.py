"""The tables of the experiments: the adapters and banks compared, and the control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from memory_r1.jsonl import read_json
from recipes import reproduce, task_graph
from recipes.reproduce import ROWS, Experiment
from tests.fake_runs import LOOP_SECONDS, N_QUESTIONS, RIGHT, STEPS, FakeCommands, write_evaluation

TRAINED = [
    *("manager_sft", "answer_sft", "manager_grpo", "manager_sft_all_labels", "answer_sft_all_labels"),
    *("answer_grpo", "manager_sft_continued", "answer_sft_continued"),
]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> FakeCommands:
    fake = FakeCommands()
    monkeypatch.setattr(task_graph, "start", fake.start)
    monkeypatch.setattr(task_graph, "POLL_SECONDS", 0.0)
    return fake


@pytest.fixture
def experiment(commands: FakeCommands, tmp_path: Path) -> Experiment:
    made = Experiment(tmp_path, seed=3)
    made.run(["train"], Console(quiet=True))
    return made


def table_of(experiment: Experiment, stage: str) -> list[dict[str, Any]]:
    experiment.run([stage], Console(quiet=True))
    return experiment.table(stage)


def by_row(table: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["row"]: line for line in table}


def share(row: str) -> float:
    return RIGHT[row.replace("-", "_")] / N_QUESTIONS


def test_every_adapter_is_trained_once_from_its_start(experiment: Experiment, commands: FakeCommands) -> None:
    assert commands.calls == TRAINED
    sft = {agent: experiment.folder / f"{agent}_sft" for agent in ("manager", "answer")}
    assert {options["seed"] for options in commands.options.values()} == {"3"}
    for agent in ("manager", "answer"):
        assert commands.options[f"{agent}_grpo"]["warm_start"] == str(sft[agent])
        control = commands.options[f"{agent}_sft_continued"]
        assert Path(control["config"]).name == f"{agent}_sft.yaml"
        assert control["warm_start"] == str(sft[agent])
        # As many steps as SFT takes in GRPO's wall time.
        assert int(control["max_steps"]) == round(LOOP_SECONDS["grpo"] / LOOP_SECONDS["sft"] * STEPS["sft"]) == 80
        ceiling = commands.options[f"{agent}_sft_all_labels"]
        assert "warm_start" not in ceiling
        assert (ceiling["train_dialogues"], ceiling["max_steps"]) == ("30", "30")
    experiment.run(["train"], Console(quiet=True))
    assert commands.calls == TRAINED


def test_answer_agents_are_compared_on_one_managers_banks(experiment: Experiment, commands: FakeCommands) -> None:
    table = table_of(experiment, "answer")
    assert [line["row"] for line in table] == list(ROWS)
    for row, line in by_row(table).items():
        assert line["n_questions"] == N_QUESTIONS
        assert line["exact_match"]["mean"] == line["f1_squad"]["mean"] == share(row)
        assert line["evidence_recall"]["mean"] == 0.5
        assert line["operations"]["ADD"] == 1
        assert line["f1_by_category"] == {"recall": share(row)}
        difference = line["f1_less_sft-continued"]
        assert difference["difference"] == pytest.approx(share(row) - share("sft-continued"))
        assert (difference["wins"], difference["losses"]) == (
            max(0, round(4 * difference["difference"])),
            max(0, round(-4 * difference["difference"])),
        )
    evaluated = commands.calls[len(TRAINED) :]
    assert evaluated == [f"memory-r1.sft.{row}" for row in ROWS]
    assert "answer" not in commands.options[evaluated[0]]
    for name, row in zip(evaluated, ROWS, strict=True):
        options = commands.options[name]
        assert options["manager"] == str(experiment.folder_of("manager", "sft"))
        assert options.get("answer") == (None if row == "base" else str(experiment.folder_of("answer", row)))
    # They share the banks that the first of them builds, and the demo's.
    assert {commands.options[name]["banks"] for name in evaluated} == {str(experiment.folder / "banks")}
    assert table_of(experiment, "answer") == table
    assert commands.calls[len(TRAINED) :] == evaluated


def test_managers_are_compared_under_one_answer_agent(experiment: Experiment, commands: FakeCommands) -> None:
    table = by_row(table_of(experiment, "manager"))
    assert list(table) == list(ROWS)
    for row in ROWS:
        options = commands.options[f"memory-r1.{row}.sft"]
        assert options["answer"] == str(experiment.folder_of("answer", "sft"))
        assert options.get("manager") == (None if row == "base" else str(experiment.folder_of("manager", row)))
        assert table[row]["f1_less_sft-continued"]["difference"] == 0  # one Answer Agent, so all score the same


def test_baselines_are_compared_with_the_trained_system(experiment: Experiment, commands: FakeCommands) -> None:
    table = by_row(table_of(experiment, "baselines"))
    assert list(table) == ["none", "rag", "oracle", "add-only", "memory-r1"]
    assert all("f1_less_memory-r1" in line for line in table.values())
    for system in reproduce.BASELINES:
        options = commands.options[system]
        assert options["system"] == system
        assert options["answer"] == str(experiment.folder_of("answer", "grpo"))
        assert ("manager" in options) is (system == "add-only")
    assert commands.options["memory-r1.grpo.grpo"]["manager"] == str(experiment.folder_of("manager", "grpo"))


def test_the_command_adds_tables_to_one_file_and_repeats_nothing(commands: FakeCommands, tmp_path: Path) -> None:
    command = ["--seed", "3", "--folder", str(tmp_path / "runs"), "--results", str(tmp_path)]
    path = tmp_path / "cpu-seed3.json"
    assert reproduce.main([*command, "--stage", "train"]) == 0
    assert not path.exists() and commands.calls == TRAINED
    assert reproduce.main([*command, "--stage", "answer"]) == 0
    answer = read_json(path)
    assert reproduce.main(command) == 0
    whole = read_json(path)
    assert (answer["seed"], list(answer["tables"])) == (3, ["answer"])
    assert list(whole["tables"]) == ["answer", "manager", "both", "baselines"]
    assert whole["tables"]["answer"] == answer["tables"]["answer"]
    assert set(whole["training"]) == {f"{agent}_{row}" for agent in ("manager", "answer") for row in ROWS[1:]}
    assert whole["training"]["manager_sft-continued"]["steps"] == 80
    assert len(commands.calls) == len(set(commands.calls))
    assert "Oslo" not in path.read_text()  # no text of the dialogues


def test_tables_stay_among_the_outputs_unless_they_are_published(
    commands: FakeCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reproduce.main(["--seed", "3", "--stage", "answer"])
    tables = Path("outputs/reproduce/seed3/cpu-seed3.json")
    assert tables.is_file() and not Path("docs").exists()
    reproduce.main(["--seed", "3", "--stage", "answer", "--results", "docs/results"])
    assert read_json(Path("docs/results/cpu-seed3.json")) == read_json(tables)


def test_what_the_demo_has_evaluated_is_not_evaluated_again(experiment: Experiment, commands: FakeCommands) -> None:
    write_evaluation(experiment.folder / "eval_sft", "memory-r1", str(experiment.folder_of("answer", "sft")))
    table = table_of(experiment, "answer")
    assert [line["row"] for line in table] == list(ROWS)
    assert "memory-r1.sft.sft" not in commands.calls
    assert "memory-r1.sft.grpo" in commands.calls
