"""`make train-token-retention` from end to end on a few dialogues, and the example of the same task."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from memory_r1 import environments
from memory_r1.entry import run_main
from memory_r1.systems.retention_policy import RetentionPolicy
from recipes import token_retention
from tests.tiny import embedder_folder

ROOT = Path(__file__).parents[2]
SMALL = ["--steps", "2048", "--train", "2", "--validation", "1", "--heldout", "2", "--seeds", "0", "1", "--size", "8"]


def test_it_trains_measures_and_repeats_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    command = [*SMALL, "--embedder", embedder_folder(), "--output", str(output), "--quiet"]
    assert run_main(token_retention.main, command) == 0
    results = json.loads((output / "results.json").read_text())
    answered = results["answered"]
    assert set(answered) == {"ppo", "maskable-ppo", "fifo", "lru", "used-first", "random", "belady"}
    assert answered["belady"]["share_of_belady"] == 1
    assert all(row["low"] <= row["mean"] <= row["high"] <= 1 for row in answered.values())
    assert len(answered["ppo"]["by_seed"]) == 2
    assert (results["streams"], results["questions"]) == (2, 2 * 14)
    assert "Belady" in capsys.readouterr().out
    logged = [json.loads(line) for line in (output / "ppo-seed0" / "log.jsonl").read_text().splitlines()]
    assert [row["steps"] for row in logged] == [0, 2048]
    # The published policy is the one that did best on the validation streams.
    best = RetentionPolicy.load(output / "policy").about
    shares = [RetentionPolicy.load(folder).about["validation_share"] for folder in output.glob("*ppo-seed?")]
    assert (len(shares), best["validation_share"]) == (4, max(shares))
    assert not list(output.rglob("*.zip")) and not list(output.rglob("*.pkl"))
    # A second launch finds all policies, and measures the same; other settings are refused.
    before = (output / "ppo-seed0" / "log.jsonl").stat().st_mtime_ns
    assert run_main(token_retention.main, command) == 0
    assert json.loads((output / "results.json").read_text()) == results
    assert (output / "ppo-seed0" / "log.jsonl").stat().st_mtime_ns == before
    assert run_main(token_retention.main, [*command, "--steps", "4096"]) == 1
    assert "ppo-seed0 holds a policy of other settings" in capsys.readouterr().err


def test_a_launch_goes_on_after_a_kill_but_not_with_another_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = [*SMALL, "--steps", "64", "--seeds", "0", "--algorithms", "ppo"]
    command += ["--embedder", embedder_folder(), "--output", str(output), "--quiet"]
    assert run_main(token_retention.main, command) == 0
    results = json.loads((output / "results.json").read_text())
    (embeddings,) = output.glob("embeddings-*.safetensors")
    embeddings.write_bytes(embeddings.read_bytes()[:200])  # as a kill leaves it
    assert run_main(token_retention.main, command) == 0
    assert json.loads((output / "results.json").read_text()) == results
    capsys.readouterr()
    assert run_main(token_retention.main, [*command, "--size", "4"]) == 1
    assert "ppo-seed0 holds a policy of other settings" in capsys.readouterr().err
    assert run_main(token_retention.main, [*command, "--size", "385"]) == 1
    assert "--size is 385, but the sentence model's embeddings have 384 values" in capsys.readouterr().err
    assert run_main(token_retention.main, [*command, "--seeds", "-1"]) == 1
    assert "--seeds has -1: give whole numbers from 0" in capsys.readouterr().err


def test_a_missing_extra_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(environments, "find_spec", lambda name: None if name == "sb3_contrib" else found(name))
    assert run_main(token_retention.main, ["--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == "error: environments: not installed: sb3_contrib; run pip install -e '.[environments]'\n"


def test_the_example_runs_as_a_user_runs_it() -> None:
    example = ROOT / "docs" / "examples" / "token_retention.py"
    result = subprocess.run(
        [sys.executable, str(example), "--steps", "2048", "--dialogues", "2", "--embedder", embedder_folder()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert all(name in lines[0] for name in ("1024 turns", "of questions answered", "retain", "discard", "add"))
    assert lines[-1].startswith("PPO: ") and lines[-2].startswith("first in, first out: ")


def test_an_evaluation_takes_a_policy_and_tells_it_from_another(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from memory_r1.systems.retention_policy import PUBLISHED
    from recipes import evaluate

    own = tmp_path / "policy"
    policy = RetentionPolicy.load(PUBLISHED)
    policy.about["seed"] = 99
    policy.save(own)
    arguments = ["--benchmark", "synthetic", "--system", "token-retention", "--model", str(tiny_model), "--quiet"]
    arguments += ["--limit", "1", "--embedder", embedder_folder(), "--output", str(tmp_path / "run")]
    assert run_main(evaluate.main, [*arguments, "--slot-policy", str(own)]) == 0
    logged = [json.loads(line) for line in (tmp_path / "run" / "operations.jsonl").read_text().splitlines()]
    assert {row["op"] for row in logged} >= {"ADD", "DELETE"}
    capsys.readouterr()
    assert run_main(evaluate.main, arguments) == 1
    assert "config.slot_policy_sha256 was" in capsys.readouterr().err
    assert run_main(evaluate.main, [*arguments, "--slot-policy", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "holds no policy of token-retention" in error
