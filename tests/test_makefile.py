"""The Makefile's commands as make would run them: only options with a value, and one help line per target."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
TRAINING = [target for target in TARGETS if re.fullmatch("train-(manager|answer)-.*", target)]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Do not inherit the variables of the `make test` that runs these tests.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def last_command(*arguments: str) -> str:
    """Return the last command that make would run for these arguments."""
    result = make("--dry-run", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.replace("\\\n", " ").rstrip().splitlines()[-1].strip()


def test_help_is_the_default_and_lists_every_target() -> None:
    listed = re.findall(r"^  ([a-z-]+) +\S", make().stdout, re.MULTILINE)
    assert sorted(listed) == sorted(TARGETS)
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_makes_its_own_environment(target: str) -> None:
    plan = make("--dry-run", "--what-if=pyproject.toml", target, "FILE=own.jsonl", "FOLDER=run")
    assert plan.returncode == 0, plan.stderr
    assert ("pip install" in plan.stdout) == (target not in ("help", "clean"))


def test_options_without_a_value_are_left_out() -> None:
    assert last_command("eval-locomo").endswith("recipes/evaluate.py --benchmark locomo")
    assert last_command("reproduce-cpu").endswith("recipes/reproduce.py")
    assert "--seed" not in last_command("train-manager-grpo")


def test_options_reach_the_evaluation() -> None:
    command = last_command(
        "eval-locomo", "MANAGER=runs/my manager", "LIMIT=5", "SPLIT=validation", "SYSTEM=rag", "SEED=1", "FORM=s"
    )
    for option in (
        "--manager 'runs/my manager'",
        "--limit '5'",
        "--split 'validation'",
        "--system 'rag'",
        "--seed '1'",
        "--form 's'",
    ):
        assert option in command


@pytest.mark.parametrize("target", ["eval-synthetic", "compare"])
def test_a_writer_may_be_behind_a_server(target: str) -> None:
    command = last_command(target, "BENCHMARK=synthetic", "WRITER=org/model", "ENDPOINT=http://127.0.0.1:8000/v1")
    assert "--writer 'org/model' --writer-endpoint 'http://127.0.0.1:8000/v1'" in command


@pytest.mark.parametrize("benchmark", ["synthetic", "locomo", "longmemeval", "msc"])
def test_every_benchmark_has_a_target(benchmark: str) -> None:
    words = shlex.split(last_command(f"eval-{benchmark}", "DATA=my data"))
    assert words[1:] == ["recipes/evaluate.py", "--benchmark", benchmark, "--data", "my data"]


def test_data_fills_the_cache_or_looks_at_a_folder() -> None:
    assert last_command("data").endswith("python -m data")
    assert last_command("data", "DATA=my data").endswith("python -m data 'my data'")


@pytest.mark.parametrize("target", TRAINING)
def test_training_names_its_recipe_and_takes_another(target: str) -> None:
    _, agent, method = target.split("-")
    command = last_command(target)
    assert f"recipes/{method}.py --config 'recipes/smollm2-135m/{agent}_{method}.yaml'" in command
    assert "--config_file 'recipes/accelerate/cpu.yaml'" in command
    assert "OMP_NUM_THREADS" in command
    assert "--config 'own.yaml' --seed '3'" in last_command(target, "RECIPE=own.yaml", "SEED=3")


def test_the_weaver_is_trained_through_the_answer_agent_that_is_named() -> None:
    words = shlex.split(last_command("train-latent-tokens", "ANSWER=my agent", "SEED=3"))
    expected = [
        "recipes/latent_tokens.py",
        "--config",
        "recipes/latent_tokens.yaml",
        "--answer",
        "my agent",
        "--seed",
        "3",
    ]
    assert words[1:] == expected


@pytest.mark.parametrize("written", ["ddp.yaml", "'ddp.yaml' # four GPUs"])
def test_training_runs_under_the_accelerate_file_that_the_recipe_names(tmp_path: Path, written: str) -> None:
    recipe = tmp_path / "my recipe.yaml"
    recipe.write_text(f"agent: manager\naccelerate: {written}\n")
    command = last_command("train-manager-grpo", f"RECIPE={recipe}")
    assert "--config_file 'ddp.yaml'" in command
    assert "OMP_NUM_THREADS" not in command
    assert "--config_file 'other.yaml'" in last_command(
        "train-manager-grpo", f"RECIPE={recipe}", "ACCELERATE=other.yaml"
    )


def test_a_recipe_that_names_no_accelerate_file_runs_on_the_cpu(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("agent: manager\n# accelerate: ddp.yaml\n")
    for given in (recipe, tmp_path / "missing.yaml"):
        command = last_command("train-manager-grpo", f"RECIPE={given}")
        assert "--config_file 'recipes/accelerate/cpu.yaml'" in command
        assert "OMP_NUM_THREADS" in command


@pytest.mark.parametrize(
    ("target", "variables"),
    [
        ("data", ["DATA"]),
        ("train-answer-grpo", ["RECIPE", "SEED"]),
        ("eval-dialogues", ["FILE", "SYSTEM", "MODEL", "MANAGER", "ANSWER", "DATA", "OUTPUT"]),
        ("eval-msc", ["SPLIT", "FORM", "SESSIONS", "LIMIT", "SEED"]),
        ("compare", ["BENCHMARK"]),
        ("rescore", ["FOLDER"]),
        ("report", ["FOLDER"]),
        ("judge", ["FOLDER", "MODEL", "RUBRIC", "LIMIT"]),
        ("judge", ["FOLDER", "MODEL", "ENDPOINT"]),
        ("reproduce-cpu", ["STAGE", "SEED"]),
        ("package-adapters", ["FOLDER"]),
        ("bench", ["MODEL", "OUTPUT"]),
        ("train-token-retention", ["OUTPUT"]),
    ],
)
def test_a_value_with_apostrophes_and_spaces_is_one_word_of_the_command(target: str, variables: list[str]) -> None:
    values = [f"Ann's  {variable}, 'new'" for variable in variables]
    command = last_command(target, *(f"{name}={value}" for name, value in zip(variables, values, strict=True)))
    assert sorted(word for word in shlex.split(command) if word.startswith("Ann's")) == sorted(values)


def test_each_of_the_systems_is_a_word_of_its_own() -> None:
    words = shlex.split(last_command("compare", "BENCHMARK=synthetic", "SYSTEMS=none rag"))
    assert words[words.index("--systems") + 1 :] == ["none", "rag"]


@pytest.mark.parametrize(
    ("target", "example"),
    [
        ("eval-dialogues", "FILE=own.jsonl"),
        ("compare", "BENCHMARK=synthetic"),
        ("package-adapters", "FOLDER=outputs/reproduce/seed0"),
        *((target, "FOLDER=outputs/eval/...") for target in ("rescore", "report", "judge")),
    ],
)
def test_missing_argument_is_named_with_an_example_before_anything_runs(target: str, example: str) -> None:
    result = make("--assume-old=pyproject.toml", "--assume-old=constraints.txt", target)
    assert result.returncode != 0
    variable = example.partition("=")[0]
    assert f"error: give {variable}=..., for example 'make {target} {example}'" in result.stderr
    assert "pip install" not in result.stdout


def test_an_argument_with_an_apostrophe_is_there() -> None:
    assert make("need-FILE", "FILE=Ann's own.jsonl").returncode == 0
