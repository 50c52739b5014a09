"""A recipe's rewards and options for flat groups reach the run: a tiny random model, two steps, in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memory_r1.agents.prompts import ANSWER_MARKER
from recipes.logs import curves
from tests.chat_server import ChatServer, reply
from tests.recipes.test_smoke import ROOT, Recipes, only_error, run_here
from tests.tiny import write_adapter

USER_REWARD = "{folder}/own.py:length_reward"
REWARDS = {
    "manager": ["answer_bleu1", "llm_judge", "operation_faithfulness", "compression", "length", USER_REWARD],
    "answer": ["answer_bleu1", "llm_judge", "evidence_recall", "evidence_precision", "length", USER_REWARD],
}
ENTRY_COST = 0.25


# Completions of a group of four, in place of a random manager's, which would not parse and ask nothing.
OPERATIONS = ('[{"op": "ADD", "text": "A new fact"}]', '[{"op": "NOOP"}]', '[{"op": "DELETE", "id": 1}]', "No list.")


def scripted_rollout(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
    """TRL's `rollout_func`: OPERATIONS in turn."""
    tokenizer = trainer.processing_class
    texts = [OPERATIONS[place % len(OPERATIONS)] for place in range(len(prompts))]
    return {
        "prompt_ids": [
            tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
            for prompt in prompts
        ],
        "completion_ids": [
            [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts
        ],
        "logprobs": None,
    }


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("agent", "scripted"), [("manager", False), ("manager", True), ("answer", False)])
def test_a_recipe_trains_on_every_reward_it_names(
    agent: str, scripted: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if scripted:
        monkeypatch.setattr("memory_r1.training.grpo.shared_prefix_rollout", scripted_rollout)
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-123")
    own = (ROOT / "tests" / "fixtures" / "length_reward.py").read_text()
    executed = tmp_path / "executed"
    (tmp_path / "own.py").write_text(f"{own}\nwith open({str(executed)!r}, 'a') as file:\n    file.write('x')\n")
    rewards = [name.format(folder=tmp_path) for name in REWARDS[agent]]
    fields: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"),
        "train_dialogues": 2,
        "reward_funcs": rewards,
        "reward_weights": [0.5] * len(rewards),
        "judge_model": "judge",
        "judge_key_variable": "JUDGE_KEY",
        "length_margin": 2,
        "dynamic_sampling_rounds": 1,
        "log_completions": False,
        "variance_sampling": 0.5,
    }
    if agent == "manager":
        fields["answer_adapter"] = str(write_adapter(tiny_model, tmp_path / "answer", seed=2))
        fields |= {"answer_max_tokens": 4, "max_completion_length": 64 if scripted else 8, "entry_cost": ENTRY_COST}

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
    assert executed.read_text() == "x"  # a user's file runs once
    names = [name.rpartition(":")[2].removesuffix("_reward") for name in rewards]
    names += ["entry_cost"] if agent == "manager" else []
    assert rows
    assert all([name.removesuffix("_reward") for name in row["rewards"]] == names for row in rows)
    assert all(-1.0 <= row["rewards"]["length"] <= 0.0 for row in rows)
    if agent == "answer":
        assert {row["rewards"]["llm_judge"] for row in rows} == {0.5}
    elif scripted:
        by_text: dict[str, list[dict[str, Any]]] = {text: [] for text in OPERATIONS}
        for row in rows:
            by_text[row["completion"]].append(row["rewards"])
        *parsed, failed = by_text.values()
        # Every question is answered from the changed bank and graded.
        assert all(rewards["llm_judge"] == 0.5 for group in parsed for rewards in group)
        assert parsed[1] and all(rewards["operation_faithfulness_reward"] in (1.0, None) for rewards in parsed[1])
        assert all(0.0 <= rewards["compression_reward"] <= 1.0 for group in parsed for rewards in group)
        assert all(rewards["llm_judge"] == rewards["answer_bleu1"] == 0.0 for rewards in failed)
        # OPERATIONS add an entry, do nothing, delete one and do not parse; the entry cost is paid once.
        added, kept, deleted, unread = ([rewards["entry_cost"] for rewards in group] for group in by_text.values())
        assert added == [cost - ENTRY_COST for cost in kept] and unread == kept
        assert deleted == [min(0.0, cost + ENTRY_COST) for cost in kept]
        assert server.requests
        logged = [entry for entry in summary["log_history"] if "completions/parse_failures" in entry]
        assert logged and all(entry["completions/parse_failures"] == 0.25 for entry in logged if "loss" in entry)
    assert any("dynamic_sampling/zero_variance_at_first" in entry for entry in summary["log_history"])
    charts = {curve.title: set(curve.series) for curve in curves(agent, tmp_path / "out")}
    assert charts[f"{agent}: groups without a signal"] == {"flat", "zero_variance", "all_zero"}


def test_a_judge_that_is_not_named_is_missed_before_anything_is_loaded(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    fields = {"output_dir": str(tmp_path / "out"), "reward_funcs": ["llm_judge"]}
    recipe = Recipes(tmp_path, tiny_model).write("run", "answer", "grpo", **fields)
    assert run_here("grpo", "--config", str(recipe)) == 1
    assert "'llm_judge' needs a judge; set judge_model" in only_error(capsys.readouterr().err)
