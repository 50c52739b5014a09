"""What a memory system cannot use is refused in one line that says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from memory_r1.dialogue_file import write_dialogues
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError, StoreError
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.weaver import ADAPTER, Weaver
from memory_r1.jsonl import read_json, write_json
from memory_r1.systems.retention_policy import PUBLISHED
from memory_r1.systems.table import build_system
from recipes import compare_systems, evaluate
from tests.small_runs import dialogues
from tests.tiny import embedder_folder, with_lora, write_adapter

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that evaluates a system and returns the line that refuses it."""
    write_dialogues(tmp_path / "own.jsonl", dialogues()[1:])
    common = ["--benchmark=dialogues", f"--file={tmp_path / 'own.jsonl'}", f"--model={tiny_model}", "--quiet"]
    common += [f"--embedder={embedder_folder()}", f"--output={tmp_path / 'run'}", "--answer-tokens=2"]

    def run(system: str, *arguments: str) -> str:
        capfd.readouterr()
        assert run_main(evaluate.main, [*common, f"--system={system}", *arguments]) == 1
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        return last

    return run


def test_an_adapter_of_another_base_model_that_no_summary_names(refused: Refused, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    other = LlamaForCausalLM(LlamaConfig(vocab_size=512, **sizes))
    with_lora(other).save_pretrained(tmp_path / "writer")
    line = refused("profile", f"--writer={tmp_path / 'writer'}")
    assert f"adapter {tmp_path / 'writer'} does not fit" in line and "its own base model" in line
    assert "size mismatch" in line


def test_a_negative_number_of_recalls(refused: Refused) -> None:
    assert "recalled_per_turn is -1: give" in refused("memorybank", "--set=memorybank.recalled_per_turn=-1")


def test_a_slot_policy_where_none_decides(refused: Refused) -> None:
    assert "--slot-policy is given, but memory system 'rag' has none" in refused("rag", "--slot-policy=x")


@pytest.mark.parametrize("wrong", ["width", "projection"])
def test_a_policy_whose_parts_have_other_sizes(refused: Refused, tmp_path: Path, wrong: str) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(PUBLISHED, policy)
    if wrong == "width":
        write_json(policy / "policy.json", {**read_json(policy / "policy.json"), "width": 32})
    else:
        weights = load_file(policy / "policy.safetensors")
        weights["projection.components"] = weights["projection.components"][:, :32].contiguous()
        save_file(weights, policy / "policy.safetensors")
    line = refused("token-retention", f"--slot-policy={policy}")
    assert f"{policy} holds no policy of token-retention" in line and "make train-token-retention" in line
    assert ("size mismatch" if wrong == "width" else "32 directions") in line


class TestWeavers:
    @pytest.fixture
    def weaver(self, tmp_path: Path, tiny_model: Path) -> Path:
        folder = write_adapter(tiny_model, tmp_path / "weaver", 3)
        model = LocalLanguageModel.load(str(tiny_model), {ADAPTER: folder})
        Weaver.untrained(model, 3, adapter=ADAPTER, seed=0).save(folder)
        return folder

    def test_queries_without_a_length(self, refused: Refused, weaver: Path) -> None:
        save_file(
            {**load_file(weaver / "queries.safetensors"), "queries": torch.zeros(())}, weaver / "queries.safetensors"
        )
        assert "does not fit this base model" in refused("latent-tokens", f"--weaver={weaver}")

    def test_another_agents_folder(self, refused: Refused, weaver: Path) -> None:
        write_json(weaver / "training_summary.json", {"agent": "writer", "recipe": {}})
        line = refused("latent-tokens", f"--weaver={weaver}")
        assert (
            f"--weaver {weaver}: found the adapter of the writer agent" in line and "make train-latent-tokens" in line
        )

    def test_a_named_one_that_is_missing_ends_a_comparison_of_all_systems(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compare_systems, "run_python", lambda *arguments: None)
        with pytest.raises(ConfigurationError, match=r"found no queries\.safetensors"):
            compare_systems.main(["--benchmark=synthetic", f"--weaver={tmp_path}"])


class TestSavedFiles:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        system = build_system("mem1")
        for turn in dialogues()[1].turns():
            system.observe(turn, "c")
        system.save(tmp_path / "memory.db")
        return tmp_path / "memory.db"

    def test_cut_short(self, saved: Path) -> None:
        saved.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
        with pytest.raises(StoreError, match="malformed; it is cut short or damaged: restore a copy of it"):
            build_system("mem1").load(saved)

    def test_no_database(self, saved: Path) -> None:
        saved.write_text("hello\n" * 300)
        with pytest.raises(StoreError, match="not a database; give the path of a memory store or a new one"):
            build_system("mem1").load(saved)

    def test_empty(self, saved: Path) -> None:
        saved.write_bytes(b"")
        with pytest.raises(StoreError, match="is empty; give the path of a saved memory system"):
            build_system("mem1").load(saved)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="is a folder; give the path of a file"):
            build_system("mem1").save(tmp_path)


def test_a_restart_that_cannot_start_leaves_the_earlier_run(refused: Refused, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_json(run / "run.json", {})
    assert "context_tokens is 0" in refused("memgpt", "--restart", "--set=memgpt.context_tokens=0")
    assert (run / "run.json").is_file()
