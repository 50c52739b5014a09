from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from memory_r1.dialogue_file import read_dialogues, write_dialogues
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.types import Dialogue, Question, Session, Turn
from recipes.evaluation_options import complete
from tests.tiny import embedder_folder

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "evaluate.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return importlib.import_module("recipes.evaluate")


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    time = "2023-05-08T10:00:00"
    turns = (Turn("s1:1", "Ann", "I moved to Rome.", "s1", time), Turn("s1:2", "Ben", "How nice.", "s1", time))
    questions = tuple(Question(f"q{n}", f"Question {n}?", "Rome", "recall", ("s1:1",)) for n in (1, 2, 3))
    path = tmp_path / "own.jsonl"
    write_dialogues(path, [Dialogue("d1", ("Ann", "Ben"), (Session("s1", time, turns),), questions)])
    return path


def test_own_dialogues_are_evaluated_with_a_real_model_and_a_second_call_goes_on(
    recipe: ModuleType, own_file: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["--benchmark", "dialogues", "--file", str(own_file), "--system", "full-context", "--quiet"]
    arguments += ["--model", str(tiny_model), "--output", str(output), "--limit", "2"]
    assert run_main(recipe.main, arguments) == 0
    assert "2 questions" in capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert (results["benchmark"], results["split"], results["system"]) == ("dialogues", "all", "full-context")
    assert (results["model"], results["manager"], results["n_questions"]) == (str(tiny_model), None, 2)
    assert (output / "report.html").exists()
    predictions = (output / "predictions.jsonl").read_bytes()
    assert run_main(recipe.main, arguments) == 0
    assert (output / "predictions.jsonl").read_bytes() == predictions
    capsys.readouterr()
    assert run_main(recipe.main, [*arguments, "--seed", "3"]) == 1
    assert "seed was 0, is 3" in capsys.readouterr().err
    assert run_main(recipe.main, [*arguments, "--seed", "3", "--restart"]) == 0


def test_banks_are_taken_over_by_another_answer_agent_and_the_options_reach_the_agents(
    recipe: ModuleType, own_file: Path, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--benchmark", "dialogues", "--file", str(own_file), "--quiet", "--model", str(tiny_model)]
    arguments += ["--embedder", embedder_folder(), "--manager-tokens", "5"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert run_main(recipe.main, [*arguments, "--output", str(first), "--answer-tokens", "3"]) == 0
    quoting = ["--answer-style", "quotes", "--answer-tokens", "7"]
    assert run_main(recipe.main, [*arguments, "--output", str(second), *quoting]) == 0
    runs = [json.loads((folder / "run.json").read_text()) for folder in (first, second)]
    assert [len(run["banks"]["reused"]) for run in runs] == [0, 1]
    assert f"taken over from {tmp_path / 'banks'}" in caplog.text
    config = [
        {name: run["config"][name] for name in ("manager_tokens", "answer_tokens", "answer_style")} for run in runs
    ]
    assert config == [
        {"manager_tokens": 5, "answer_tokens": 3, "answer_style": "ids"},
        {"manager_tokens": 5, "answer_tokens": 7, "answer_style": "quotes"},
    ]
    assert runs[1]["config"]["settings_from"]["answer_style"] == "option"
    assert (runs[0]["config"]["window_tokens"], runs[0]["config"]["cut_rule"]) == (2048, "lowest ranked first")
    assert [len(runs[0]["config"][f"{name}_sha256"]) for name in ("model", "embedder")] == [64, 64]
    operations = [json.loads(line) for line in (first / "operations.jsonl").read_text().splitlines()]
    # A random model never ends a completion by itself.
    assert [row["completion_tokens"] for row in operations] == [5, 5]
    # The prompts of the two styles differ in length, and so do the answers.
    tokens = [sum(json.loads(line)["tokens"] for line in (f / "predictions.jsonl").open()) for f in (first, second)]
    assert tokens[0] != tokens[1]


def test_a_writer_and_a_systems_own_settings_reach_it_and_name_the_run(
    recipe: ModuleType, own_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    arguments = ["--benchmark", "dialogues", "--file", str(own_file), "--quiet", "--model", str(tiny_model)]
    arguments += ["--set", "sliding-window.window_tokens=9", "--embedder", embedder_folder()]
    found = {}
    for name, more in {"sliding-window": [], "memorybank": ["--writer", "base"], "profile": []}.items():
        options = [*arguments, "--system", name, *more]
        assert run_main(recipe.main, [*options, "--output", str(tmp_path / name)]) == 0
        results = json.loads((tmp_path / name / "results.json").read_text())
        found[results["system"]] = (results["cost"], results["config"])
    # A random model writes no JSON, so the rules wrote a day's summary and two portraits; of two turns, the facts.
    assert list(found) == ["sliding-window", "memorybank (rules)", "profile (rules)"]
    written = [(cost.get("written_by_model"), cost.get("written_by_rules")) for cost, _ in found.values()]
    assert written == [(None, None), (0, 3), (0, 2)]
    assert [cost["model_calls"] for cost, _ in found.values()] == [3, 6, 3]  # of which three are answers
    own = [(config.get("system_settings"), config.get("writer")) for _, config in found.values()]
    assert own == [({"window_tokens": 9}, None), (None, "base"), (None, None)]


@pytest.mark.parametrize(("style", "longest"), [("ids", 32), ("quotes", 128)])
def test_the_longest_answer_depends_on_the_style(recipe: ModuleType, style: str, longest: int) -> None:
    options = recipe.parse_arguments(["--benchmark", "synthetic", "--answer-style", style])
    assert complete(options).answer_tokens == longest


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--benchmark", "synthetic", "--system", "mem0"], "memory system 'mem0' is unknown; allowed: none, "),
        (["--benchmark", "synthetic", "--split", "dev"], "--split is 'dev': allowed are train, validation, test"),
        (["--benchmark", "synthetic", "--file", "own.jsonl"], "--file and --benchmark dialogues belong together"),
        (["--benchmark", "dialogues"], "--file and --benchmark dialogues belong together"),
        (["--benchmark", "dialogues", "--file", "missing.jsonl"], "missing.jsonl"),
        (["--benchmark", "dialogues", "--file", "own.jsonl", "--split", "test"], "own dialogues have none"),
        (["--benchmark", "locomo", "--data", "no/such/folder"], "no/such/folder"),
        (["--benchmark", "locomo", "--form", "s"], "--form is 's' for --benchmark locomo: this benchmark has none"),
        (
            ["--benchmark", "longmemeval", "--form", "m"],
            "--form is 'm' for --benchmark longmemeval: allowed are oracle, s",
        ),
        (["--benchmark", "longmemeval", "--form", "s", "--data", "no/such"], "no/such: cannot be read"),
        (["--benchmark", "msc", "--data", "no/such"], "give MSC-Self-Instruct's msc_self_instruct.jsonl"),
        (["--benchmark", "synthetic", "--max-turn-tokens", "0"], "--max-turn-tokens is 0: give a whole number from 1"),
        (["--benchmark", "synthetic", "--dialogues", "1", "--limit", "0"], "limit is 0"),
        (["--benchmark", "everyday", "--dialogues", "-1"], "--dialogues is -1: give a whole number from 1"),
        (["--benchmark", "synthetic", "--budget-tokens", "0"], "--budget-tokens is 0: give a whole number from 1"),
        (["--benchmark", "synthetic", "--budget-tokens", "-9"], "--budget-tokens is -9: give a whole number from 1"),
        (
            ["--benchmark", "synthetic", "--recall-per-speaker", "0"],
            "--recall-per-speaker is 0: give a whole number from 1",
        ),
        (["--benchmark", "synthetic", "--batch-size", "0"], "--batch-size is 0: give a whole number from 1"),
        (["--benchmark", "synthetic", "--answer-tokens", "0"], "--answer-tokens is 0: give a whole number from 1"),
        (["--benchmark", "synthetic", "--manager-tokens", "-1"], "--manager-tokens is -1: give a whole number from 1"),
        (["--benchmark", "synthetic", "--system", "rag", "--manager", "x"], "memory system 'rag' has no manager"),
        (
            ["--benchmark", "synthetic", "--system", "rag", "--writer", "x"],
            "memory system 'rag' asks no model to write",
        ),
        (
            ["--benchmark", "synthetic", "--system", "profile", "--writer", "no/such"],
            "--writer is 'no/such', which holds no adapter_config.json: give the folder of a writer's adapter, which "
            "`make train-writer-sft` trains",
        ),
        (
            ["--benchmark", "synthetic", "--set", "rag.window_tokens=9"],
            "setting 'rag.window_tokens=9' is unknown; give NAME=VALUE with one of sliding-window.window_tokens, ",
        ),
        (
            ["--benchmark", "synthetic", "--set", "sliding-window.window_tokens=ten"],
            "setting sliding-window.window_tokens is 'ten'; give a whole number",
        ),
    ],
)
def test_what_is_mistyped_is_one_line_and_status_1(
    recipe: ModuleType, arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(recipe.main, [*arguments, "--model", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert (complaint in captured.err, captured.err.count("\n"), captured.out) == (True, 1, "")
    assert not (tmp_path / "out").exists()


def test_own_dialogues_without_questions_are_told_to_have_some(
    recipe: ModuleType, own_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dialogues(own_file, [replace(dialogue, questions=()) for dialogue in read_dialogues(own_file)])
    arguments = ["--benchmark", "dialogues", "--file", str(own_file), "--model", str(tmp_path)]
    assert run_main(recipe.main, [*arguments, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert str(own_file) in error and "add questions" in error and "split" not in error


def test_an_adapter_that_is_not_there_is_refused(
    recipe: ModuleType, own_file: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--benchmark", "dialogues", "--file", str(own_file), "--model", str(tiny_model)]
    arguments += ["--answer", "no/such/adapter", "--output", str(tmp_path / "out")]
    assert run_main(recipe.main, arguments) == 1
    assert "no/such/adapter" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def adapter(folder: Path, agent: str, **settings: object) -> Path:
    """Write a folder that holds only its adapter's training settings."""
    folder.mkdir(parents=True)
    (folder / "training_summary.json").write_text(json.dumps({"agent": agent, "settings": settings}))
    return folder


def test_another_agents_adapter_is_no_writer(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapter(tmp_path / "manager", "manager")
    (folder / "adapter_config.json").write_text("{}")
    arguments = ["--benchmark", "synthetic", "--system", "profile", "--writer", str(folder)]
    assert run_main(recipe.main, arguments) == 1
    error = capsys.readouterr().err
    assert f"--writer is '{folder}', which is the adapter of the manager agent" in error
    assert error.count("\n") == 1


TRAINED = {"recall_per_speaker": 30, "dtype": "bfloat16", "answer_style": "quotes", "embedder": "own-sentences"}


def completed(recipe: ModuleType, *arguments: object) -> dict[str, object]:
    return vars(complete(recipe.parse_arguments(["--benchmark", "synthetic", *map(str, arguments)])))


def test_an_agent_is_evaluated_as_it_was_trained_unless_an_option_says_otherwise(
    recipe: ModuleType, tmp_path: Path
) -> None:
    manager = adapter(tmp_path / "manager", "manager", max_new_tokens=256, **TRAINED)
    answer = adapter(tmp_path / "answer", "answer", max_new_tokens=200, **{**TRAINED, "recall_per_speaker": 20})
    both = ["--manager", manager, "--answer", answer]
    as_trained = {
        "recall_per_speaker": 20,
        "manager_recall_per_speaker": 30,
        "manager_tokens": 256,
        "answer_tokens": 200,
        "dtype": "bfloat16",
    }
    as_trained |= {"answer_style": "quotes", "embedder": "own-sentences"}
    assert completed(recipe, *both).items() >= as_trained.items()
    # The Answer Agent's depth holds for every compared system.
    assert (
        completed(recipe, "--system", "rag", "--answer", answer).items()
        >= {"recall_per_speaker": 20, "dtype": "bfloat16"}.items()
    )
    told = completed(recipe, *both, "--recall-per-speaker", 5, "--dtype", "float32", "--answer-tokens", 9)
    assert told.items() >= {**as_trained, "recall_per_speaker": 5, "dtype": "float32", "answer_tokens": 9}.items()
    assert told["settings_from"] == {
        **{
            "recall_per_speaker": "option",
            "manager_recall_per_speaker": "manager adapter",
            "manager_tokens": "manager adapter",
        },
        **{"answer_style": "answer adapter", "answer_tokens": "option", "dtype": "option"},
        "constrained": "default",
        "embedder": "manager adapter",
    }
    assert completed(recipe)["settings_from"] == {"recall_per_speaker": "benchmark"} | dict.fromkeys(
        (
            *("manager_recall_per_speaker", "manager_tokens", "constrained"),
            *("answer_style", "answer_tokens", "dtype", "embedder"),
        ),
        "default",
    )
    assert not completed(recipe)["constrained"]
    assert completed(recipe, "--system", "prompted-manager")["constrained"]
    assert not completed(recipe, "--system", "prompted-manager", "--no-constrained")["constrained"]


def test_an_adapter_of_an_earlier_version_says_it_by_its_recipe(recipe: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "answer"
    folder.mkdir()
    trained = {"dtype": "bfloat16", "max_completion_length": 24}
    (folder / "training_summary.json").write_text(json.dumps({"agent": "answer", "recipe": trained}))
    expected = {"recall_per_speaker": 2, "answer_tokens": 24, "dtype": "bfloat16", "answer_style": "ids"}
    assert completed(recipe, "--answer", folder).items() >= expected.items()


@pytest.mark.parametrize(
    ("summary", "options", "longest"),
    [
        # Equal to the trainer's default, so the run's recipe does not hold it.
        ({"method": "grpo", "recipe": {"dtype": "bfloat16"}}, [], 512),
        # 32 tokens would end before the answer, and SFT did not check the bound against the length of quotes.
        ({"method": "sft", "recipe": {"answer_style": "quotes"}}, [], 128),
        # A length trained for one style says nothing about the other.
        ({"settings": {"answer_style": "ids", "max_new_tokens": 24}}, ["--answer-style", "quotes"], 128),
    ],
)
def test_an_answer_is_not_cut_to_a_length_it_was_not_trained_at(
    recipe: ModuleType, summary: dict[str, object], options: list[str], longest: int, tmp_path: Path
) -> None:
    (tmp_path / "training_summary.json").write_text(json.dumps({"agent": "answer", **summary}))
    assert completed(recipe, "--answer", tmp_path, *options)["answer_tokens"] == longest


def test_the_command_says_at_its_start_what_is_used(own_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    # Run as a script, where the module's name is `__main__`.
    arguments = ["--benchmark=dialogues", f"--file={own_file}", "--system=full-context", f"--model={tiny_model}"]
    command = [sys.executable, str(RECIPE), *arguments, "--quiet", f"--output={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "settings: recall_per_speaker 30 (benchmark), " in done.stderr


@pytest.mark.parametrize(("name", "other"), [("dtype", "float32"), ("embedder", "other-sentences")])
def test_agents_that_contradict_each_other_are_refused_unless_an_option_settles_it(
    recipe: ModuleType, name: str, other: str, tmp_path: Path
) -> None:
    manager = adapter(tmp_path / "manager", "manager", **TRAINED)
    answer = adapter(tmp_path / "answer", "answer", **{**TRAINED, name: other})
    with pytest.raises(
        ConfigurationError, match=rf"{name} '{TRAINED[name]}', the Answer Agent with '{other}'.*--{name}"
    ):
        completed(recipe, "--manager", manager, "--answer", answer)
    assert completed(recipe, "--manager", manager, "--answer", answer, f"--{name}", other)[name] == other


def test_the_folder_says_what_was_run_so_that_no_two_runs_meet(recipe: ModuleType) -> None:
    def folder(*arguments: object) -> str:
        output = completed(recipe, *arguments)["output"]
        assert isinstance(output, Path)
        return output.name

    demo = ["--manager", "outputs/demo/manager_grpo", "--answer", "outputs/demo/answer_grpo"]
    assert folder(*demo) == "synthetic-test-memory-r1.demo-manager_grpo.demo-answer_grpo"
    names = [
        folder(*arguments)
        for arguments in ([], demo, demo[:2], ["--seed", 1], ["--recall-per-speaker", 5], ["--limit", 9])
    ]
    assert len(set(names)) == len(names)
    assert names[3:] == [f"synthetic-test-memory-r1.{part}" for part in ("seed1", "recall_per_speaker5", "limit9")]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--embedder", "sentence-transformers/all-MiniLM-L12-v2"], "embedderall-MiniLM-L12-v2"),
        (["--embedder", "/models/minilm"], "embedderminilm"),
        (["--manager", "/adapter"], "adapter"),
    ],
)
def test_a_path_or_hub_id_does_not_nest_the_folder(recipe: ModuleType, arguments: list[str], part: str) -> None:
    # Banks are kept beside the folder; a deeper folder would share none with other runs.
    assert completed(recipe, *arguments)["output"] == Path("outputs/eval") / f"synthetic-test-memory-r1.{part}"


@pytest.mark.parametrize(
    ("benchmark", "expected"),
    [
        ("synthetic", ("test", 2)),
        ("locomo", ("test", 30)),
        ("longmemeval", ("test", 30)),
        ("msc", ("test", 30)),
        ("dialogues", ("all", 30)),
    ],
)
def test_defaults_depend_on_the_benchmark(recipe: ModuleType, benchmark: str, expected: tuple[str, int]) -> None:
    options = complete(recipe.parse_arguments(["--benchmark", benchmark]))
    assert (options.split, options.recall_per_speaker) == expected
    assert options.output == Path("outputs/eval") / f"{benchmark}-{expected[0]}-memory-r1"


def test_the_test_split_of_generated_dialogues_is_the_heldout_one(recipe: ModuleType) -> None:
    from data.synthetic.generator import generate_split

    options = complete(recipe.parse_arguments(["--benchmark", "synthetic", "--dialogues", "1", "--seed", "5"]))
    assert recipe.load_benchmark(options) == [example.dialogue for example in generate_split("heldout", 1, 5)]


def test_help_explains_the_options_without_loading_a_model() -> None:
    code = (
        f"import runpy, sys; sys.argv = ['evaluate.py', '--help']\n"
        f"try: runpy.run_path({str(RECIPE)!r}, run_name='__main__')\n"
        f"except SystemExit as exit: print('status', exit.code, 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "status 0 False" in shown
    for option in ("--benchmark", "--system", "--manager", "--answer", "--sessions", "--limit", "--restart"):
        assert option in shown
