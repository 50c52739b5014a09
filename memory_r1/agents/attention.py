"""Attention over rows that share a prompt: each row's tokens see the prompt and themselves, not their siblings.

The rows of a group stand side by side in one sequence behind their prompt (a tree of depth one), so the prompt's keys
and values exist once. Grouped query heads are folded into the query's positions, so that no key is copied per head
either; both are what a decode step on a CPU spends its time on.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "memory_r1_tree"

Masks: TypeAlias = "torch.Tensor | dict[str, torch.Tensor]"
"""What a model takes as `attention_mask`: one `(D, 1, Q, K)` mask, or one for each kind of layer."""


def use_tree_attention(model: Any) -> bool:
    """Make `model` attend through `tree_attention`; False, and nothing is changed, where it cannot.

    It can where all that a layer keeps of the past is keys and values, in a window or not, and where the model runs
    under PyTorch's scaled dot-product attention. Calls with ordinary masks are unchanged by it.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    if config._attn_implementation == IMPLEMENTATION:
        return True
    if config._attn_implementation != "sdpa" or not keeps_keys_and_values_only(base):
        return False
    base.set_attn_implementation(IMPLEMENTATION)
    return bool(config._attn_implementation == IMPLEMENTATION)


def keeps_keys_and_values_only(model: Any) -> bool:
    """Whether every layer is plain or sliding-window attention with keys and values of its own, and no soft cap."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    known = (
        set(kinds) <= {"full_attention", "sliding_attention"}
        if kinds
        else hasattr(config, "num_attention_heads") and not getattr(model, "_is_stateful", False)
    )
    soft_cap = getattr(config, "attn_logit_softcapping", None)
    shared_layers = getattr(config, "num_kv_shared_layers", 0)
    return bool(known and not soft_cap and not shared_layers)


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    prompt_length: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; the interface of transformers' attention functions.

    Args:
        module: The attention layer.
        query: `(D, H, Q, d)`.
        key: `(D, H_kv, K, d)`, not repeated over the heads of a group.
        value: As `key`.
        attention_mask: Boolean, `(D or 1, 1, Q', K)`: that of the last Q' queries. None is plain causal attention.
        dropout: Of attention weights.
        scaling: Factor of the scores.
        prompt_length: P, with a sequence of prompt and completions: the first P queries see the first P keys alone,
            causally, unless the mask has rows for them.
        kwargs: What models pass beside.

    Returns:
        The output, `(D, Q, H, d)`, and no weights.
    """
    if attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, None, dropout=dropout, scaling=scaling, **kwargs)
    start = query.size(2) - attention_mask.size(2)
    if start != (prompt_length if start else 0):
        raise ValueError(f"{query.size(2)} queries, {attention_mask.size(2)} mask rows, prompt_length={prompt_length}")
    folded = _folded(query[:, :, start:], key, value, attention_mask, dropout, scaling)
    if not start:
        return folded, None
    prompt, _ = sdpa_attention_forward(
        module,
        query[:, :, :start],
        key[:, :, :start],
        value[:, :, :start],
        None,
        dropout=dropout,
        scaling=scaling,
        is_causal=True,
    )
    return torch.cat([prompt, folded], dim=1), None


def _folded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:  # (D, Q, H, d)
    """Attention with the query heads of a key-value head as further queries of it."""
    rows, heads, queries, size = query.shape
    repeats = heads // key.size(1)
    output = F.scaled_dot_product_attention(
        query.reshape(rows, key.size(1), repeats * queries, size),
        key,
        value,
        attn_mask=mask.repeat(1, 1, repeats, 1) if repeats > 1 else mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return output.reshape(rows, heads, queries, value.size(-1)).transpose(1, 2).contiguous()


def layer_masks(model: Any, visible: torch.Tensor, query_positions: torch.Tensor, key_positions: torch.Tensor) -> Masks:
    """The masks of a model's layers from who may see whom: layers with a window see no further back than it.

    Args:
        model: The model, plain or under PEFT.
        visible: Boolean, `(D or 1, Q, K)`.
        query_positions: `(D, Q)`.
        key_positions: `(D, K)`.
    """
    config = model.config.get_text_config()
    full = visible[:, None]  # (D, 1, Q, K)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ({"sliding_attention"} if window else {"full_attention"}))
    if kinds == {"full_attention"} or window is None:
        return full
    near = query_positions[:, :, None] - key_positions[:, None, :] < window  # (D, Q, K)
    masks = {"full_attention": full, "sliding_attention": full & near[:, None]}
    return masks if len(kinds) > 1 else masks["sliding_attention"]


def has_window(model: Any) -> bool:
    """Whether some layer of `model` sees a window of the past only."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    return "sliding_attention" in kinds if kinds else getattr(config, "sliding_window", None) is not None


AttentionInterface.register(IMPLEMENTATION, tree_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
