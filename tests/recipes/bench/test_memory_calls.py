"""The benchmark of `Memory` times each call and shares out its time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from memory_r1.inference.language_model import Messages
from recipes.bench import memory_calls
from tests.assistant.memories import scripted_agents
from tests.fakes import ScriptedLanguageModel, keeping_script


def test_the_shares_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(prompt: Messages, adapter: str | None) -> str:
        time.sleep(0.02)
        return keeping_script(prompt, adapter)

    agents = scripted_agents(ScriptedLanguageModel(slowly))
    monkeypatch.setattr(memory_calls, "load_named", lambda options: agents)
    assert memory_calls.main(["--adds", "8", "--answers", "4", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "memory_calls.json").read_text(encoding="utf-8"))
    assert {verb: row["calls"] for verb, row in report.items()} == {"add": 8, "answer": 4}
    for row in report.values():
        assert 0.02 <= row["p50"] <= row["p95"]
        assert sum(row[part] for part in ("model", "recall", "store", "rest")) == pytest.approx(1)
        assert row["model"] > 0 and row["recall"] > 0 and min(row.values()) >= 0
