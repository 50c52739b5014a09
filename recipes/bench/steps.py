"""Whole GRPO steps of both trainers, timed through TRL's public hooks: rollout, then log-probabilities and backward."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from memory_r1.errors import TrainingError
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.policy import load_policy
from memory_r1.training.shared_prefix import keep_positions
from recipes.bench.measuring import (
    Job,
    Measurement,
    Meter,
    Settings,
    Side,
    Turns,
    available_bytes,
    device,
    forward_tokens,
)
from recipes.bench.peak import flops_a_token
from recipes.bench.prompts import prompt_of, token_ids

Reward = Callable[..., list[float | None]]

# In forward passes: the frozen base needs no weight gradients, so backward costs one product per weight, like forward.
FORWARD_AND_BACKWARD = 2
_SPARE = 0.9  # share of the available memory for stock's micro-batch
_CLEARLY = 0.95  # below this share of another time, a time is shorter by more than noise
_HEAD_PROBE_TOKENS = 256
_ATTENTION_PROBE_TOKENS = 2048  # eager attention keeps every score, so more may not fit


class StepClock(TrainerCallback):
    """Times the parts of each step; TRL's one reward call separates the rollout from the rest.

    Each measured step first waits for this side's turn; `notes` are sent before the first one.

    Args:
        turns: The connection that starts steps and takes reports.
        meter: Clock and memory.
        side: This side.
        job: The content of each step.
        tokenizer: Counts prompt tokens.
        inner: The reward.
        answer_tokens: Returns the tokens that the reward ran through the layers and projected since the last call.
    """

    def __init__(
        self,
        turns: Turns,
        meter: Meter,
        side: Side,
        job: Job,
        tokenizer: Any,
        inner: Reward,
        answer_tokens: Callable[[], tuple[int, int]],
    ) -> None:
        self.turns, self.meter, self.side, self.job, self.tokenizer = turns, meter, side, job, tokenizer
        self.inner, self.answer_tokens = inner, answer_tokens
        self.__name__ = "bench"
        self.measured = Measurement()
        self.started = self.mark = 0.0
        self.prompts: list[Any] = []
        self.lengths: set[int] = set()
        self.step = 0
        self.notes: dict[str, Any] = {}

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Wait, then start the clock."""
        self.step += 1
        if self.step == self.job.unmeasured + 1:
            self.turns.ready(**self.notes)
        if self.step > self.job.unmeasured:
            self.turns.wait()
        self.measured = Measurement()
        self.started = self.mark = self.meter.restart()

    def __call__(
        self, *, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        """End the rollout: this is TRL's reward call."""
        self._part("rollout")
        rewards = self.inner(prompts=prompts, completion_ids=completion_ids, **columns)
        self.prompts, self.lengths = list(prompts), {len(ids) for ids in completion_ids}
        self._part("reward")
        return rewards

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """End log-probabilities, loss, backward and gradient clipping."""
        self._part("logprob")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Report the step."""
        self.measured.seconds["step"] = self.meter.time() - self.started
        peaks = [value for value in (*self.measured.memory.values(), self.meter.peak()) if value is not None]
        self.measured.memory["step"] = max(peaks, default=None)
        self._count_tokens()
        if self.step > self.job.unmeasured:
            self.turns.report(self.measured)

    def _part(self, name: str) -> None:
        self.measured.seconds[name] = self.meter.time() - self.mark
        self.measured.memory[name] = self.meter.peak()
        self.mark = self.meter.restart()

    def _count_tokens(self) -> None:
        if self.lengths != {self.job.completion}:
            raise TrainingError(f"found completions of {sorted(self.lengths)} tokens, expected {self.job.completion}")
        distinct = [prompt for place, prompt in enumerate(self.prompts) if prompt not in self.prompts[:place]]
        lengths = [len(token_ids(self.tokenizer, prompt)) for prompt in distinct]
        once = forward_tokens(self.side, lengths, self.job.generations, self.job.completion)
        projected = len(distinct) * self.job.generations * self.job.completion
        answered, answered_projected = self.answer_tokens()
        self.measured.tokens = _with_sum(once, answered)
        self.measured.projected = _with_sum(projected, answered_projected)


def _with_sum(a_pass: float, reward: float) -> dict[str, float]:
    """Return the tokens of each part of a step: one pass in the rollout, one with backward, and the reward's."""
    tokens = {"rollout": a_pass, "logprob": FORWARD_AND_BACKWARD * a_pass, "reward": reward}
    return {**tokens, "step": sum(tokens.values())}


class CompletionHead:
    """Makes stock's head project only the completions' positions; off the GPU, TRL 1.16 projects all, with no switch.

    Args:
        model: The policy with TRL's fused head.
        completion: C, the padded length of the completions.
    """

    def __init__(self, model: Any, completion: int) -> None:
        self.on, self.kept = True, completion + 1  # the last prompt token predicts the first completion token
        keep_positions(model)
        model.register_forward_pre_hook(self._trim, with_kwargs=True)

    def _trim(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if not self.on or not kwargs.get("fused_lm_head") or kwargs.get("labels") is None:
            return None
        rows, width = kwargs["labels"].shape
        last = torch.arange(width - self.kept, width, device=kwargs["labels"].device).expand(rows, -1)  # (B, C + 1)
        return args, {**kwargs, "labels": kwargs["labels"][:, -self.kept :], "kept_positions": last}


def run_steps(turns: Turns, side: Side, job: Job, settings: Settings) -> None:
    """Run steps on prompts of exactly P tokens, with a free reward."""
    policy, tokenizer = load(settings, side)
    rows = [{"prompt": prompt_of(tokenizer, job.prompt, number)} for number in range(job.prompts * job.steps)]
    train(turns, side, job, settings, policy, tokenizer, rows, text_length)


def train(
    turns: Turns,
    side: Side,
    job: Job,
    settings: Settings,
    policy: Any,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    reward: Reward,
    answer_tokens: Callable[[], tuple[int, int]] = lambda: (0, 0),
) -> None:
    """Train one side for the job's steps; the last two arguments are those of `StepClock`."""
    meter = Meter(policy.device)
    clock = StepClock(turns, meter, side, job, tokenizer, reward, answer_tokens)
    everything = job.prompts * job.generations
    longest = max(len(token_ids(tokenizer, row["prompt"])) for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        make = functools.partial(_trainer, clock, settings, policy, rows, folder)
        if side == "stock":
            head = CompletionHead(policy, job.completion)
            trainer = make(everything)
            clock.notes = _choose_head(trainer, head, job, longest) | _choose_attention(trainer, job, longest)
            meter.settle()
            clock.notes |= _choose_rows(functools.partial(_probe, trainer, meter), everything, longest, job.completion)
            if clock.notes["rows_at_once"] < everything:
                trainer = make(clock.notes["rows_at_once"])
        else:
            trainer = make(everything)
            _probe(trainer, meter, 2, longest, job.completion)
            meter.settle()
        clock.notes["flops_a_token"] = flops_a_token(policy)
        trainer.train()


def load(settings: Settings, side: Side) -> tuple[Any, Any]:
    """Load a fresh LoRA policy that never ends a completion, and its tokenizer.

    Stock generates outside autocast, so its adapters must cast their own inputs.
    """
    autocast = side == "ours" and settings.dtype != "float32"
    policy, tokenizer, _ = load_policy(settings.model, dtype=settings.dtype, warm_start=None, autocast=autocast)
    policy = policy.to(device())
    ends = policy.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    index = torch.tensor(sorted(stops), device=policy.device)

    def never_stop(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill_(-1, index, float("-inf"))

    # TRL's fused head reads the weights directly, so this affects decoding only.
    policy.get_base_model().get_output_embeddings().register_forward_hook(never_stop)
    return policy, tokenizer


def text_length(completions: Sequence[list[dict[str, str]]], **columns: Any) -> list[float | None]:
    """A reward that varies and takes no time."""
    return [float(len(completion[0]["content"])) for completion in completions]


def _trainer(
    clock: StepClock, settings: Settings, policy: Any, rows: list[dict[str, Any]], folder: str, at_once: int
) -> Any:
    """Make the trainer of the clock's side and job, with `at_once` rows per micro-batch."""
    job = clock.job
    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=job.prompts * job.generations // at_once,
        num_generations=job.generations,
        max_completion_length=job.completion,
        max_steps=job.steps,
        temperature=1.0,
        beta=0.0,
        learning_rate=1e-6,
        activation_checkpointing=False,
        use_cpu=policy.device.type == "cpu",
        bf16=settings.dtype == "bfloat16",
        fp16=settings.dtype == "float16",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        shuffle_dataset=False,
    )
    kind = MemoryGRPOTrainer if clock.side == "ours" else GRPOTrainer
    trainer = kind(
        model=policy,
        args=config,
        processing_class=clock.tokenizer,
        train_dataset=Dataset.from_list(rows),
        reward_funcs=[clock],
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.model.train()
    if clock.side == "ours" and (not trainer.shared_prefix or trainer.rollout_func is None):
        raise TrainingError(f"{settings.model} does not run with shared prefixes, so there is nothing to compare")
    return trainer


def _choose_head(trainer: Any, head: CompletionHead, job: Job, prompt: int) -> dict[str, Any]:
    """Give stock the faster head, as shipped or over completions only, timed on one short row each."""
    meter, tokens = Meter(trainer.model.device), min(prompt, _HEAD_PROBE_TOKENS)
    seconds = {}
    for on in (True, False, True):  # the first pass warms up
        head.on = on
        seconds[on] = _probe(trainer, meter, 1, tokens, job.completion)[0]
    head.on = seconds[True] <= seconds[False]
    return {
        "head": "completion positions only" if head.on else "as shipped",
        "head_seconds_completions_only": seconds[True],
        "head_seconds_as_shipped": seconds[False],
    }


def _choose_attention(trainer: Any, job: Job, prompt: int) -> dict[str, Any]:
    """Give stock the faster attention of transformers, timed on one row's pass; it keeps it in the rollout too."""
    meter, tokens, seconds = Meter(trainer.model.device), min(prompt, _ATTENTION_PROBE_TOKENS), {}
    model = trainer.model.get_base_model()
    for name in ("eager", "sdpa", "eager", "sdpa"):  # the first two warm up
        model.set_attn_implementation(name)
        seconds[name] = _probe(trainer, meter, 1, tokens, job.completion)[0]
    faster = "eager" if seconds["eager"] < _CLEARLY * seconds["sdpa"] else "sdpa"
    model.set_attn_implementation(faster)
    return {"attention": faster, "attention_seconds": seconds}


def _choose_rows(
    probe: Callable[[int, int, int], tuple[float, int | None]], everything: int, prompt: int, completion: int
) -> dict[str, Any]:
    """Choose stock's micro-batch: as many rows as fit or, if clearly faster per row, one at a time."""
    alone, bytes_a_row = probe(1, prompt, completion)
    fitting = _fitting(everything, bytes_a_row)
    seconds = {1: alone, fitting: probe(fitting, prompt, completion)[0] / fitting if fitting > 1 else alone}
    rows = 1 if seconds[1] < _CLEARLY * seconds[fitting] else fitting
    return {"bytes_a_row": bytes_a_row, "rows_fitting": fitting, "rows_at_once": rows, "seconds_a_row": seconds}


def _probe(trainer: Any, meter: Meter, rows: int, prompt: int, completion: int) -> tuple[float, int | None]:
    """Return the seconds and bytes of log-probabilities and gradients of random rows; leave no gradient behind."""
    vocabulary = trainer.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (rows, prompt + completion), generator=generator).to(trainer.model.device)  # (B, L)
    ids[:, :prompt] = ids[:1, :prompt]
    started = meter.restart()
    with trainer.accelerator.autocast():  # as in a step: float32 adapters beside a base of lower precision
        log_probs, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, torch.ones_like(ids), completion)
    log_probs.mean().backward()
    seconds, peak = meter.time() - started, meter.peak()
    trainer.model.zero_grad()
    return seconds, peak


def _fitting(rows: int, bytes_a_row: int | None) -> int:
    """Return the largest divisor of `rows` that fits into memory, so that swapping does not slow stock down."""
    available = available_bytes()
    if not bytes_a_row or available is None:
        return rows
    fitting = int(_SPARE * available / bytes_a_row)
    return max(part for part in range(1, rows + 1) if rows % part == 0 and part <= max(1, fitting))
