"""Estimate a training run's tokens per step and its peak memory per process; `--dry-run` prints the estimate.

No weights are loaded; `sizes.py` takes the model's shape from its configuration and measures a prompt on the first
training dialogue. On a CPU the peak should be right within a third (docs/engines.md has measurements).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.sources import Source
from memory_r1.drafting.drafts import DRAFT
from memory_r1.inference.cpu_attention import KEPT
from memory_r1.systems.memagent import MEMORY
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.sharding import sharding_of
from recipes.sizes import Shape, prompt_tokens, shape_of

GIB = 2**30
LIBRARIES = 1.0 * GIB  # Python's libraries and the embedder on a CPU; the CUDA context on a GPU
FOUR_BIT = 4.127 / 8  # bytes per weight of 4-bit NormalFloat with doubly quantised constants (QLoRA, section 3)
ADAPTER_BYTES = 4  # adapters are float32 in PEFT, as are their gradients and Adam's two moments
# TRL's fused head projects one tile of tokens by vocabulary at a time; off the GPU it works on five float32 tiles at
# once. On a CPU the next pass cannot reuse freed tiles, because activations lie between them.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
TILES = 5
SFT_LOGITS = 4  # float32 copies for a whole batch: logits, their softmax and both gradients


@dataclass(frozen=True, slots=True)
class Load:
    """The work of one process in a micro-batch and in a rollout.

    Attributes:
        rows: Rows of a rollout, over all processes.
        prompt: P, tokens of a typical prompt.
        completion: T, tokens of the longest completion.
        micro_rows: Rows of a micro-batch.
        micro_prompts: Prompts read in a micro-batch.
        rollout_rows: Rows that this process generates in a rollout; 0 if vLLM does.
        rollout_prompts: Prompts that it reads for them.
        passes: Passes per step that end in the head: one forward with the reference or old policy, if there is one,
            and the training pass's forward and backward.
    """

    rows: int
    prompt: int
    completion: int
    micro_rows: int
    micro_prompts: int
    rollout_rows: int
    rollout_prompts: int
    passes: int

    @property
    def micro_tokens(self) -> int:
        """Tokens of a micro-batch, shared prompts counted once."""
        return self.micro_prompts * self.prompt + self.micro_rows * self.completion

    @property
    def rollout_tokens(self) -> int:
        """Tokens of this process's rollout, shared prompts counted once."""
        return self.rollout_prompts * self.prompt + self.rollout_rows * self.completion


def describe_run(method: str, arguments: MemoryArguments, config: Any, model: Any, source: Source) -> str:
    """Return the report, one number per line, with `source` as the typical dialogue."""
    name = str(model.model_name_or_path)
    shape = shape_of(name, model.lora_r, model.lora_target_modules or "all-linear")
    load = load_of(method, arguments, config, prompt_tokens(arguments, name, source))
    cpu = config.device.type == "cpu"
    memory = memory_of(method, shape, load, arguments, config, model, cpu=cpu)
    lines = [
        f"{arguments.agent}, {method}, {config.max_steps} steps on {config.world_size} process(es)",
        f"model: {shape.parameters:,} parameters; LoRA of rank {model.lora_r} trains {shape.trainable:,}",
        f"a step: {load.rows} rows, about {load.prompt} prompt and at most {load.completion} completion tokens each",
        f"a process reads {load.rollout_tokens:,} tokens a rollout, {load.micro_tokens:,} in a micro-batch",
        f"memory a process on a {'CPU' if cpu else 'GPU'}, GiB:",
        *(f"  {part:<44}{size / GIB:8.2f}" for part, size in memory.items()),
    ]
    if config.__dict__.get("use_vllm"):
        lines.append(_vllm_line(config))
    return "\n".join(lines)


