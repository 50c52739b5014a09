"""What a training run will need, before it needs it: tokens a step, memory a process, and the order of its time.

`--dry-run` behind any training command prints it. No weights are loaded; `sizes.py` takes the model's shape from its
configuration and measures prompts on the first training dialogue. The formulas stand beside the numbers' names below:
memory is meant to be right within a third, time within a factor of three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.engines import sharding_of
from recipes.sizes import Shape, Typical, measure_device, shape_of, typical_row

GIB = 2**30
FOUR_BIT = 4.127 / 8  # bytes a weight of 4-bit NormalFloat with doubly quantised constants (QLoRA, section 3)
ADAPTER_BYTES = 4  # PEFT keeps adapters in float32; so are their gradients and Adam's two moments
HEAD_TILE = 4096  # tokens that TRL's fused head projects at a time
ANSWERS = "answers in the reward, if all of them differ"
PLAYED = "greedy turns to the branch and behind it"
REACHED = 0.4  # share of a plain matrix product's speed that a model's passes reach


@dataclass(frozen=True, slots=True)
class Load:
    """What one process has to do: in a micro-batch, in a rollout, and in how many passes.

    Attributes:
        rows: Rows of a rollout, all processes.
        prompt: P, tokens of a typical prompt.
        completion: T, tokens of the longest completion.
        micro_rows: Rows of a micro-batch.
        micro_prompts: Prompts that are read in a micro-batch.
        rollout_rows: Rows of a rollout that this process generates.
        rollout_prompts: Prompts that it reads for them.
        own_rollouts: Whether this process generates; vLLM does not need its memory.
        forward_passes: Forward passes over each row of a rollout, without gradient.
        training_passes: Forward and backward passes over each row.
        answers: Questions put to the Answer Agent in this process for one rollout, at most.
        steps_a_rollout: Optimiser steps that one rollout serves.
        turns_before: Turns that each prompt's dialogue is played before the rollout (`credit: branch`).
        turns_after: Turns that each row's branch is played behind it.
    """

    rows: int
    prompt: int
    completion: int
    micro_rows: int
    micro_prompts: int
    rollout_rows: int
    rollout_prompts: int
    own_rollouts: bool
    forward_passes: int
    training_passes: int
    answers: int
    steps_a_rollout: float
    turns_before: float = 0.0
    turns_after: float = 0.0

    @property
    def micro_tokens(self) -> int:
        """Tokens of a micro-batch, shared prompts counted once."""
        return self.micro_prompts * self.prompt + self.micro_rows * self.completion

    @property
    def rollout_tokens(self) -> int:
        """Tokens of this process's rollout, shared prompts counted once."""
        return self.rollout_prompts * self.prompt + self.rollout_rows * self.completion


def describe_run(method: str, arguments: MemoryArguments, config: Any, model: Any) -> str:
    """The whole report, one line a number."""
    shape = shape_of(str(model.model_name_or_path), model.lora_r, model.lora_target_modules or "all-linear")
    load = load_of(method, arguments, config, typical_row(arguments, str(model.model_name_or_path)))
    memory = memory_of(shape, load, arguments, config, model)
    device, flops, bandwidth = measure_device(str(model.dtype))
    seconds = seconds_of(shape, load, config, _bytes_a_number(model), flops, bandwidth)
    total = sum(memory.values())
    lines = [
        f"{arguments.agent}, {method}, {config.max_steps} steps on {config.world_size} process(es)",
        f"model: {shape.parameters:,} parameters; LoRA of rank {model.lora_r} trains {shape.trainable:,}",
        f"a rollout: {load.rows} rows, about {load.prompt} prompt and at most {load.completion} completion tokens each",
        f"a process reads {load.rollout_tokens:,} tokens a rollout, {load.micro_tokens:,} in a micro-batch",
        "memory a process, GiB:",
        *(f"  {name:<44}{size / GIB:8.2f}" for name, size in memory.items()),
        f"  {'total, without the libraries (CUDA: about 1)':<44}{total / GIB:8.2f}",
    ]
    if config.__dict__.get("use_vllm"):
        lines.append(_vllm_line(config))
    lines.append(
        f"time on this machine ({device}: {flops / 1e12:.2f} TFLOP/s, {bandwidth / 1e9:.0f} GB/s), seconds a step:"
    )
    lines += [f"  {name:<44}{value:8.2f}" for name, value in seconds.items()]
    longest = sum(seconds.values()) * max(0, config.max_steps) / 60
    least = longest - seconds.get(ANSWERS, 0.0) * max(0, config.max_steps) / 60
    lines.append(f"  the run, without validation: some {least:.0f} to {longest:.0f} minutes")
    return "\n".join(lines)


