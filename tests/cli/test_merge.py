"""`memory-r1 merge`: one folder that predicts what the adapter on its base predicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memory_r1.cli.app import main
from memory_r1.inference.adapters import attach_adapter
from tests.tiny import load_base, write_adapter

IDS = torch.arange(3, 40)[None]  # (1, T)


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    folder = write_adapter(tiny_model, tmp_path / "manager", seed=1, scale=0.3)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.3)])
def test_the_merged_folder_predicts_what_the_adapter_predicts(
    tiny_model: Path, adapter: Path, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--dtype", dtype]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert merged.dtype == getattr(torch, dtype)
    base = logits(load_base(tiny_model))
    expected = logits(attach_adapter(load_base(tiny_model), "a", adapter))
    assert (expected - base).abs().max() > 5 * tolerance
    torch.testing.assert_close(logits(merged).float(), expected, atol=tolerance, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert dtype in card and "licence" in card
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".json", ".safetensors", ".md", ".jinja"}


def test_a_merge_that_changes_predictions_is_not_kept(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("peft.LoraModel.merge_and_unload", lambda self, **_: self.unload())
    assert main(["merge", str(adapter), str(tmp_path / "out")]) == 1
    assert "merging changes a token's probability by" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_another_base_model_and_an_existing_folder_are_refused(
    tiny_model: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(adapter), str(tmp_path)]) == 1
    assert "exists; give the name of a new folder" in capsys.readouterr().err
    summary = {"base_model": {"id": "owner/other", "weights_sha256": "0" * 64}}
    (adapter / "training_summary.json").write_text(json.dumps(summary))
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--model", str(tiny_model)]) == 1
    assert "was trained on 'owner/other'" in capsys.readouterr().err
    assert main(["merge", str(tiny_model), str(tmp_path / "out")]) == 1
    assert "no adapter_config.json" in capsys.readouterr().err


def test_a_summary_without_a_base_model_and_with_an_odd_precision_does_not_stop_a_merge(
    adapter: Path, tmp_path: Path
) -> None:
    summary = {"base_model": "tiny", "settings": {"dtype": "auto"}}
    (adapter / "training_summary.json").write_text(json.dumps(summary))
    assert main(["merge", str(adapter), str(tmp_path / "out")]) == 1  # check_adapter refuses it in one line
    summary["base_model"] = {"id": "tiny-llama"}  # type: ignore[assignment]
    (adapter / "training_summary.json").write_text(json.dumps(summary))
    assert main(["merge", str(adapter), str(tmp_path / "out")]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.float32
