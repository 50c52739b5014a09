"""What a training run will need, before it needs it: tokens a step, and memory a process.

`--dry-run` behind any training command prints it. No weights are loaded; `sizes.py` takes the model's shape from its
configuration and measures prompts on the first training dialogue. The peak is meant to be right within a third: for
GRPO of SmolLM2-135M's manager on a CPU it says 2.1, 5.1 and 9.1 GB at 8, 32 and 64 rows, where 1.7, 6.3 and 9.4 GB were
measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.sources import Source
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.engines import sharding_of
from recipes.sizes import Shape, Typical, shape_of, typical_row

GIB = 2**30
FOUR_BIT = 4.127 / 8  # bytes a weight of 4-bit NormalFloat with doubly quantised constants (QLoRA, section 3)
ADAPTER_BYTES = 4  # PEFT keeps adapters in float32; so are their gradients and Adam's two moments
HEAD_TILE = 4096  # tokens that TRL's fused head projects at a time
COPIES = 4  # of the logits, that a pass over completions holds on a CPU
CPU_LIBRARIES = 0.7e9  # measured
ACTIVATIONS, LOGITS, CACHE = "training pass: activations", "training pass: logits", "rollout: keys and values"


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
    turns_after: float = 0.0

    @property
    def micro_tokens(self) -> int:
        """Tokens of a micro-batch, shared prompts counted once."""
        return self.micro_prompts * self.prompt + self.micro_rows * self.completion

    @property
    def rollout_tokens(self) -> int:
        """Tokens of this process's rollout, shared prompts counted once."""
        return self.rollout_prompts * self.prompt + self.rollout_rows * self.completion


def describe_run(method: str, arguments: MemoryArguments, config: Any, model: Any, source: Source) -> str:
    """The whole report, one line a number; `source` is the dialogue that stands for all."""
    shape = shape_of(str(model.model_name_or_path), model.lora_r, model.lora_target_modules or "all-linear")
    load = load_of(method, arguments, config, typical_row(arguments, str(model.model_name_or_path), source))
    memory = memory_of(shape, load, arguments, config, model)
    peak = peak_of(memory)
    lines = [
        f"{arguments.agent}, {method}, {config.max_steps} steps on {config.world_size} process(es)",
        f"model: {shape.parameters:,} parameters; LoRA of rank {model.lora_r} trains {shape.trainable:,}",
        f"a rollout: {load.rows} rows, about {load.prompt} prompt and at most {load.completion} completion tokens each",
        f"a process reads {load.rollout_tokens:,} tokens a rollout, {load.micro_tokens:,} in a micro-batch",
        "memory a process, GiB:",
        *(f"  {name:<44}{size / GIB:8.2f}" for name, size in memory.items()),
        f"  {'peak of a step' + ('' if config.use_cpu else ', without CUDA itself (about 1)'):<44}{peak / GIB:8.2f}",
    ]
    if config.__dict__.get("use_vllm"):
        lines.append(_vllm_line(config))
    return "\n".join(lines)


def load_of(method: str, arguments: MemoryArguments, config: Any, row: Typical) -> Load:
    """What the recipe's fields make of a step."""
    prompt = row.prompt
    rows = config.per_device_train_batch_size
    accumulated = config.gradient_accumulation_steps
    if method == "sft":
        completion = max(1, min(arguments.answer_max_tokens, (config.max_length or prompt) - prompt))
        everywhere = rows * accumulated * config.world_size
        return Load(everywhere, prompt, completion, rows, rows, rows * accumulated, rows * accumulated, False)
    generations = config.num_generations
    mine = rows * config.steps_per_generation
    shared = config.shared_prefix
    return Load(
        rows=mine * config.world_size,
        prompt=prompt,
        completion=config.max_completion_length,
        micro_rows=rows,
        micro_prompts=max(1, rows // generations) if shared else rows,
        rollout_rows=mine,
        rollout_prompts=max(1, mine // generations) if shared else mine,
        own_rollouts=not config.use_vllm,
        turns_after=row.turns_after,
    )


def memory_of(shape: Shape, load: Load, arguments: MemoryArguments, config: Any, model: Any) -> dict[str, float]:
    """Bytes a process needs, by what for; see `peak_of`."""
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
    on_cpu = bool(config.use_cpu)
    # Rows of the tree mask: one for each completion token and query head of a key head, as booleans and as the
    # numbers that attention kernels make of them. On a CPU attention needs none.
    columns = load.micro_tokens / load.micro_prompts
    mask = load.micro_rows * load.completion * columns * shape.heads_per_key * (1 + width)
    if on_cpu or load.micro_prompts == load.micro_rows:
        mask = 0.0
    predicted = load.micro_rows * load.completion
    # On a CPU a pass holds logits, log-softmax, probabilities and their gradient of all tokens predicted, and what the
    # pass without gradient has freed stays with the process. On a GPU TRL projects a tile at a time.
    head = predicted * COPIES * (1 + int(reinforced and bool(config.beta))) if on_cpu else min(predicted, HEAD_TILE)
    return {
        **({"Python and its libraries": CPU_LIBRARIES} if on_cpu else {}),
        "weights of the base model": weights / (processes if stage >= 3 else 1),
        f"adapters ({copies})": copies * shape.trainable * ADAPTER_BYTES / (processes if stage >= 3 else 1),
        "gradients and AdamW": 3 * shape.trainable * ADAPTER_BYTES / (processes if stage >= 2 else 1),
        ACTIVATIONS: activations + mask,
        LOGITS: float(head * shape.vocabulary * 4),
        CACHE: float(cache),
    }


def peak_of(memory: Mapping[str, float]) -> float:
    """Bytes at the peak of a step. Rollout and training pass take turns, so the larger one counts."""
    training, rollout = memory[ACTIVATIONS] + memory[LOGITS], memory[CACHE]
    return sum(memory.values()) - min(training, rollout)


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
