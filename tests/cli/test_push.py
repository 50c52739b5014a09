"""`memory-r1 push`: a named list of files, asked for, and nothing private among them. A fake stands in for the hub."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from memory_r1.cli.app import main
from tests.tiny import write_adapter

TOKEN = "hf_" + "a1B2" * 9


class FakeHub:
    """Records what would reach the hub. `public` says whether the repository exists and is public."""

    public = False

    def __init__(self) -> None:
        self.private: bool | None = None
        self.uploaded: dict[str, bytes] = {}

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        self.private = private

    def repo_info(self, repo: str) -> Any:
        return SimpleNamespace(private=not self.public and self.private)

    def create_commit(self, repo: str, operations: list[Any], *, commit_message: str) -> Any:
        self.uploaded = {operation.path_in_repo: operation.path_or_fileobj for operation in operations}
        return SimpleNamespace(commit_url=f"https://hub/{repo}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    return fake


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    folder = write_adapter(tiny_model, tmp_path / "answer", seed=1)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    summary = {"agent": "answer", "base_model": {"id": "owner/tiny", "weights_sha256": None}, "recipe": "tuned by"}
    (folder / "training_summary.json").write_text(json.dumps(summary, indent=2))
    (folder / "README.md").write_text("# Answer agent, tuned by\n")
    (folder / "completions.jsonl").write_text("what users said\n")
    (folder / "checkpoint-1").mkdir()
    return folder


def test_only_the_named_files_travel_and_the_base_model_by_its_hub_id(
    adapter: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((adapter / "adapter_config.json").read_text())
    assert Path(before["base_model_name_or_path"]).is_absolute()
    assert main(["push", str(adapter), "ann/answer", "--yes"]) == 0
    assert set(hub.uploaded) == {
        *("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("chat_template.jinja", "README.md", "training_summary.json"),
    }
    assert json.loads(hub.uploaded["adapter_config.json"]) == before | {"base_model_name_or_path": "owner/tiny"}
    assert json.loads((adapter / "adapter_config.json").read_text()) == before
    assert hub.private is True
    printed = capsys.readouterr().out
    assert all(name in printed for name in hub.uploaded) and "https://hub/ann/answer/commit/1" in printed


@pytest.mark.parametrize(("answer", "uploads"), [("y\n", True), ("n\n", False), ("", False)])
def test_it_asks_before_it_uploads(
    adapter: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, answer: str, uploads: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main(["push", str(adapter), "ann/answer", "--public"]) == (0 if uploads else 1)
    assert bool(hub.uploaded) == uploads
    assert hub.private is (False if uploads else None)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("training_summary.json", TOKEN, "training_summary.json:7: found a secret"),
        ("training_summary.json", "C:\\\\Users\\\\ann", "training_summary.json:7: found the path"),
        ("README.md", "my-own-password-7", "README.md:1: found a secret"),
        ("README.md", "/home/ann/secret-project", "README.md:1: found the path '/home/ann/secret-project'"),
        ("README.md", f"{Path(__file__).parents[2]}/runs", "README.md:1: found the path"),
    ],
)
def test_what_is_private_does_not_travel_and_a_secret_is_not_shown(
    adapter: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    told: str,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("ANSWER_SERVER_KEY", "my-own-password-7")
    content = (adapter / name).read_text()
    (adapter / name).write_text(content.replace("tuned by", text))
    assert main(["push", str(adapter), "ann/answer", "--yes"]) == 1
    printed = capsys.readouterr()
    assert told in printed.err
    assert TOKEN not in printed.err + printed.out and "my-own-password-7" not in printed.err + printed.out
    assert hub.private is None and not hub.uploaded


def test_a_path_in_the_header_of_the_weights_is_found(
    adapter: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"source": "/home/ann/base"})
    assert main(["push", str(adapter), "ann/answer", "--yes"]) == 1
    assert "found the path '/home/ann/base'" in capsys.readouterr().err


def test_an_incomplete_folder_a_nameless_base_and_a_public_repository_are_refused(
    adapter: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.public = True
    assert main(["push", str(adapter), "ann/answer", "--yes"]) == 1
    assert "exists and is public" in capsys.readouterr().err
    (adapter / "training_summary.json").write_text('{"base_model": {"id": "tiny-llama"}}')
    assert main(["push", str(adapter), "ann/answer", "--yes"]) == 1
    assert "give the one it has with --base" in capsys.readouterr().err
    (adapter / "README.md").unlink()
    assert main(["push", str(adapter), "ann/answer", "--yes"]) == 1
    assert "missing README.md" in capsys.readouterr().err
    assert main(["push", str(adapter), "ann/an--swer", "--yes"]) == 1
    assert "error: REPO: Cannot have -- or .." in capsys.readouterr().err
    assert main(["push", str(adapter), "answer", "--yes"]) == 1
    assert "allowed: owner/name" in capsys.readouterr().err
    assert not hub.uploaded
