"""Prompts that begin alike, computed once: the instructions that open every prompt, and prompts asked repeatedly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class AlignedRows:
    """Rows of equal length: the `shared` tokens that all begin with, padding, then the rest of each row.

    `ids` and `mask` are B lists of T numbers; the mask is 0 on padding, and positions are counted over the rest.
    """

    ids: list[list[int]]
    mask: list[list[int]]
    shared: int


def aligned(rows: Sequence[list[int]], pad: int, *, share: bool = True) -> AlignedRows:
    """Align token rows for generation; at least one token of every row is left out of what they share.

    Without `share` all padding stands on the left: attention windows and recurrent states must not reach across it.
    """
    shared = 0
    shortest = min(len(row) for row in rows) if share else 0
    while shared < shortest - 1 and len({row[shared] for row in rows}) == 1:
        shared += 1
    width = max(len(row) for row in rows)
    ids = [row[:shared] + [pad] * (width - len(row)) + row[shared:] for row in rows]
    mask = [[1] * shared + [0] * (width - len(row)) + [1] * (len(row) - shared) for row in rows]
    return AlignedRows(ids, mask, shared)


def supports_plain_cache(model: Any) -> bool:
    """Whether all that `model` keeps between tokens is the keys and values of every token before."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # older configurations say it by the window alone
        return getattr(config, "sliding_window", None) is None
    return set(kinds) <= {"full_attention"}


def prompt_cache(model: Any, ids: torch.Tensor, mask: torch.Tensor, shared: int) -> DynamicCache | None:
    """The cache of all but the last token of aligned rows, each distinct part computed once; None where unsupported.

    Args:
        model: Causal language model, in evaluation or under `no_grad`.
        ids: Aligned rows, `(B, T)`.
        mask: Their attention mask, `(B, T)`.
        shared: Number of leading tokens that all rows share.
    """
    import torch
    from transformers import DynamicCache

    end = ids.size(1) - 1
    if end < 1 or not supports_plain_cache(model):
        return None
    keyed = torch.cat([ids[:, :end], mask[:, :end]], dim=1)  # a prompt may hold the padding token too
    _, group_of = torch.unique(keyed, dim=0, return_inverse=True)  # (B,)
    first = first_occurrence(group_of)  # (D,)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (B, T)
    cache = DynamicCache(config=model.config)
    spans = [(slice(0, 1), 0, shared), (first, shared, end)] if 0 < shared < end else [(first, 0, end)]
    for step, (rows, start, stop) in enumerate(spans):
        if step:
            cache.batch_repeat_interleave(len(first))
        model(
            input_ids=ids[rows, start:stop],
            attention_mask=mask[rows, :stop],
            position_ids=positions[rows, start:stop],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    cache.batch_select_indices(group_of)
    return cache


def first_occurrence(group_of: torch.Tensor) -> torch.Tensor:  # (B,) -> (D,)
    """Index of the first row of each group, in the order of group numbers."""
    import torch

    rows = torch.arange(group_of.numel(), device=group_of.device)
    groups = int(group_of.max()) + 1
    return torch.full((groups,), group_of.numel(), device=group_of.device).scatter_reduce(0, group_of, rows, "amin")
