"""The demo's order, record and summary, with commands that leave folders and train nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memory_r1.errors import ConfigurationError, TrainingError
from memory_r1.jsonl import read_json, write_json
from memory_r1.training.recipe_file import parse_recipe
from memory_r1.training.trainer_configs import MemoryGRPOConfig, MemorySFTConfig
from recipes import demo, evaluate, task_graph
from recipes.commands import RECIPES, ROOT
from tests.fake_runs import N_QUESTIONS, RIGHT, FakeCommands

# In starting order: the stage, and the folder (or module) by which the stand-ins recognise its command.
COMMANDS = {
    "models": "memory_r1.models",
    "answer sft": "answer_sft",
    "manager sft": "manager_sft",
    "answer grpo": "answer_grpo",
    "base evaluation": "eval_base",
    "manager grpo": "manager_grpo",
    "sft evaluation": "eval_sft",
    "grpo evaluation": "eval_grpo",
    "rag evaluation": "eval_rag",
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


def test_the_summary_has_the_documented_fields(commands: FakeCommands, tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    assert commands.calls == ORDER
    summary = read_json(tmp_path / "summary.json")
    assert {"wall_seconds", "stages", "manager_adapter", "answer_adapter", "report"} <= set(summary)
    assert summary["wall_seconds"] == round(read_json(tmp_path / "seconds.json")["wall"], 1)
    assert [stage["name"] for stage in summary["stages"]] == ["base", "sft", "grpo"]
    assert summary["rag"]["name"] == "rag"
    right = RIGHT | {"rag": RIGHT["grpo"]}  # its Answer Agent is GRPO's
    for row in (*summary["stages"], summary["rag"]):
        assert set(row) == {"name", "exact_match", "f1_squad", "n_questions"}
        assert row["n_questions"] == N_QUESTIONS
        for metric in (row["exact_match"], row["f1_squad"]):
            assert {"mean", "low", "high", "interval"} <= set(metric)
            assert metric["mean"] == right[row["name"]] / N_QUESTIONS
            assert metric["low"] <= metric["mean"] <= metric["high"]
            assert metric["interval"] == "within-dialogue"  # two dialogues are too few to resample
    gained = {other: (RIGHT["grpo"] - right[other]) / N_QUESTIONS for other in ("base", "sft", "rag")}
    for other, gain in gained.items():
        difference = summary["differences"][f"grpo less {other}"]["f1_squad"]
        assert difference["low"] <= difference["mean"] == gain <= difference["high"]
    assert summary["manager_adapter"] == str(tmp_path / "manager_grpo")
    assert summary["answer_adapter"] == str(tmp_path / "answer_grpo")
    assert summary["report"] == str(tmp_path / "report.html")


def test_it_ends_with_a_dialogue_and_the_table(
    commands: FakeCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    shown = capsys.readouterr().out
    dialogue, table = shown.index("everyday-test-001"), shown.index(f"first 20 test chats, {N_QUESTIONS} questions")
    lines = [f"{RIGHT[stage] / N_QUESTIONS:.3f}" for stage in demo.STAGES]
    assert dialogue < shown.index("ADD #1: Ann lives in Oslo") < shown.index("answer: Oslo; gold: Oslo") < table
    assert all(line in shown[table:] for line in lines)
    assert "manager 60 steps instead of up to 520" in " ".join(shown[table:].split())
    assert shown.index("GRPO less SFT: +0.500 (") < shown.index("GRPO less rag: +0.000 (")
    page = (tmp_path / "report.html").read_text()
    for text in (
        "manager wrote",
        "answer wrote",
        "token F1, grpo less sft",
        "instead of up to 240",
        "rag, GRPO Answer",
    ):
        assert text in page
    assert "ADD #1: Ann lives in Oslo" in page and "You never ring unless something has cracked." in page


def test_each_stage_gets_the_adapters_of_the_one_before(commands: FakeCommands, tmp_path: Path) -> None:
    run(tmp_path)
    sft = {agent: str(tmp_path / f"{agent}_sft") for agent in demo.AGENTS}
    grpo = {agent: str(tmp_path / f"{agent}_grpo") for agent in demo.AGENTS}
    manager, answer = commands.options["manager_grpo"], commands.options["answer_grpo"]
    assert (answer["warm_start"], "manager_adapter" in answer) == (sft["answer"], False)
    assert manager["warm_start"] == manager["manager_adapter"] == sft["manager"]
    assert manager["answer_adapter"] == grpo["answer"]
    given = {
        name: {agent: path for agent, path in commands.options[f"eval_{name}"].items() if agent in demo.AGENTS}
        for name in ("base", "sft", "grpo", "rag")
    }
    assert given == {
        "base": dict.fromkeys(demo.AGENTS, "base"),
        "sft": sft,
        "grpo": grpo,
        "rag": {"answer": grpo["answer"]},
    }
    assert commands.options["eval_rag"]["system"] == "rag"


def test_its_commands_are_ones_that_the_recipes_take(tmp_path: Path) -> None:
    commands = {task.name: list(task.command()) for task in demo.Demo(tmp_path).tasks()}
    for name in ("base", "sft", "grpo", "rag"):
        options = evaluate.parse_arguments(commands[f"{name} evaluation"][1:])
        assert (options.benchmark, options.split, options.dialogues) == ("everyday", "test", 20)
    for agent, method in demo.BUDGET:
        command = commands[f"{agent} {method}"]
        given = command[command.index("--config") :] + ([] if torch.cuda.is_available() else ["--use_cpu"])
        config = MemorySFTConfig if method == "sft" else MemoryGRPOConfig
        memory, training, _ = parse_recipe(config, given)
        # The one checkpoint is validated and written at the end.
        assert training.max_steps == training.eval_steps == training.save_steps
        generated = "synthetic+scenes" if agent == "manager" else "synthetic"
        assert memory.dataset == (generated if method == "sft" else "everyday")
        if method == "grpo":
            assert training.generation_batch_size == 32


def test_a_finished_stage_is_not_run_again(commands: FakeCommands, tmp_path: Path) -> None:
    commands.fail_at = "manager_grpo"
    with pytest.raises(TrainingError, match=r"'manager grpo' ended with status 1: error: told to fail .*fake\.log"):
        run(tmp_path)
    assert commands.calls[:4] == ORDER[:4]
    assert not {"manager_grpo", "eval_grpo"} & set(commands.calls)
    assert not (tmp_path / "summary.json").exists()
    before = len(commands.calls)
    finished = read_json(tmp_path / "seconds.json")
    commands.fail_at = None
    assert run(tmp_path) == 0
    again = commands.calls[before:]
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


def other_budget(folder: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.BUDGET["answer", "sft"], "max_steps", 41)


def other_recipe(folder: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipes / "manager_grpo.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 7"))


def other_version(folder: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = read_json(folder / "seconds.json")
    write_json(folder / "seconds.json", {"wall": record["wall"], "stages": record["stages"]})


def lost_adapter(folder: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder / "answer_sft")


def lost_evaluation(folder: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "eval_base" / "results.json").unlink()


@pytest.mark.parametrize("change", [other_budget, other_recipe, other_version, lost_adapter, lost_evaluation])
def test_runs_of_another_demo_are_neither_shown_nor_gone_on_with(
    commands: FakeCommands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path, pytest.MonkeyPatch], None],
) -> None:
    recipes, folder = tmp_path / "recipes", tmp_path / "demo"
    shutil.copytree(ROOT / RECIPES, recipes)
    monkeypatch.setattr("recipes.commands.RECIPES", recipes)
    commands.fail_at = "manager_grpo"
    with pytest.raises(TrainingError):
        run(folder)
    ran, commands.fail_at = list(commands.calls), None
    change(folder, recipes, monkeypatch)
    with pytest.raises(ConfigurationError, match=rf"^{folder} .*: `rm -r {folder}` or .*--output$"):
        run(folder)
    assert commands.calls == ran


def test_no_stage_starts_before_those_whose_results_it_reads(tmp_path: Path) -> None:
    after = {task.name: set(task.after) for task in demo.Demo(tmp_path).tasks()}
    assert after == {
        "models": set(),
        "answer sft": {"models"},
        "manager sft": {"models"},
        "base evaluation": {"models"},
        "answer grpo": {"answer sft"},
        "manager grpo": {"manager sft", "answer grpo"},
        "sft evaluation": {"manager sft", "answer sft"},
        "grpo evaluation": {"manager grpo", "answer grpo"},
        "rag evaluation": {"answer grpo"},
    }
