"""What `--dry-run` says: sizes of a real model, arithmetic against numbers derived by hand; and that nothing runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from memory_r1.training.arguments import MemoryGRPOConfig, MemorySFTConfig
from memory_r1.training.recipe_file import parse_recipe
from recipes import dry_run, grpo, sft
from recipes.dry_run import GIB, PLAYED, Load, load_of, memory_of, seconds_of
from recipes.sizes import Shape, Typical, measure_device, shape_of, typical_row
from tests.tiny import load_base, lora_parameters, with_lora

# Small round numbers: 10 layers of width 100 with 4 query heads on 2 key heads, a vocabulary of 1,000.
SHAPE = Shape(
    parameters=1_000_000,
    linear=800_000,
    trainable=10_000,
    layers=10,
    hidden=100,
    queries=100,
    keys=50,
    feed_forward=200,
    vocabulary=1_000,
    heads_per_key=2,
)
# Two prompts of 50 tokens with 4 completions of 10 tokens each.
LOAD = Load(
    rows=8,
    prompt=50,
    completion=10,
    micro_rows=8,
    micro_prompts=2,
    rollout_rows=8,
    rollout_prompts=2,
    own_rollouts=True,
    forward_passes=1,
    training_passes=1,
    answers=0,
    steps_a_rollout=1.0,
)


def recipe(folder: Path, model: Path, **fields: Any) -> str:
    path = folder / "recipe.yaml"
    content = {
        "agent": "manager",
        "train_dialogues": 1,
        "validation_dialogues": 1,
        "model_name_or_path": str(model),
        "dtype": "float32",
        "lora_r": 4,
        "output_dir": str(folder / "run"),
        "use_cpu": True,
        "bf16": False,
        "max_steps": 6,
        "activation_checkpointing": False,
        **fields,
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def parsed(folder: Path, model: Path, **fields: Any) -> tuple[Any, Any, Any]:
    return parse_recipe(MemoryGRPOConfig, ["--config", recipe(folder, model, **fields)])


def settings(**fields: Any) -> tuple[Any, Any, Any]:
    """Arguments, config and model with the fields that the estimate reads."""
    arguments = SimpleNamespace(answer_adapter=fields.get("answer_adapter"))
    config = SimpleNamespace(
        world_size=fields.get("processes", 1),
        beta=fields.get("beta", 0.0),
        num_generations=4,
        activation_checkpointing=fields.get("checkpointing", False),
        deepspeed_plugin=SimpleNamespace(zero_stage=fields["stage"]) if "stage" in fields else None,
        distributed_state=SimpleNamespace(distributed_type="NO"),
    )
    return arguments, config, SimpleNamespace(dtype="bfloat16", load_in_4bit=fields.get("four_bit", False))


def memory(**fields: Any) -> list[float]:
    return list(memory_of(SHAPE, LOAD, *settings(**fields)).values())


def test_sizes_are_those_of_the_real_model(tiny_model: Path) -> None:
    base = load_base(tiny_model)
    shape = shape_of(str(tiny_model), 4, "all-linear")
    assert shape.parameters == sum(value.numel() for value in base.parameters())
    layers = base.model.layers
    assert shape.linear == sum(value.numel() for name, value in layers.named_parameters() if "proj" in name)
    assert shape.trainable == sum(value.numel() for value in lora_parameters(with_lora(base)).values())
    assert (shape.layers, shape.hidden, shape.queries, shape.keys, shape.heads_per_key) == (2, 64, 64, 32, 2)
    assert (shape.feed_forward, shape.vocabulary) == (128, base.config.vocab_size)


def test_memory_is_what_a_hand_derives() -> None:
    # A layer keeps 4 * 100 + 2 * 100 + 2 * 50 + 4 * 200 = 1,500 numbers a token; tokens: 2 * 50 + 8 * 10 = 180.
    activations = 180 * 10 * 1_500 * 2
    # 8 * 10 rows of 50 + 4 * 10 columns, for 2 query heads a key head, as a boolean and a bfloat16.
    mask = 80 * 90 * 2 * 3
    head = 80 * 1_000 * 4
    assert memory() == [2_000_000, 40_000, 120_000, activations + mask + head]
    weights, adapters, *_ = memory(beta=0.1, answer_adapter="somewhere")
    assert (weights, adapters) == (2_000_000, 3 * 40_000)  # policy, reference and frozen Answer Agent


def test_engines_and_options_change_what_they_should() -> None:
    plain = memory()
    assert memory(processes=4) == plain  # DDP shards nothing
    assert memory(processes=4, stage=2) == [*plain[:2], plain[2] / 4, plain[3]]
    assert memory(processes=4, stage=3) == [*(size / 4 for size in plain[:3]), plain[3]]
    assert memory(four_bit=True)[0] == pytest.approx(800_000 * 4.127 / 8 + 200_000 * 2)
    # Checkpointing keeps each layer's input, and one layer's inside.
    assert plain[3] - memory(checkpointing=True)[3] == 180 * 2 * (10 * 1_500 - (10 * 100 + 1_500))


def test_seconds_are_what_a_hand_derives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "REACHED", 0.5)
    _, config, _ = settings()
    # 1e6 operations a second are reached; a forward pass is 2 * 1e6 * 180 operations.
    values = list(seconds_of(SHAPE, LOAD, config, 2, flops=2e6, bandwidth=1e5).values())
    # Rollout: 100 prompt tokens read, then 10 steps over 2 MB of weights.
    assert values == [360.0, 720.0, 200.0 + 10 * 20.0]
    _, config, _ = settings(checkpointing=True)
    assert list(seconds_of(SHAPE, LOAD, config, 2, flops=2e6, bandwidth=1e5).values())[1] == 1080.0


def test_a_branch_is_played_to_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "REACHED", 0.5)
    _, config, _ = settings()
    load = replace(LOAD, turns_before=4.0, turns_after=1.5)
    played = seconds_of(SHAPE, load, config, 2, flops=2e6, bandwidth=1e5)[PLAYED]
    # Two dialogues, 100 prompt tokens a turn; then eight branches, 400. A decoding step reads 2 MB of weights.
    assert played == 4.0 * (200.0 + 10 * 20.0) + 1.5 * (800.0 + 10 * 20.0)
    assert PLAYED not in seconds_of(SHAPE, LOAD, config, 2, flops=2e6, bandwidth=1e5)
    # 8 * (50 + 10) cached tokens, not 180, 10 layers, 50 keys and 50 values of 2 bytes: still less than training.
    wide = replace(load, rollout_rows=400)
    assert list(memory_of(SHAPE, wide, *settings()).values())[3] == 400 * 60 * 10 * 2 * 50 * 2


def test_a_recipe_becomes_the_load_of_a_step(tiny_model: Path, tmp_path: Path) -> None:
    fields = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3, "num_generations": 4}
    arguments, config, _ = parsed(tmp_path, tiny_model, **fields, max_completion_length=20, beta=0.1)
    load = load_of("grpo", arguments, config, Typical(100))
    assert (load.rows, load.micro_prompts, load.rollout_prompts) == (24, 2, 6)
    assert (load.micro_tokens, load.rollout_tokens) == (2 * 100 + 8 * 20, 6 * 100 + 24 * 20)
    assert (load.forward_passes, load.training_passes, load.steps_a_rollout) == (1, 1, 1.0)
    assert load_of("ppo", arguments, config, Typical(100)).forward_passes == 2
    arguments, config, _ = parsed(tmp_path, tiny_model, **fields, num_iterations=2, shared_prefix=False)
    load = load_of("grpo", arguments, config, Typical(100))
    assert (load.micro_prompts, load.forward_passes, load.training_passes, load.steps_a_rollout) == (8, 1, 2, 2.0)


def test_credit_decides_what_a_row_is(tiny_model: Path, tmp_path: Path) -> None:
    rows = {}
    for credit in ("turn", "session", "branch"):
        arguments, config, _ = parsed(tmp_path, tiny_model, credit=credit)
        rows[credit] = typical_row(arguments, str(tiny_model))
    turn, session, branch = rows.values()
    assert (turn.questions, turn.turns_before, turn.turns_after) == (1, 0.0, 0.0)
    # A session's prompt holds all its turns, and more memories than a turn's.
    assert session.prompt > 1.5 * turn.prompt and session.turns_before == 0.0
    # 12 questions over 3 sessions; 20 turns, of which a branch in the middle of its session leaves some to play.
    assert session.questions == branch.questions == 4
    assert branch.prompt == turn.prompt
    assert 5 < branch.turns_before < 15 and 1 < branch.turns_after < 5
    arguments, config, _ = parsed(tmp_path, tiny_model, credit="branch")
    load = load_of("grpo", arguments, config, branch)
    assert (load.turns_before, load.turns_after) == (branch.turns_before, branch.turns_after)


def test_prompts_grow_with_what_is_recalled(tiny_model: Path, tmp_path: Path) -> None:
    sizes = []
    for agent in ("manager", "answer"):
        for recalled in (2, 20):
            arguments, _, _ = parsed(tmp_path, tiny_model, agent=agent, recall_per_speaker=recalled)
            sizes.append(typical_row(arguments, str(tiny_model)).prompt)
    assert 20 < sizes[0] < sizes[1] / 2 and 20 < sizes[2] < sizes[3] / 2


@pytest.mark.parametrize(("method", "config"), [("grpo", MemoryGRPOConfig), ("sft", MemorySFTConfig)])
def test_a_dry_run_prints_and_leaves_nothing(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, config: type
) -> None:
    caplog.set_level(logging.INFO)
    own = {"reward_funcs": ["operation_format"]} if method == "grpo" else {}
    main = {"grpo": grpo, "sft": sft}[method].main
    assert main(["--config", recipe(tmp_path, tiny_model, **own), "--dry-run"]) == 0
    for expected in (f"manager, {method}, 6 steps", "weights of the base model", "seconds a step", "minutes"):
        assert expected in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_the_devices_speed_is_measured() -> None:
    name, flops, bandwidth = measure_device("float32")
    assert name in ("cpu", "cuda")
    assert 1e8 < flops < 1e16 and 1e8 < bandwidth < 1e14
    assert GIB == 1024**3
