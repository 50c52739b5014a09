"""Attention over rows that share a prompt: each row's tokens see the prompt and their own row, but no sibling.

The rows of a group stand side by side in one sequence behind their prompt, and prompts that begin alike form one tree,
so shared keys and values exist once. Grouped query heads are folded into the query's positions, so no key is copied per
head. Both copies would dominate a decode step on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from memory_r1.inference import cpu_attention as products
from memory_r1.inference.cpu_attention import Branches, attend_in_branches

IMPLEMENTATION = "memory_r1_tree"
CHUNK = 512
"""Number of queries of a long prompt that attend together."""


class Tree:
    """Visibility in one forward pass, and its masks, each built once and shared by all layers.

    Pass it to a model under tree attention as `tree`, together with `NO_MASK` as `attention_mask`.

    Args:
        visible: Boolean, `(D or 1, Q', K)`: what the last Q' queries see. The queries before them, those of a prompt,
            are causal; if a layer has a window, they must be among the Q'.
        query_positions: Positions of the last Q' queries, `(D, Q')`.
        key_positions: `(D, K)`.
        branches: The same as `visible`, if the Q' are just completions behind a prompt and no layer has a window.
    """

    def __init__(
        self,
        visible: torch.Tensor,
        query_positions: torch.Tensor,
        key_positions: torch.Tensor,
        branches: Branches | None = None,
    ) -> None:
        self.visible = visible
        self.branches = branches
        self.query_positions = query_positions
        self.key_positions = key_positions
        self._masks: dict[tuple[int | None, int, torch.dtype], torch.Tensor] = {}

    def mask(self, window: int | None, repeats: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the addend to the scores of `repeats` folded query heads, `(D or 1, 1, repeats * Q', K)`.

        A window limits how far back a layer sees, in positions.
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
"""Four-dimensional, so that transformers takes it as a finished mask and builds none."""


def use_tree_attention(model: Any) -> bool:
    """Make `model` attend through `tree_attention`; return False and change nothing if it cannot.

    It can if every layer keeps only keys and values of the past, windowed or not, and the model uses PyTorch's scaled
    dot-product attention. Calls without a tree are unaffected.
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
    """Return whether every layer is plain or sliding-window attention with its own keys and values and no soft cap."""
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
    """Return whether some layer of `model` sees only a window of the past."""
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
    """Compute scaled dot-product attention, with the interface of transformers' attention functions.

    Args:
        module: The attention layer.
        query: `(D, H, Q, d)`.
        key: `(D, H_kv, K, d)`, not repeated over the heads of a group.
        value: As `key`.
        attention_mask: Used only without a tree.
        dropout: Dropout of attention weights.
        scaling: Factor of the scores.
        tree: Visibility; the queries that it does not cover come first and see the first keys, causally.
        kwargs: Other arguments of the model.

    Returns:
        The output, `(D, Q, H, d)`, and None for the weights.
    """
    if scaling is None:
        scaling = query.size(-1) ** -0.5
    options = {"dropout": dropout, "scaling": scaling, **kwargs}
    if tree is None:
        return _in_chunks(module, query, key, value, attention_mask, options), None
    window = kwargs.get("sliding_window")
    own = query.size(2) - tree.visible.size(1)  # queries of the prompt
    if tree.branches is not None and products.pay_in_branches(query[:, :, own:], key, dropout):
        output = attend_in_branches(query[:, :, own:], key, value, tree.branches, scaling)
    else:
        output = _under_mask(query[:, :, own:], key, value, tree, window, dropout, scaling)
    output = output.transpose(1, 2).contiguous()
    if not own:
        return output, None
    prompt = _in_chunks(module, query[:, :, :own], key[:, :, :own], value[:, :, :own], None, options)
    return torch.cat([prompt, output], dim=1), None


def _under_mask(
    query: torch.Tensor,  # (D, H, Q, d)
    key: torch.Tensor,
    value: torch.Tensor,
    tree: Tree,
    window: int | None,
    dropout: float,
    scaling: float,
) -> torch.Tensor:  # (D, H, Q, d)
    """Attend with the queries that a tree covers, the heads of a group folded together."""
    rows, heads, queries, size = query.shape
    groups = key.size(1)
    folded = query.reshape(rows, groups, heads // groups * queries, size)
    mask = tree.mask(window, heads // groups, query.dtype)
    if products.pay(query, key, dropout):
        output = products.attend(folded, key, value, mask, scaling)
    else:
        output = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return output.reshape(rows, heads, queries, value.size(-1))


def _in_chunks(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """Attend under `mask`, or causally without one; return `(D, Q, H, d)`. On a CPU, skip most hidden scores.

    A chunk of queries skips the keys behind its end if it sees none of them. Given a mask, the fused kernel would
    compute those scores and then hide them: twice the work for a long prompt.
    """
    count, before = query.size(2), key.size(2) - query.size(2)
    by_products = products.pay(query, key, options["dropout"]) and _says_all(module, mask, count, before, options)
    long = mask is not None and mask.size(-2) == count >= 2 * CHUNK and query.device.type == "cpu"
    if not by_products and not long:
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    if by_products:
        key, value = key.contiguous(), value.contiguous()  # once, since each product would copy its input
    chunk = products.at_once(query, key) if by_products else CHUNK
    outputs = []
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        shown = mask if mask is None or mask.size(-2) == 1 else mask[..., start:stop, :]
        causal = shown is None or (stop < count and _hides(shown[..., before + stop :]))
        seen = before + stop if causal else key.size(2)
        part = query[:, :, start:stop], key[:, :, :seen], value[:, :, :seen]
        shown = None if shown is None else shown[..., :seen]
        if by_products:
            outputs.append(_by_products(*part, shown, options["scaling"]))
        else:
            outputs.append(sdpa_attention_forward(module, *part, shown, **options)[0])
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _says_all(
    module: torch.nn.Module, mask: torch.Tensor | None, count: int, before: int, options: dict[str, Any]
) -> bool:
    """Return whether a one-head mask, or causality without a mask, is all that decides visibility."""
    if mask is not None:
        return mask.size(1) == 1 and options.get("position_bias") is None
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return bool(causal and (before == 0 or count == 1))


def _by_products(
    query: torch.Tensor,  # (D, H, Q, d)
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:  # (D, Q, H, d)
    """Attend under a mask, boolean or added to the scores, or causally up to the last key without one."""
    rows, heads, queries, size = query.shape
    groups, keys = key.shape[1:3]
    if mask is None:
        mask = torch.ones(1, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    added = mask.expand(-1, -1, queries, -1).repeat(1, 1, heads // groups, 1)
    folded = query.reshape(rows, groups, heads // groups * queries, size)
    output = products.attend(folded, key, value, added, scaling)
    return output.view(rows, heads, queries, -1).transpose(1, 2).contiguous()


def _hides(mask: torch.Tensor) -> bool:
    """Return whether a mask, boolean or added to the scores, hides everything."""
    return not bool((mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2).any())


AttentionInterface.register(IMPLEMENTATION, tree_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
