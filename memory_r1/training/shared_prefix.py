"""Log-probabilities of a group's completions with the group's shared prompt computed once.

A GRPO batch repeats each prompt G times. Here each distinct prompt runs once, into a key-value cache that keeps its
autograd graph; the cache is repeated over the prompt's group and only the completions run against it. Gradients of all
completions flow back into the one prompt pass.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from memory_r1.agents.prefix import first_occurrence, supports_plain_cache


def supports_shared_prefix(model: Any) -> bool:
    """Whether `model` can run in two passes over a plain key-value cache.

    Activation checkpointing turns the cache off; sliding windows drop keys, and models with recurrent or convolutional
    state keep more than keys and values.
    """
    return supports_plain_cache(model) and not getattr(model, "is_activation_checkpointing", False)


def position_ids(attention_mask: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T)
    """Positions counted over real tokens only, as `generate` counts them under left padding."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def shared_prefix_outputs(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> Any:
    """Run TRL's fused language-model head on the completions only, each distinct prompt computed once.

    Args:
        model: Causal language model carrying TRL's fused head (`add_fused_lm_head`), possibly a `PeftModel`.
        input_ids: Left-padded prompts followed by right-padded completions, `(B, P + T)`.
        attention_mask: 1 for real tokens, `(B, P + T)`.
        completion_length: T, the padded length of the completions.

    Returns:
        The fused head's output for the last `T + 1` positions: `log_probs` and `entropy` are `(B, T)`.
    """
    # The last prompt token predicts the first completion token, so it runs with the completion. Left padding puts it
    # in the same column for every row.
    split = input_ids.size(1) - completion_length - 1
    positions = position_ids(attention_mask)  # (B, P + T)
    keyed = torch.cat([input_ids[:, :split], attention_mask[:, :split]], dim=1)
    _, group_of = torch.unique(keyed, dim=0, return_inverse=True)  # (B,)
    first = first_occurrence(group_of)  # (D,) one row for each distinct prompt

    cache = DynamicCache(config=model.config)
    # Only the cache is wanted; one position of logits is the least a forward computes.
    model(
        input_ids=input_ids[first, :split],
        attention_mask=attention_mask[first, :split],
        position_ids=positions[first, :split],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.batch_select_indices(group_of)
    suffix = slice(split, None)
    labels = input_ids[:, suffix].masked_fill(attention_mask[:, suffix] == 0, -100)  # (B, T + 1)
    labels[:, 0] = -100
    return model(
        input_ids=input_ids[:, suffix],
        attention_mask=attention_mask,
        position_ids=positions[:, suffix],
        past_key_values=cache,
        labels=labels,
        fused_lm_head=True,
    )


def common_prefix_length(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> int:  # (B, T), (B, T)
    """Number of leading tokens that all right-padded rows share (the instructions, mostly)."""
    same = (input_ids == input_ids[:1]).all(dim=0) & attention_mask.bool().all(dim=0)  # (T,)
    return int(same.long().cumprod(dim=0).sum())


def prefix_cache(model: Any, prefix: torch.Tensor, rows: int) -> DynamicCache:  # (P,)
    """A key-value cache of one token sequence, with its autograd graph, repeated for `rows` rows."""
    cache = DynamicCache(config=model.config)
    model(input_ids=prefix[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(rows)
    return cache