def load_of(method: str, arguments: MemoryArguments, config: Any, prompt: int) -> Load:
    """Return the load that the recipe's fields make of prompts of `prompt` tokens."""
    rows = config.per_device_train_batch_size
    accumulated = config.gradient_accumulation_steps
    if method == "sft":
        written = {"writer": MEMORY.max_new_tokens, "drafter": DRAFT.max_new_tokens}
        longest = written.get(arguments.agent, arguments.answer_max_tokens)
        completion = max(1, min(longest, (config.max_length or prompt) - prompt))
        return Load(rows * accumulated * config.world_size, prompt, completion, rows, rows, 0, 0, passes=2)
    generations = config.num_generations
    mine = rows * config.steps_per_generation
    shared = config.shared_prefix
    # The old policy's log-probabilities need a pass of their own if the policy is updated before it has used them all.
    old = method == "ppo" or config.num_iterations > 1 or config.steps_per_generation > accumulated or config.use_vllm
    # Branches continue from different banks, hence with different prompts.
    apart = not shared or arguments.credit == "branch"
    return Load(
        rows=mine * config.world_size,
        prompt=prompt,
        completion=config.max_completion_length,
        micro_rows=rows,
        micro_prompts=max(1, rows // generations) if shared else rows,
        rollout_rows=0 if config.use_vllm else mine,
        rollout_prompts=0 if config.use_vllm else mine if apart else max(1, mine // generations),
        passes=2 + int(old or bool(config.beta)),
    )


def memory_of(
    method: str, shape: Shape, load: Load, arguments: MemoryArguments, config: Any, model: Any, *, cpu: bool
) -> dict[str, float]:
    """Return the bytes that a process needs by purpose, and their peak.

    Rollout and training pass alternate, so only the larger one counts in the peak.
    """
    width = 4 if str(model.dtype) in ("float32", "auto", "None") else 2
    processes, stage = config.world_size, sharding_of(config)
    weights = float(shape.parameters * width)
    if model.load_in_4bit:
        weights = shape.linear * FOUR_BIT + (shape.parameters - shape.linear) * width
    reference = method != "sft" and bool(config.beta)
    copies = 1 + int(reference) + int(bool(arguments.answer_folder))
    standing = {
        "libraries": LIBRARIES,
        "weights of the base model": weights / (processes if stage >= 3 else 1),
        f"adapters ({copies})": copies * shape.trainable * ADAPTER_BYTES / (processes if stage >= 3 else 1),
        "gradients and AdamW": 3 * shape.trainable * ADAPTER_BYTES / (processes if stage >= 2 else 1),
    }
    rollout = {
        "rollout: keys and values": float(load.rollout_tokens * shape.layers * 2 * shape.keys * width),
        "rollout: logits": float(load.rollout_rows * shape.vocabulary * (width + 4 + 4)),  # float32 and its softmax
    }
    passes = {
        "training pass: activations": _activations(shape, load, width, bool(config.activation_checkpointing), cpu),
        "training pass: logits": _logits(method, shape, load, cpu),
    }
    peak = sum(standing.values()) + max(sum(rollout.values()), sum(passes.values()))
    return {**standing, **rollout, **passes, "peak (rollout and pass take turns)": peak}


def _activations(shape: Shape, load: Load, width: int, checkpointing: bool, cpu: bool) -> float:
    """Return the bytes of activations kept for the backward pass.

    They are the inputs of a layer's products and non-linearities, with grouped keys and a gated feed-forward block
    (after Korthikanti et al. 2022, section 4), those of its two norms in float32, and the part of attention.
    """
    a_token = 2 * shape.hidden + 3 * shape.queries + 2 * shape.keys + 4 * shape.feed_forward
    of_a_layer, of_a_pass = _attention(shape, load, width, cpu)
    a_layer = load.micro_tokens * (a_token * width + 2 * shape.hidden * 4) + of_a_layer
    if checkpointing:  # every layer's input, and the inside of the one layer being recomputed
        return load.micro_tokens * shape.layers * shape.hidden * width + a_layer + of_a_pass
    return shape.layers * a_layer + of_a_pass


def _attention(shape: Shape, load: Load, width: int, cpu: bool) -> tuple[float, float]:
    """Return the bytes that attention keeps per layer, and once for all layers.

    Products on a CPU (`inference/cpu_attention.py`) keep their weights. Fused kernels keep none, but read a tree's
    mask: one row per completion token and query head of a key head, as booleans and in the kernel's own format.
    """
    shared = load.micro_prompts < load.micro_rows
    completions = load.micro_rows * load.completion * shape.heads
    columns = load.micro_tokens // load.micro_prompts
    prompts = load.micro_prompts * shape.heads * load.prompt**2
    by_products = cpu and (shared or width == 2) and max(completions * columns, prompts) <= KEPT
    if by_products:
        own = completions * (load.prompt + load.completion)
        return (own + (prompts if width == 2 else 0)) * width, 0.0
    mask = load.micro_rows * load.completion * columns * (shape.queries // shape.keys) * (1 + width)
    return 0.0, float(mask if shared else 0)


def _logits(method: str, shape: Shape, load: Load, cpu: bool) -> float:
    tokens = load.micro_rows * load.completion
    if method == "sft":
        return float(SFT_LOGITS * tokens * shape.vocabulary * 4)
    tile = min(tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_VOCABULARY) * 4
    return float(tile * TILES * load.passes if cpu else tile)


def _vllm_line(config: Any) -> str:
    if config.vllm_mode == "server":
        return "vLLM runs on its own devices and takes none of this memory"
    return f"vLLM beside it takes {config.vllm_gpu_memory_utilization:.0%} of the card"
