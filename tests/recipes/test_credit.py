"""The GRPO recipe with whole-session credit, in this process: a tiny random model, two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.test_smoke import LENGTH_REWARD, ROOT, Recipes, only_error, run_here
from tests.tiny import write_adapter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def fields(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "out"),
        "train_dialogues": 2,
        "answer_adapter": str(write_adapter(tiny_model, tmp_path / "answer", seed=2)),
        "answer_max_tokens": 4,
        "reward_funcs": ["answer_f1", "operation_format", LENGTH_REWARD],
        "reward_weights": [1.0, 0.1, 1.0],
    }


@pytest.mark.parametrize(("credit", "validated"), [("session", "Turn 1: "), ("branch", "Last turn: ")])
def test_a_recipe_trains_with_the_credit_it_names(
    credit: str, validated: str, fields: dict[str, Any], tiny_model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(ROOT)
    recipe = Recipes(tmp_path, tiny_model).write("run", "manager", "grpo", credit=credit, **fields)
    assert run_here("grpo", "--config", str(recipe)) == 0
    out = tmp_path / "out"
    summary = json.loads((out / "training_summary.json").read_text())
    assert summary["recipe"]["credit"] == credit
    assert summary["train_rows"] == {"session": 4, "branch": 2}[credit]  # max_train_rows; dialogues
    assert any(row["grad_norm"] > 0 for row in summary["log_history"] if "grad_norm" in row)
    assert summary["start_validation"] is not None
    rows = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    trained = [row for row in rows if validated in row["prompt"]]
    assert len(trained) == len(rows) == 8
    assert all(row["rewards"]["answer_f1"] is not None for row in rows)


def test_branches_cannot_be_sampled_with_what_only_trl_knows(
    fields: dict[str, Any], tiny_model: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    recipe = Recipes(tmp_path, tiny_model).write("run", "manager", "grpo", credit="branch", top_p=0.5, **fields)
    assert run_here("grpo", "--config", str(recipe)) == 1
    assert "credit is 'branch', which has its own sampling" in only_error(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
