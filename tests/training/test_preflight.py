"""A run's requirements are checked before anything is loaded, and errors name the remedy."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from accelerate.utils import DistributedType

from memory_r1.dialogue_file import write_dialogues
from memory_r1.errors import ConfigurationError
from memory_r1.training import preflight
from memory_r1.training.preflight import check_run
from memory_r1.training.sharding import sharding_of
from memory_r1.types import Dialogue, Session, Turn
from recipes import grpo, sft
from tests.tiny import write_adapter


def config(kind: DistributedType = DistributedType.NO, stage: int | None = None, **fields: Any) -> Any:
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    state = SimpleNamespace(distributed_type=kind)
    given = {"eval_strategy": "no", "output_dir": "outputs/none", "use_vllm": False, **fields}
    return SimpleNamespace(distributed_state=state, deepspeed_plugin=plugin, **given)


def arguments(agent: str = "answer", answer_adapter: str | None = None, **fields: Any) -> Any:
    given = {"warm_start": None, "manager_adapter": None, "banks": "gold", "credit": "turn", "filter_prompts": False}
    given |= fields
    return SimpleNamespace(agent=agent, answer_adapter=answer_adapter, answer_folder=answer_adapter, **given)


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return SimpleNamespace(model_name_or_path=str(tiny_model), load_in_4bit=False)


ZERO3 = {"kind": DistributedType.DEEPSPEED, "stage": 3}
FSDP = {"kind": DistributedType.FSDP}


def test_what_an_engine_splits_is_known() -> None:
    assert sharding_of(config()) == sharding_of(config(DistributedType.MULTI_GPU)) == 0
    assert sharding_of(config(DistributedType.DEEPSPEED, 2)) == 2
    assert sharding_of(config(**ZERO3)) == sharding_of(config(**FSDP)) == 3


def test_fsdp_is_known_before_accelerate_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding_of(config(DistributedType.MULTI_GPU)) == 3
    assert sharding_of(config(DistributedType.NO)) == 0  # Accelerate starts plain processes anyway


@pytest.mark.parametrize("engine", [ZERO3, FSDP])
def test_split_models_neither_validate_nor_answer_in_one_process(engine: dict[str, Any], model: Any) -> None:
    check_run(arguments(), config(**engine), model)
    check_run(arguments("manager"), config(**engine), model)
    with pytest.raises(ConfigurationError, match="eval_strategy: ZeRO-3 and FSDP"):
        check_run(arguments(), config(**engine, eval_strategy="steps"), model)
    asked = arguments("manager", "base")
    asked.answer_folder = None
    with pytest.raises(ConfigurationError, match="set answer_server instead"):
        check_run(asked, config(**engine), model)
    whole = config(DistributedType.DEEPSPEED, 2, eval_strategy="steps")
    check_run(asked, whole, model)


@pytest.mark.parametrize(
    ("fields", "four_bit", "complaint"),
    [
        (
            {"use_vllm": True, "vllm_mode": "server"},
            False,
            r"use_vllm: the package vllm is not installed; pip install -e",
        ),
        ({}, True, r"load_in_4bit: the package bitsandbytes is not installed; pip install -e '\.\[quantization\]'"),
    ],
)
def test_a_missing_extra_is_named(
    fields: dict[str, Any], four_bit: bool, complaint: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.load_in_4bit = four_bit
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=complaint):
        check_run(arguments(), config(**fields), model)
    monkeypatch.setattr(preflight, "find_spec", lambda name: object())
    if four_bit:
        with pytest.raises(ConfigurationError, match="load_in_4bit: found true, but there is no CUDA device"):
            check_run(arguments(), config(**fields), model)


def test_a_folder_that_cannot_be_made_is_refused(model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"output_dir: .*file/run cannot be written"):
        check_run(arguments(), config(output_dir=str(tmp_path / "file" / "run")), model)


def test_adapters_that_are_not_there_are_said_with_the_commands_that_train_them(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = "outputs/smollm2-135m"
    wanted = arguments("manager", f"{folder}/answer_sft", warm_start=f"{folder}/manager_sft")
    with pytest.raises(ConfigurationError) as refused:
        check_run(wanted, config(), model)
    message = str(refused.value)
    assert "warm_start: outputs/smollm2-135m/manager_sft, answer_adapter: outputs/smollm2-135m/answer_sft" in message
    assert "run `make train-manager-sft` and `make train-answer-sft` first" in message
    assert "demo" not in message
    for name in ("manager_sft", "answer_sft"):
        (tmp_path / "demo" / name).mkdir(parents=True)
    monkeypatch.setattr(preflight, "DEMO", tmp_path / "demo")
    demo = f"ARGS='--warm_start {tmp_path}/demo/manager_sft --answer_adapter {tmp_path}/demo/answer_sft'"
    with pytest.raises(ConfigurationError, match="or take the demo's with " + demo.replace(".", r"\.")):
        check_run(wanted, config(), model)
    elsewhere = arguments(warm_start="outputs/qwen2.5-3b/answer_sft")
    with pytest.raises(
        ConfigurationError, match=r"`make train-answer-sft RECIPE=recipes/qwen2\.5-3b/answer_sft\.yaml`"
    ):
        check_run(elsewhere, config(), model)


def dry_run(folder: Path, model: Path, method: str = "grpo", **fields: Any) -> tuple[int, str]:
    """Run a dry run in this process."""
    content = {
        "agent": "manager",
        "train_dialogues": 1,
        "validation_dialogues": 1,
        "model_name_or_path": str(model),
        "dtype": "float32",
        "output_dir": str(folder / "run"),
        "use_cpu": True,
        "bf16": False,
        "max_steps": 2,
        **({"reward_funcs": ["operation_format"]} if method == "grpo" else {}),
        **fields,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    try:
        return {"grpo": grpo, "sft": sft}[method].main(["--config", str(folder / "recipe.yaml"), "--dry_run"]), ""
    except (ValueError, RuntimeError) as error:
        return 1, str(error)


def test_a_dry_run_checks_what_the_run_would_and_says_its_memory_all_the_same(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    adapter = write_adapter(tiny_model, tmp_path / "adapter", seed=0)
    assert dry_run(tmp_path, tiny_model, warm_start=str(adapter)) == (0, "")
    (adapter / "adapter_model.safetensors").unlink()
    status, complaint = dry_run(tmp_path, tiny_model, warm_start=str(adapter))
    assert (status, "adapter_model.safetensors" in complaint) == (1, True)
    assert caplog.text.count("peak (rollout and pass take turns)") == 2  # on any machine, for planning
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"agent": "answer"}))
    status, complaint = dry_run(tmp_path, tiny_model, "sft")
    assert (status, "holds a run of another recipe" in complaint) == (1, True)


def test_dialogues_without_questions_are_refused_before_anything_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    time = "2023-05-08T10:00:00"
    said = (Session("s1", time, (Turn("s1:1", "Ann", "I moved to Rome.", "s1", time),)),)
    path = tmp_path / "own.jsonl"
    write_dialogues(path, [Dialogue(name, ("Ann", "Ben"), said) for name in ("d1", "d2")])
    status, complaint = dry_run(tmp_path, tiny_model, "sft", dataset=str(path))
    assert (status, f"{path}: found no question in its 1 training dialogues; add questions" in complaint) == (1, True)
    assert not os.path.exists(tmp_path / "run")


@pytest.mark.parametrize(
    ("credit", "fields", "complaint"),
    [
        ("branch", {}, "filter_prompts is set but credit is 'branch'"),
        ("turn", {"dynamic_sampling_rounds": 2}, "use one or the other"),
        ("turn", {"variance_sampling": 0.5}, "use one or the other"),
    ],
)
def test_prompts_are_filtered_only_where_they_stay(
    model: Any, monkeypatch: pytest.MonkeyPatch, credit: str, fields: dict[str, Any], complaint: str
) -> None:
    monkeypatch.setattr(preflight, "supports_shared_rollout", lambda config: True)
    asked = arguments(credit=credit, filter_prompts=True)
    with pytest.raises(ConfigurationError, match=complaint):
        check_run(asked, config(**{"dynamic_sampling_rounds": 0, "variance_sampling": 0.0, **fields}), model)
