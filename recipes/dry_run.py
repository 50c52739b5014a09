"""What a training run will need, before it needs it: tokens a step, memory a process, and the order of its time.

`--dry-run` behind any training command prints it. No weights are loaded; the model's shape comes from its
configuration, prompts are measured on the first training dialogue. The formulas stand beside the numbers' names below:
memory is meant to be right within a third, time within a factor of three.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from data.sources import Source
from memory_r1.agents.prompts import answer_prompt, manager_prompt
from memory_r1.models import resolve_model
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.engines import sharding_of
from memory_r1.types import MemoryEntry
from recipes import preparation

GIB = 2**30
FOUR_BIT = 4.127 / 8  # bytes a weight of 4-bit NormalFloat with doubly quantised constants (QLoRA, section 3)
ADAPTER_BYTES = 4  # PEFT keeps adapters in float32; so are their gradients and Adam's two moments
HEAD_TILE = 4096  # tokens that TRL's fused head projects at a time
ANSWERS = "answers in the reward, if all of them differ"
REACHED = 0.4  # share of a plain matrix product's speed that a model's passes reach


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's size. `linear` counts the weights of its linear layers, which 4-bit loading quantises."""

    parameters: int
    linear: int
    trainable: int
    layers: int
    hidden: int
    queries: int
    keys: int
    feed_forward: int
    vocabulary: int
    heads_per_key: int


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
    prompt = prompt_tokens(arguments, str(model.model_name_or_path))
    load = load_of(method, arguments, config, prompt)
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


def shape_of(model: str, lora_r: int, targets: list[str] | str) -> Shape:
    """Sizes from the configuration alone: the model is built without memory (on PyTorch's meta device)."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(resolve_model(model))
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
        parameters = sum(value.numel() for value in empty.parameters())
        embedding = empty.get_input_embeddings().weight.numel()
        linear = sum(
            module.weight.numel()
            for name, module in empty.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        )
        policy = get_peft_model(empty, LoraConfig(r=lora_r, target_modules=targets, task_type="CAUSAL_LM"))
        trainable = sum(value.numel() for value in policy.parameters() if value.requires_grad)
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return Shape(
        parameters=parameters,
        linear=linear,
        trainable=trainable,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        queries=text.num_attention_heads * size,
        keys=key_heads * size,
        feed_forward=getattr(text, "intermediate_size", 4 * text.hidden_size),
        vocabulary=embedding // text.hidden_size,
        heads_per_key=text.num_attention_heads // key_heads,
    )


def prompt_tokens(arguments: MemoryArguments, model: str) -> int:
    """Tokens of a prompt with a full recall, its memories as long as the turns of the first training dialogue."""
    from transformers import AutoTokenizer

    (source, *_), _ = preparation.load_sources(arguments)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(model))
    prompt = typical_prompt(source, arguments.agent, arguments.recall_per_speaker)
    return len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])


def typical_prompt(source: Source, agent: str, recall_per_speaker: int) -> list[dict[str, str]]:
    """A prompt of the agent's with `recall_per_speaker` memories of each speaker."""
    turns = [turn for session in source.dialogue.sessions for turn in session.turns]
    recalled: list[MemoryEntry] = []
    for speaker in source.dialogue.speakers:
        said = [turn for turn in turns if turn.speaker == speaker] or turns
        chosen = [said[index % len(said)] for index in range(recall_per_speaker)]
        recalled += [
            MemoryEntry(len(recalled) + number, turn.text, speaker, turn.timestamp, (turn.turn_id,))
            for number, turn in enumerate(chosen, start=1)
        ]
    if agent == "manager":
        return manager_prompt(turns[-1], turns[-3:-1], recalled)
    question = source.dialogue.questions[0]
    return answer_prompt(question.question, recalled, asked_at=question.asked_at)[0]


def load_of(method: str, arguments: MemoryArguments, config: Any, prompt: int) -> Load:
    """What the recipe's fields make of a step."""
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
    asked = arguments.retention_questions + 1 if arguments.agent == "manager" and arguments.answer_adapter else 0
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
    copies = 1 + int(reinforced and bool(config.beta)) + int(bool(arguments.answer_adapter))
    activations = _activations(shape, load, width, bool(config.activation_checkpointing))
    cache = load.rollout_tokens * shape.layers * 2 * shape.keys * width if load.own_rollouts else 0
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
    if load.own_rollouts:
        prefill = 2 * shape.parameters * load.rollout_prompts * load.prompt / speed
        decode_step = max(shape.parameters * width / bandwidth, 2 * shape.parameters * load.rollout_rows / speed)
        seconds["rollout (prompts, then T steps over the weights)"] = prefill + load.completion * decode_step
    if load.answers:
        seconds[ANSWERS] = 2 * shape.parameters * load.answers * load.prompt / speed
    return {name: value / load.steps_a_rollout for name, value in seconds.items()}


def measure_device(dtype: str) -> tuple[str, float, float]:
    """Name, speed of a matrix product (operations a second) and of a copy (bytes a second) of what training runs on."""
    name = "cuda" if torch.cuda.is_available() else "cpu"
    precision = getattr(torch, dtype, torch.float32)
    size = 4096 if name == "cuda" else 768
    matrix = torch.ones(size, size, dtype=precision, device=name)
    block = torch.ones(2**28 if name == "cuda" else 2**24, device=name)
    product = _quickest(lambda: matrix @ matrix, name)
    target = torch.empty_like(block)
    copy = _quickest(lambda: target.copy_(block), name)
    return name, 2 * size**3 / product, 2 * block.numel() * block.element_size() / copy


def _quickest(work: Any, device: str, times: int = 4) -> float:
    """Seconds of the quickest of a few calls; the first warms up."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


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
