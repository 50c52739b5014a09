"""`--dry-run`: sizes of a real model, estimated against measured peaks, and nothing run."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from memory_r1.training.recipe_file import parse_recipe
from memory_r1.training.trainer_configs import MemoryGRPOConfig, MemorySFTConfig
from recipes import grpo, sft
from recipes.dry_run import Load, load_of, memory_of
from recipes.sizes import Shape, prompt_tokens, shape_of
from recipes.training_data import load_sources
from tests.tiny import load_base, lora_parameters, with_lora

SMOLLM2_135M = Shape(
    parameters=134_515_008,
    linear=106_168_320,
    trainable=4_884_480,
    layers=30,
    hidden=576,
    queries=576,
    keys=192,
    feed_forward=1536,
    vocabulary=49_152,
    heads=9,
)
# Two prompts of 50 tokens with 4 completions of 10 tokens each, in a vocabulary smaller than a tile's.
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
    heads=4,
)
LOAD = Load(
    rows=8, prompt=50, completion=10, micro_rows=8, micro_prompts=2, rollout_rows=8, rollout_prompts=2, passes=2
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
    """Make arguments, config and model with the fields that the estimate reads."""
    arguments = SimpleNamespace(answer_folder=fields.get("answer_adapter"))
    config = SimpleNamespace(
        world_size=fields.get("processes", 1),
        beta=fields.get("beta", 0.0),
        num_generations=4,
        activation_checkpointing=fields.get("checkpointing", False),
        deepspeed_plugin=SimpleNamespace(zero_stage=fields["stage"]) if "stage" in fields else None,
        distributed_state=SimpleNamespace(distributed_type="NO"),
    )
    return arguments, config, SimpleNamespace(dtype="bfloat16", load_in_4bit=fields.get("four_bit", False))


def memory(load: Load = LOAD, *, cpu: bool = True, **fields: Any) -> dict[str, float]:
    return memory_of("grpo", SHAPE, load, *settings(**fields), cpu=cpu)


def prompt_of(arguments: Any, model: Path) -> int:
    (source, *_), _ = load_sources(arguments)
    return prompt_tokens(arguments, str(model), source)


def test_sizes_are_those_of_the_real_model(tiny_model: Path) -> None:
    base = load_base(tiny_model)
    shape = shape_of(str(tiny_model), 4, "all-linear")
    assert shape.parameters == sum(value.numel() for value in base.parameters())
    layers = base.model.layers
    assert shape.linear == sum(value.numel() for name, value in layers.named_parameters() if "proj" in name)
    assert shape.trainable == sum(value.numel() for value in lora_parameters(with_lora(base)).values())
    assert (shape.layers, shape.hidden, shape.queries, shape.keys, shape.heads) == (2, 64, 64, 32, 4)
    assert (shape.feed_forward, shape.vocabulary) == (128, base.config.vocab_size)


@pytest.mark.parametrize(
    ("rows", "prompt", "completion", "measured"), [(32, 267, 38, 5.60), (64, 275, 41, 11.22), (64, 281, 48, 13.5)]
)
def test_the_peak_is_right_within_a_third(rows: int, prompt: int, completion: int, measured: float) -> None:
    # Measured peak of a step of recipes/smollm2-135m/manager_grpo.yaml on a CPU, in GB.
    load = Load(rows, prompt, completion, rows, rows // 8, rows, rows // 8, passes=3)
    found = memory_of("grpo", SMOLLM2_135M, load, *settings(beta=0.02, answer_adapter="somewhere"), cpu=True)
    assert [*found.values()][-1] == pytest.approx(measured * 1e9, rel=1 / 3)
    assert found["training pass: logits"] > found["training pass: activations"] > 20 * found["rollout: keys and values"]


def test_memory_is_what_a_hand_derives() -> None:
    # A layer keeps 2 * 100 + 3 * 100 + 2 * 50 + 4 * 200 = 1,400 numbers of 2 bytes and 200 of 4 a token, of which there
    # are 2 * 50 + 8 * 10 = 180; attention weights of 80 completion tokens and 100 prompt tokens, 4 heads of each.
    activations = 10 * (180 * (1_400 * 2 + 200 * 4) + 4 * (80 * (50 + 10) + 2 * 50 * 50) * 2)
    # Two passes with five copies each of 80 tokens' logits.
    logits = 2 * 5 * 80 * 1_000 * 4
    libraries, *parts, peak = memory().values()
    cache, chances = 180 * 10 * 2 * 50 * 2, 8 * 1_000 * 10
    assert parts == [2_000_000, 40_000, 120_000, cache, chances, activations, logits]
    assert peak == libraries + 2_160_000 + activations + logits
    # If the rollout takes more than the pass, it is the peak.
    large = memory(replace(LOAD, rollout_rows=10_000))
    assert [*large.values()][-1] > large["rollout: keys and values"] > activations + logits
    assert memory(beta=0.1, answer_adapter="somewhere")["adapters (3)"] == 120_000


def test_engines_and_options_change_what_they_should() -> None:
    plain = [*memory().values()][1:4]
    assert [*memory(processes=4).values()][1:4] == plain  # DDP shards nothing
    assert [*memory(processes=4, stage=2).values()][1:4] == [*plain[:2], plain[2] / 4]
    assert [*memory(processes=4, stage=3).values()][1:4] == [size / 4 for size in plain]
    assert memory(four_bit=True)["weights of the base model"] == pytest.approx(800_000 * 4.127 / 8 + 200_000 * 2)
    kept, checkpointed = (memory(checkpointing=on)["training pass: activations"] for on in (False, True))
    assert checkpointed == 180 * 10 * 100 * 2 + kept / 10


def test_a_gpu_keeps_no_attention_weights_and_one_tile_of_logits() -> None:
    found = memory(cpu=False)
    # The tree mask: 8 * 10 rows of 50 + 4 * 10 columns, for 2 query heads a key head, as a boolean and a bfloat16.
    assert found["training pass: activations"] == 10 * 180 * 3_600 + 80 * 90 * 2 * 3
    assert found["training pass: logits"] == 80 * 1_000 * 4


def test_a_recipe_becomes_the_load_of_a_step(tiny_model: Path, tmp_path: Path) -> None:
    fields = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3, "num_generations": 4}
    arguments, config, _ = parsed(tmp_path, tiny_model, **fields, max_completion_length=20)
    load = load_of("grpo", arguments, config, 100)
    assert (load.rows, load.micro_prompts, load.rollout_prompts) == (24, 2, 6)
    assert (load.micro_tokens, load.rollout_tokens) == (2 * 100 + 8 * 20, 6 * 100 + 24 * 20)
    assert (load.passes, load_of("ppo", arguments, config, 100).passes) == (2, 3)
    arguments, config, _ = parsed(tmp_path, tiny_model, **fields, shared_prefix=False, beta=0.1)
    load = load_of("grpo", arguments, config, 100)
    assert (load.micro_prompts, load.rollout_prompts, load.passes) == (8, 24, 3)
    arguments, config, _ = parsed(tmp_path, tiny_model, **fields, credit="branch")
    assert load_of("grpo", arguments, config, 100).rollout_prompts == 24  # each branch continues from its own bank


def test_a_session_is_a_longer_prompt_than_a_turn(tiny_model: Path, tmp_path: Path) -> None:
    turn, session, branch = (
        prompt_of(parsed(tmp_path, tiny_model, credit=credit)[0], tiny_model)
        for credit in ("turn", "session", "branch")
    )
    assert session > 1.5 * turn and branch == turn


def test_prompts_grow_with_what_is_recalled(tiny_model: Path, tmp_path: Path) -> None:
    sizes = []
    for agent in ("manager", "answer"):
        for recalled in (2, 20):
            arguments, _, _ = parsed(tmp_path, tiny_model, agent=agent, recall_per_speaker=recalled)
            sizes.append(prompt_of(arguments, tiny_model))
    assert 20 < sizes[0] < sizes[1] / 2 and 20 < sizes[2] < sizes[3] / 2


def test_a_writers_step_has_a_whole_dialogue_and_the_longest_text(tiny_model: Path, tmp_path: Path) -> None:
    own = {"agent": "writer", "metric_for_best_model": "eval_loss", "max_length": 4096}
    arguments, config, _ = parse_recipe(MemorySFTConfig, ["--config", recipe(tmp_path, tiny_model, **own)])
    assert prompt_of(arguments, tiny_model) > 20 * 10  # turns of ten tokens and more
    assert load_of("sft", arguments, config, 500).completion == 160


@pytest.mark.parametrize(("method", "config"), [("grpo", MemoryGRPOConfig), ("sft", MemorySFTConfig)])
def test_a_dry_run_prints_and_leaves_nothing(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, config: type
) -> None:
    caplog.set_level(logging.INFO)
    own = {"reward_funcs": ["operation_format"]} if method == "grpo" else {}
    main = {"grpo": grpo, "sft": sft}[method].main
    assert main(["--config", recipe(tmp_path, tiny_model, **own), "--dry-run"]) == 0
    for expected in (f"manager, {method}, 6 steps", "on a CPU, GiB", "weights of the base model", "peak"):
        assert expected in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
