"""Attention over rows that share a prompt: each row's tokens see the prompt and themselves, not their siblings.

The rows of a group stand side by side in one sequence behind their prompt (a tree of depth one), so the prompt's keys
and values exist once. Grouped query heads are folded into the query's positions, so that no key is copied per head
either; both are what a decode step on a CPU spends its time on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "memory_r1_tree"
CHUNK = 512
"""Queries of a long prompt that attend together."""


class Tree:
    """Who sees whom in one forward, and the masks made of it: each is made once and shared by all layers.

    A call of a model under tree attention is given it as `tree`, together with `NO_MASK` as `attention_mask`.

    Args:
        visible: Boolean, `(D or 1, Q', K)`: what the last Q' queries see. The queries before them, a prompt's own,
            are causal; where layers have windows they must be among the Q'.
        query_positions: Positions of the last Q' queries, `(D, Q')`.
        key_positions: `(D, K)`.
    """

    def __init__(self, visible: torch.Tensor, query_positions: torch.Tensor, key_positions: torch.Tensor) -> None:
        self.visible = visible
        self.query_positions = query_positions
        self.key_positions = key_positions
        self._masks: dict[tuple[int | None, int, torch.dtype], torch.Tensor] = {}

    def mask(self, window: int | None, repeats: int, dtype: torch.dtype) -> torch.Tensor:
        """What is added to the scores of `repeats` query heads folded together, `(D or 1, 1, repeats * Q', K)`.

        A layer with a window sees no further back than it, counted in positions.
        """
        key = (window, repeats, dtype)
        if key not in self._masks:
            visible = self.visible
            if window is not None:
                visible = visible & (self.query_positions[:, :, None] - self.key_positions[:, None, :] < window)
            added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            added = added.masked_fill_(~visible, torch.finfo(dtype).min)
            self._masks[key] = added.repeat(1, repeats, 1)[:, None]
        return self._masks[key]


NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)
"""Four-dimensional, which transformers takes for finished: it then makes no mask of its own."""


def use_tree_attention(model: Any) -> bool:
    """Make `model` attend through `tree_attention`; False, and nothing is changed, where it cannot.

    It can where all that a layer keeps of the past is keys and values, in a window or not, and where the model runs
    under PyTorch's scaled dot-product attention. Calls without a tree are unchanged by it.
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


def has_window(model: Any) -> bool:
    """Whether some layer of `model` sees a window of the past only."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    return "sliding_attention" in kinds if kinds else getattr(config, "sliding_window", None) is not None


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree: Tree | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; the interface of transformers' attention functions.

    Args:
        module: The attention layer.
        query: `(D, H, Q, d)`.
        key: `(D, H_kv, K, d)`, not repeated over the heads of a group.
        value: As `key`.
        attention_mask: Read only without a tree.
        dropout: Of attention weights.
        scaling: Factor of the scores.
        tree: Who sees whom; the queries that it does not speak of come first and see the first keys, causally.
        kwargs: What models pass beside.

    Returns:
        The output, `(D, Q, H, d)`, and no weights.
    """
    if tree is None:
        options = {"dropout": dropout, "scaling": scaling, **kwargs}
        return _in_chunks(module, query, key, value, attention_mask, options), None
    own = query.size(2) - tree.visible.size(1)  # queries of the prompt
    rows, heads, queries, size = query[:, :, own:].shape
    repeats = heads // key.size(1)
    folded = F.scaled_dot_product_attention(
        query[:, :, own:].reshape(rows, key.size(1), repeats * queries, size),
        key,
        value,
        attn_mask=tree.mask(kwargs.get("sliding_window"), repeats, query.dtype),
        dropout_p=dropout,
        scale=scaling,
    )
    output = folded.reshape(rows, heads, queries, value.size(-1)).transpose(1, 2).contiguous()
    if not own:
        return output, None
    prompt, _ = sdpa_attention_forward(
        module,
        query[:, :, :own],
        key[:, :, :own],
        value[:, :, :own],
        None,
        dropout=dropout,
        scaling=scaling,
        is_causal=True,
    )
    return torch.cat([prompt, output], dim=1), None


def _in_chunks(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """Attention under a mask, `(D, Q, H, d)`, on a CPU without most of what a causal mask hides.

    With a mask, PyTorch's CPU kernel computes the scores of every key and then hides those behind each query: twice the
    work of a long prompt. A chunk of queries that sees no key behind its own end leaves those out.
    """
    count, before = query.size(2), key.size(2) - query.size(2)
    if mask is None or count < 2 * CHUNK or query.device.type != "cpu" or mask.size(-2) != count:
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    outputs = []
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        shown = mask[..., start:stop, :]
        seen = before + stop if _hides(shown[..., before + stop :]) else key.size(2)
        part = sdpa_attention_forward(
            module, query[:, :, start:stop], key[:, :, :seen], value[:, :, :seen], shown[..., :seen], **options
        )
        outputs.append(part[0])
    return torch.cat(outputs, dim=1)


def _hides(mask: torch.Tensor) -> bool:
    """Whether a mask, boolean or added to the scores, shows nothing at all."""
    return not bool((mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2).any())


AttentionInterface.register(IMPLEMENTATION, tree_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
