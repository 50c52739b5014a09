"""What a recipe says of rewards and flat groups reaches the run, in this process: a tiny random model, two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.agents.prompts import ANSWER_MARKER
from tests.chat_server import ChatServer, reply
from tests.recipes.test_smoke import LENGTH_REWARD, ROOT, Recipes, only_error, run_here
from tests.tiny import write_adapter

REWARDS = {
    "manager": ["answer_bleu1", "llm_judge", "operation_faithfulness", "compression", "length", LENGTH_REWARD],
    "answer": ["answer_bleu1", "llm_judge", "evidence_recall", "evidence_precision", "length", LENGTH_REWARD],
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("agent", ["manager", "answer"])
def test_a_recipe_trains_on_every_reward_it_names(
    agent: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-123")
    fields: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"),
        "train_dialogues": 2,
        "reward_funcs": REWARDS[agent],
        "judge_model": "judge",
        "judge_key_variable": "JUDGE_KEY",
        "length_margin": 2,
        "resample_rounds": 1,
        "log_completions": False,
        "variance_sampling": 0.5,
    }
    if agent == "manager":
        fields["answer_adapter"] = str(write_adapter(tiny_model, tmp_path / "answer", seed=2))
        fields["answer_max_tokens"] = 4

    def grade(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        assert (body["model"], headers["Authorization"]) == ("judge", "Bearer sk-secret-123")
        assert ANSWER_MARKER not in body["messages"][-1]["content"]
        return reply("Far off.\nGRADE: 1")

    with ChatServer(grade) as server:
        recipe = Recipes(tmp_path, tiny_model).write("run", agent, "grpo", judge_url=server.url, **fields)
        assert run_here("grpo", "--config", str(recipe)) == 0
    text = (tmp_path / "out" / "training_summary.json").read_text()
    assert "sk-secret" not in text
    summary = json.loads(text)
    assert "judge_url" not in summary["recipe"] and summary["recipe"]["judge_model"] == "judge"
    rows = [json.loads(line) for line in (tmp_path / "out" / "completions.jsonl").read_text().splitlines()]
    names = [name.rpartition(":")[2].removesuffix("_reward") for name in REWARDS[agent]]
    assert rows
    assert all([name.removesuffix("_reward") for name in row["rewards"]] == names for row in rows)
    assert all(-1.0 <= row["rewards"]["length"] <= 0.0 for row in rows)
    if agent == "answer":  # a random manager's completions do not parse, and ask nothing
        assert {row["rewards"]["llm_judge"] for row in rows} == {0.5}
    assert any("resampling/flat_at_first" in entry for entry in summary["log_history"])


def test_a_judge_that_is_not_named_is_missed_before_anything_is_loaded(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    fields = {"output_dir": str(tmp_path / "out"), "reward_funcs": ["llm_judge"]}
    recipe = Recipes(tmp_path, tiny_model).write("run", "answer", "grpo", **fields)
    assert run_here("grpo", "--config", str(recipe)) == 1
    assert "'llm_judge' needs a judge; set judge_model" in only_error(capsys.readouterr().err)
