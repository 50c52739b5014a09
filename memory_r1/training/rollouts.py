"""Sample a GRPO group from one pass over its shared prompt, as TRL's `rollout_func`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import torch
from trl.models.utils import disable_gradient_checkpointing

from memory_r1.inference.language_model import Messages
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.training.policy import POLICY
from memory_r1.training.sharding import sharding_of

logger = logging.getLogger(__name__)

# Sampling fields of TRL's config that only its own generation supports, with the values that switch them off.
PLAIN_SAMPLING: dict[str, tuple[Any, ...]] = {
    "top_p": (1.0,),
    "top_k": (0, None),
    "min_p": (None,),
    "repetition_penalty": (1.0,),
    "generation_kwargs": (None,),
    "use_vllm": (False,),
    "use_transformers_continuous_batching": (False,),
}


def shared_prefix_rollout(prompts: Sequence[Messages], trainer: Any) -> dict[str, Any]:
    """Sample one completion per prompt, each repeated G times by TRL, from the current policy.

    Returns:
        `prompt_ids` and `completion_ids` (end-of-sequence token included), lists of B lists; `logprobs` is None.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    local = LocalLanguageModel(model, trainer.processing_class, batch_size=len(prompts))
    prompt_ids = [local.tokenize(prompt) for prompt in prompts]
    with disable_gradient_checkpointing(model, trainer.args.gradient_checkpointing_kwargs), local.evaluating(POLICY):
        completion_ids = local.generate_ids(
            prompt_ids, max_new_tokens=trainer.args.max_completion_length, temperature=trainer.args.temperature
        )
    return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}


def has_images(columns: Collection[str]) -> bool:
    """Return whether a dataset has one of the columns in which TRL looks for images."""
    return bool({"image", "images"} & set(columns))


def supports_shared_rollout(config: Any, columns: Collection[str] = ()) -> bool:
    """Return whether `shared_prefix_rollout` supports this config; log the reasons if not.

    Args:
        config: Training arguments.
        columns: Column names of the training rows.
    """
    reasons = [f"{name} set" for name, plain in PLAIN_SAMPLING.items() if getattr(config, name, plain[0]) not in plain]
    if sharding_of(config) == 3:
        reasons.append("the model is sharded")
    if has_images(columns):
        reasons.append("rows have images")
    if reasons:
        logger.warning("shared-prefix rollouts are off: %s", ", ".join(reasons))
    return not reasons


def shuffle_groups(batch: dict[str, Any], size: int) -> dict[str, Any]:
    """Permute blocks of `size` consecutive rows in all values of a rollout: `(B, ...)` tensors and lists of B.

    Values of the whole batch (0-dimensional tensors) and None stay as they are.
    """
    rows = len(batch["completion_ids"])
    order = (torch.randperm(rows // size)[:, None] * size + torch.arange(size)).flatten()  # (B,)

    def permuted(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[order.to(value.device)] if value.ndim else value
        return None if value is None else [value[row] for row in order]

    return {key: permuted(value) for key, value in batch.items()}