def load_of(method: str, arguments: MemoryArguments, config: Any, row: Typical) -> Load:
    """What the recipe's fields make of a step."""
    prompt = row.prompt
    rows = config.per_device_train_batch_size
    accumulated = config.gradient_accumulation_steps
    if method == "sft":
        completion = max(1, min(arguments.answer_max_tokens, (config.max_length or prompt) - prompt))
        everywhere = rows * accumulated * config.world_size
        return Load(
            everywhere, prompt, completion, rows, rows, rows * accumulated, rows * accumulated, False, 0, 1, 0, 1
        )
    generations = config.num_generations
    mine = rows * config.steps_per_generation
    shared = config.shared_prefix
    asked = (
        arguments.retention_questions + row.questions
        if arguments.agent == "manager" and arguments.answer_adapter
        else 0
    )
    # The old policy's log-probabilities take a pass of their own where the policy moves before it has used them up.
    old = method == "ppo" or config.num_iterations > 1 or config.steps_per_generation > accumulated or config.use_vllm
    return Load(
        rows=mine * config.world_size,
        prompt=prompt,
        completion=config.max_completion_length,
        micro_rows=rows,
        micro_prompts=max(1, rows // generations) if shared else rows,
        rollout_rows=mine,
        rollout_prompts=max(1, mine // generations) if shared else mine,
        own_rollouts=not config.use_vllm,
        forward_passes=int(bool(config.beta)) + int(old),
        training_passes=config.num_iterations,
        answers=mine * asked,
        steps_a_rollout=config.steps_per_generation * config.num_iterations / accumulated,
        turns_before=row.turns_before,
        turns_after=row.turns_after,
    )


def memory_of(shape: Shape, load: Load, arguments: MemoryArguments, config: Any, model: Any) -> dict[str, float]:
    """Bytes a process needs, by what for. Rollout and training pass take turns, so the larger one counts."""
    width = _bytes_a_number(model)
    processes = config.world_size
    stage = sharding_of(config)
    weights = float(shape.parameters * width)
    if model.load_in_4bit:
        weights = shape.linear * FOUR_BIT + (shape.parameters - shape.linear) * width
    reinforced = load.completion > 0 and hasattr(config, "num_generations")
    copies = 1 + int(reinforced and bool(config.beta)) + int(bool(arguments.answer_folder))
    activations = _activations(shape, load, width, bool(config.activation_checkpointing))
    # Branches are played on from banks of their own, so from prompts of their own.
    played = load.rollout_rows * (load.prompt + load.completion) if load.turns_after else 0
    cached = max(load.rollout_tokens, played) if load.own_rollouts else 0
    cache = cached * shape.layers * 2 * shape.keys * width
    # Rows of the tree mask: one for each completion token and query head of a key head, as booleans and as the
    # numbers that attention kernels make of them.
    columns = load.micro_tokens / load.micro_prompts
    mask = load.micro_rows * load.completion * columns * shape.heads_per_key * (1 + width)
    if load.micro_prompts == load.micro_rows:
        mask = 0.0
    head = min(load.micro_rows * load.completion, HEAD_TILE) * shape.vocabulary * 4
    return {
        "weights of the base model": weights / (processes if stage >= 3 else 1),
        f"adapters ({copies})": copies * shape.trainable * ADAPTER_BYTES / (processes if stage >= 3 else 1),
        "gradients and AdamW": 3 * shape.trainable * ADAPTER_BYTES / (processes if stage >= 2 else 1),
        "training pass, or the rollout's cache": max(activations + mask + head, float(cache)),
    }


def seconds_of(shape: Shape, load: Load, config: Any, width: int, flops: float, bandwidth: float) -> dict[str, float]:
    """Seconds of an optimiser step, by what for.

    A forward pass takes 2 operations a parameter and token; backward as many again, since the base's own gradients are
    not taken, and once more with checkpointing. A decoding step reads all weights once.
    """
    speed = flops * REACHED
    pass_seconds = 2 * shape.parameters * load.rollout_tokens / speed
    backward = 3 if config.activation_checkpointing else 2
    seconds = {
        "log-probabilities, no gradient (2 N tokens)": load.forward_passes * pass_seconds,
        f"training passes ({2 * backward} N tokens)": load.training_passes * backward * pass_seconds,
    }

    def generate(prompts: int, rows: int) -> float:
        prefill = 2 * shape.parameters * prompts * load.prompt / speed
        decode_step = max(shape.parameters * width / bandwidth, 2 * shape.parameters * rows / speed)
        return prefill + load.completion * decode_step

    if load.own_rollouts:
        seconds["rollout (prompts, then T steps over the weights)"] = generate(load.rollout_prompts, load.rollout_rows)
    if load.turns_before or load.turns_after:
        reached = load.turns_before * generate(load.rollout_prompts, load.rollout_prompts)
        seconds[PLAYED] = reached + load.turns_after * generate(load.rollout_rows, load.rollout_rows)
    if load.answers:
        seconds[ANSWERS] = 2 * shape.parameters * load.answers * load.prompt / speed
    return {name: value / load.steps_a_rollout for name, value in seconds.items()}


def _activations(shape: Shape, load: Load, width: int, checkpointing: bool) -> float:
    """What a training pass keeps for its backward pass.

    Inputs of a layer's products and non-linearities, with grouped keys and a gated feed-forward block, and no
    attention scores, which the fused kernels do not keep (after Korthikanti et al. 2022, section 4).
    """
    a_layer = 4 * shape.hidden + 2 * shape.queries + 2 * shape.keys + 4 * shape.feed_forward
    kept = shape.layers * shape.hidden + a_layer if checkpointing else shape.layers * a_layer
    return float(load.micro_tokens * kept * width)


def _bytes_a_number(model: Any) -> int:
    return 4 if str(model.dtype) in ("float32", "auto", "None") else 2


def _vllm_line(config: Any) -> str:
    if config.vllm_mode == "server":
        return "vLLM runs on its own devices and takes none of this memory"
    return f"vLLM beside it takes {config.vllm_gpu_memory_utilization:.0%} of the card"
