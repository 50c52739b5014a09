"""The command that trains and measures the weaver of latent-tokens, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import MemoryR1Error
from memory_r1.jsonl import read_json
from recipes import evaluate, latent_tokens
from recipes.measure_latents import compared
from tests.tiny import write_adapter

SMALL = (
    *("--train_dialogues=2", "--validation_dialogues=2", "--heldout_dialogues=2", "--vectors=2", "--max_steps=2"),
    *("--eval_steps=1", "--batch_size=2", "--distractors=1", "--dtype=float32"),
)
RECIPE = Path(__file__).parents[2] / "recipes" / "latent_tokens.yaml"


def run(model: Path, answer: Path, folder: Path, *more: str) -> int:
    named = (f"--model_name_or_path={model}", f"--answer={answer}", f"--output_dir={folder}")
    return latent_tokens.main(["--config", str(RECIPE), *named, *SMALL, *more])


def test_a_weaver_is_trained_measured_and_used_by_an_evaluation(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, folder = write_adapter(tiny_model, tmp_path / "answer", 1), tmp_path / "weaver"
    assert run(tiny_model, answer, folder) == 0
    assert {"adapter_config.json", "adapter_model.safetensors", "queries.safetensors", "README.md"} <= {
        path.name for path in folder.iterdir()
    }
    summary, measured = read_json(folder / "training_summary.json"), read_json(folder / "measured.json")
    assert [point["step"] for point in summary["log_history"]] == [0, 1, 2]
    assert (measured["questions"], measured["dialogues"]) == (8, 2)
    assert {len(scores) for scores in measured["scores"]["f1_squad"].values()} == {8}

    # A second call trains and measures nothing; a call with another recipe is refused.
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(tiny_model, answer, folder) == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written

    output = tmp_path / "evaluated"
    options = ["--benchmark=synthetic", "--dialogues=2", "--limit=4", "--system=latent-tokens", "--quiet"]
    models = [f"--model={tiny_model}", f"--answer={answer}", f"--weaver={folder}", f"--output={output}"]
    assert evaluate.main([*options, *models]) == 0
    results = read_json(output / "results.json")
    assert (results["system"], results["n_questions"]) == ("latent-tokens", 4)
    assert results["cost"]["write_tokens"] > 0


def test_the_deciding_differences_are_paired_by_question_and_need_both_intervals_above_zero() -> None:
    groups = {f"q{number}": f"d{number % 20}" for number in range(40)}

    def scores(own: float, another: float, none: float) -> dict[str, Any]:
        values = {"own": own, "another": another, "none": none}
        return {
            name: {key: {"f1_squad": value, "exact_match": value, "log_likelihood": value} for key in groups}
            for name, value in values.items()
        }

    found = compared(scores(0.9, 0.4, 0.1), groups)
    assert found["differences"]["f1_squad"]["own less another"]["low"] == pytest.approx(0.5)
    assert found["means"]["f1_squad"]["none"]["mean"] == pytest.approx(0.1)
    assert found["passes"]
    assert not compared(scores(0.9, 0.9, 0.1), groups)["passes"]
    assert not compared(scores(0.9, 0.4, 0.9), groups)["passes"]


def test_an_evaluation_without_a_weaver_says_what_to_run(tiny_model: Path) -> None:
    with pytest.raises(MemoryR1Error, match=r"'latent-tokens' needs a trained weaver: run make train-latent-tokens"):
        evaluate.main(["--benchmark=synthetic", "--system=latent-tokens", f"--model={tiny_model}"])


def test_a_folder_that_holds_no_weaver_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    named = ["--benchmark=synthetic", "--system=latent-tokens", f"--model={tiny_model}"]
    for folder in (tmp_path / "none", write_adapter(tiny_model, tmp_path / "agent", 0)):
        with pytest.raises(MemoryR1Error, match=rf"{folder}: found no queries\.safetensors.*make train-latent-tokens"):
            evaluate.main([*named, f"--weaver={folder}"])
    with pytest.raises(MemoryR1Error, match="--weaver is given, but memory system 'rag' has none"):
        evaluate.main(["--benchmark=synthetic", "--system=rag", f"--model={tiny_model}", "--weaver=w"])


def test_a_field_out_of_range_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(MemoryR1Error, match="heldout_dialogues: found 1, allowed: at least 2"):
        run(tiny_model, tmp_path, tmp_path / "weaver", "--heldout_dialogues=1")
    with pytest.raises(MemoryR1Error, match="vectors: found 0, allowed: at least 1"):
        run(tiny_model, tmp_path, tmp_path / "weaver", "--vectors=0")
