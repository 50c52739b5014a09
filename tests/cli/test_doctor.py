"""`memory-r1 doctor`: one line per check, with what mends it, and exit status 1 if one fails."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from memory_r1.cli.app import main
from memory_r1.memory.sqlite_log import SqliteLog
from memory_r1.models import weights_hash
from memory_r1.systems.state import ScopeState
from tests.tiny import write_adapter


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_R1_CACHE", str(tmp_path / "cache"))


def lines(output: str) -> dict[str, list[str]]:
    """Return the cells of each line of the table, by what was checked."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.splitlines()]
    return {row[1]: [row[0], *row[2:]] for row in cells if row and row[0] in ("ok", "warn", "fail")}


def adapter(tiny_model: Path, folder: Path, agent: str, **settings: object) -> Path:
    write_adapter(tiny_model, folder, seed=1)
    base = {"id": "owner/tiny", "weights_sha256": weights_hash(str(tiny_model))}
    summary = {"agent": agent, "method": "grpo", "base_model": base, "settings": {"dtype": "float32", **settings}}
    (folder / "training_summary.json").write_text(json.dumps(summary))
    return folder


def test_what_is_missing_is_told_with_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = ["torch>=2", "rich>=10000", "no-such-package>=1,<2", "vllm>=0.27; extra == 'vllm'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ranges)
    assert main(["doctor"]) == 1
    found = lines(capsys.readouterr().out)
    assert found["no-such-package"] == ["fail", "not installed", "pip install 'no-such-package<2,>=1'"]
    assert found["rich"][0] == "warn" and found["rich"][-1] == "pip install 'rich>=10000'"
    assert "vllm" not in found and found["packages"][1].startswith("2 installed, among them torch ")
    assert found["SmolLM2-135M-Instruct"] == ["warn", "not prepared yet", "python -m memory_r1.models"]
    assert {"Python", "GPU", "threads", "memory", "packaged adapters"} <= found.keys()
    assert not (tmp_path / "cache").exists()


def test_sound_adapters_and_stores_pass(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [])
    manager = adapter(tiny_model, tmp_path / "m", "manager")
    answer = adapter(tiny_model, tmp_path / "a", "answer", recall_per_speaker=2)
    SqliteLog(tmp_path / "memory.db", ScopeState(), system="rag").close()
    given = ["--adapter", str(manager), "--adapter", str(answer), "--store", str(tmp_path / "memory.db")]
    assert main(["doctor", *given, "--model", str(tiny_model)]) == 0
    found = lines(capsys.readouterr().out)
    assert found[f"adapter {answer}"] == ["ok", "answer, grpo on owner/tiny, float32, recalls 2"]
    assert found["pair"][0] == "ok"
    assert found[f"store {tmp_path / 'memory.db'}"] == ["ok", "sound, of system rag, scopes 0, records 0"]


def test_an_adapter_of_another_base_a_pair_that_differs_and_a_damaged_store_fail(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [])
    manager = adapter(tiny_model, tmp_path / "m", "manager", dtype="bfloat16")
    answer = adapter(tiny_model, tmp_path / "a", "answer")
    summary = json.loads((answer / "training_summary.json").read_text())
    summary["base_model"]["weights_sha256"] = "0" * 64
    (answer / "training_summary.json").write_text(json.dumps(summary))
    (tmp_path / "memory.db").write_text("no database")
    given = ["--adapter", str(manager), "--adapter", str(answer), "--store", str(tmp_path / "memory.db")]
    assert main(["doctor", *given, "--model", str(tiny_model)]) == 1
    found = lines(capsys.readouterr().out)
    assert found[f"adapter {manager}"][0] == "ok"
    assert found[f"adapter {answer}"][0] == "fail" and "was trained on 'owner/tiny'" in found[f"adapter {answer}"][1]
    assert found["pair"][0] == "fail" and "dtype" in found["pair"][1]
    assert found[f"store {tmp_path / 'memory.db'}"][0] == "fail"
