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
from recipes import grpo, sft
from recipes.dry_run import ACTIVATIONS, CACHE, LOGITS, Load, load_of, memory_of, peak_of
from recipes.rows import load_sources
from recipes.sizes import Shape, Typical, shape_of, typical_row
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
    arguments = SimpleNamespace(answer_folder=fields.get("answer_adapter"))
    config = SimpleNamespace(
        world_size=fields.get("processes", 1),
        beta=fields.get("beta", 0.0),
        num_generations=4,
        use_cpu=fields.get("use_cpu", False),
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
    # Keys and values: 2 * 50 + 8 * 10 tokens, 10 layers, 2 * 50 numbers of 2 bytes.
    assert memory() == [2_000_000, 40_000, 120_000, activations + mask, head, 180 * 10 * 100 * 2]
    # On a CPU no mask, and the logits of both passes four times over.
    libraries, *others = memory(use_cpu=True, beta=0.1)
    assert (libraries, others[3], others[4]) == (0.7e9, activations, head * 8)
    weights, adapters, *_ = memory(beta=0.1, answer_adapter="somewhere")
    assert (weights, adapters) == (2_000_000, 3 * 40_000)  # policy, reference and frozen Answer Agent


def test_engines_and_options_change_what_they_should() -> None:
    plain = memory()
    assert memory(processes=4) == plain  # DDP shards nothing
    assert memory(processes=4, stage=2) == [*plain[:2], plain[2] / 4, *plain[3:]]
    assert memory(processes=4, stage=3) == [*(size / 4 for size in plain[:3]), *plain[3:]]
    assert memory(four_bit=True)[0] == pytest.approx(800_000 * 4.127 / 8 + 200_000 * 2)
    # Checkpointing keeps each layer's input, and one layer's inside.
    assert plain[3] - memory(checkpointing=True)[3] == 180 * 2 * (10 * 1_500 - (10 * 100 + 1_500))


def test_a_branch_is_played_on() -> None:
    load = replace(LOAD, turns_after=1.5)
    # 8 * (50 + 10) cached tokens, not 180, 10 layers, 50 keys and 50 values of 2 bytes: still less than training.
    assert memory_of(SHAPE, load, *settings())[CACHE] == 8 * 60 * 10 * 2 * 50 * 2
    needed = memory_of(SHAPE, replace(load, rollout_rows=4000), *settings())
    assert needed[CACHE] > needed[ACTIVATIONS] + needed[LOGITS]
    assert peak_of(needed) == sum(needed.values()) - needed[ACTIVATIONS] - needed[LOGITS]


def test_a_recipe_becomes_the_load_of_a_step(tiny_model: Path, tmp_path: Path) -> None:
    fields = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3, "num_generations": 4}
    arguments, config, _ = parsed(tmp_path, tiny_model, **fields, max_completion_length=20, beta=0.1)
    load = load_of("grpo", arguments, config, Typical(100))
    assert (load.rows, load.micro_prompts, load.rollout_prompts) == (24, 2, 6)
    assert (load.micro_tokens, load.rollout_tokens) == (2 * 100 + 8 * 20, 6 * 100 + 24 * 20)
    arguments, config, _ = parsed(tmp_path, tiny_model, **fields, shared_prefix=False)
    assert load_of("grpo", arguments, config, Typical(100)).micro_prompts == 8


def test_credit_decides_what_a_row_is(tiny_model: Path, tmp_path: Path) -> None:
    rows = {}
    for credit in ("turn", "session", "branch"):
        arguments, config, _ = parsed(tmp_path, tiny_model, credit=credit)
        rows[credit] = typical_row(arguments, str(tiny_model), load_sources(arguments)[0][0])
    turn, session, branch = rows.values()
    # A session's prompt holds all its turns, and more memories than a turn's.
    assert session.prompt > 1.5 * turn.prompt
    assert (turn.turns_after, session.turns_after, branch.prompt) == (0.0, 0.0, turn.prompt)
    assert 1 < branch.turns_after < 5  # a branch in the middle of its session leaves some to play
    arguments, config, _ = parsed(tmp_path, tiny_model, credit="branch")
    assert load_of("grpo", arguments, config, branch).turns_after == branch.turns_after


def test_prompts_grow_with_what_is_recalled(tiny_model: Path, tmp_path: Path) -> None:
    sizes = []
    for agent in ("manager", "answer"):
        for recalled in (2, 20):
            arguments, _, _ = parsed(tmp_path, tiny_model, agent=agent, recall_per_speaker=recalled)
            sizes.append(typical_row(arguments, str(tiny_model), load_sources(arguments)[0][0]).prompt)
    assert 20 < sizes[0] < sizes[1] / 2 and 20 < sizes[2] < sizes[3] / 2


@pytest.mark.parametrize(("method", "config"), [("grpo", MemoryGRPOConfig), ("sft", MemorySFTConfig)])
def test_a_dry_run_prints_and_leaves_nothing(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, config: type
) -> None:
    caplog.set_level(logging.INFO)
    own = {"reward_funcs": ["operation_format"]} if method == "grpo" else {}
    main = {"grpo": grpo, "sft": sft}[method].main
    assert main(["--config", recipe(tmp_path, tiny_model, **own), "--dry-run"]) == 0
    for expected in (f"manager, {method}, 6 steps", "weights of the base model", "logits", "peak of a step"):
        assert expected in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
