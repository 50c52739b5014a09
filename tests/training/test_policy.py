"""The model that a run trains: its adapters, and which of them learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from memory_r1.errors import ConfigurationError, ModelError
from memory_r1.training.policy import FROZEN_ANSWER, POLICY, load_policy
from tests.tiny import lora_parameters, snapshot, write_adapter


def test_a_new_policy_starts_as_the_base_and_all_its_adapter_learns(tiny_model: Path) -> None:
    policy, tokenizer, source = load_policy(str(tiny_model), dtype="float32", warm_start=None, lora_r=3, lora_alpha=6)
    assert (list(policy.peft_config), source) == ([POLICY], str(tiny_model))
    assert policy.peft_config[POLICY].lora_dropout == 0.0
    assert (policy.peft_config[POLICY].r, policy.peft_config[POLICY].lora_alpha) == (3, 6)
    trainable = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert trainable == set(lora_parameters(policy))
    assert not any("lm_head" in name for name in trainable)
    assert any("down_proj" in name for name in trainable)
    ids = torch.tensor([tokenizer("Ann lives in Lisbon")["input_ids"]])
    with torch.no_grad(), policy.disable_adapter():
        base = policy(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(policy(input_ids=ids).logits, base)


def test_the_seed_decides_the_start(tiny_model: Path) -> None:
    starts = [
        snapshot(lora_parameters(load_policy(str(tiny_model), dtype="float32", warm_start=None, seed=seed)[0]))
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())
    assert any(not torch.equal(value, starts[2][name]) for name, value in starts[0].items())


def test_targets_may_be_named(tiny_model: Path) -> None:
    policy, _, _ = load_policy(
        str(tiny_model), dtype="float32", warm_start=None, lora_target_modules=["q_proj", "v_proj"]
    )
    assert {name.split(".")[-4] for name in lora_parameters(policy)} == {"q_proj", "v_proj"}


def test_a_warm_start_is_continued_and_the_answer_agent_beside_it_is_frozen(tiny_model: Path, tmp_path: Path) -> None:
    start = write_adapter(tiny_model, tmp_path / "start", seed=1)
    answer = write_adapter(tiny_model, tmp_path / "answer", seed=2)
    policy, _, _ = load_policy(
        str(tiny_model), dtype="float32", warm_start=str(start), answer_adapter=str(answer), lora_r=16
    )
    assert set(policy.peft_config) == {POLICY, FROZEN_ANSWER}
    assert policy.active_adapter == POLICY
    assert policy.peft_config[POLICY].r == 4  # the adapter's own rank, not the recipe's
    for name, folder, learns in ((POLICY, start, True), (FROZEN_ANSWER, answer, False)):
        stored = load_file(folder / "adapter_model.safetensors")
        loaded = lora_parameters(policy, name)
        assert all(torch.equal(value, stored[key.replace(f".{name}.", ".")]) for key, value in loaded.items())
        assert {parameter.requires_grad for parameter in loaded.values()} == {learns}


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("auto", torch.float32)])
def test_the_base_has_the_dtype_of_the_recipe(tiny_model: Path, dtype: str, expected: torch.dtype) -> None:
    policy, _, _ = load_policy(str(tiny_model), dtype=dtype, warm_start=None)
    assert policy.get_base_model().model.embed_tokens.weight.dtype == expected


@pytest.mark.parametrize("role", ["warm_start", "answer_adapter"])
def test_an_adapter_that_cannot_be_used_is_refused(tiny_model: Path, tmp_path: Path, role: str) -> None:
    def load(folder: Path) -> None:
        load_policy(str(tiny_model), dtype="float32", **{"warm_start": None, role: str(folder)})

    with pytest.raises(ModelError, match="no such folder"):
        load(tmp_path / "missing")
    foreign = write_adapter(tiny_model, tmp_path / "foreign", seed=1)
    record = {"base_model": {"id": "some/other-model", "weights_sha256": "0" * 64}}
    (foreign / "training_summary.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="was trained on 'some/other-model'"):
        load(foreign)
    cut = write_adapter(tiny_model, tmp_path / "cut", seed=1)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        load(cut)


def test_a_missing_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_policy(str(tmp_path / "missing"), dtype="float32", warm_start=None)


def test_four_bits_are_refused_where_they_cannot_run(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(dtype: str = "bfloat16") -> None:
        load_policy(str(tiny_model), dtype=dtype, warm_start=None, load_in_4bit=True)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="there is no CUDA device"):
        load()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"bitsandbytes is missing; pip install -e '\.\[quantization\]'"):
        load()
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: True)
    with pytest.raises(ConfigurationError, match="dtype is 'auto'"):
        load("auto")


@pytest.mark.gpu
def test_a_base_of_four_bits_carries_a_trainable_adapter(tiny_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    policy, _, _ = load_policy(str(tiny_model), dtype="bfloat16", warm_start=None, load_in_4bit=True)
    assert policy.get_base_model().is_loaded_in_4bit
    stored = {value.dtype for name, value in policy.named_parameters() if "base_layer" in name}
    assert stored == {torch.uint8}
    assert all(value.requires_grad for value in lora_parameters(policy).values())
