"""Attention as matrix products, for CPUs, where PyTorch's fused kernel is not always the fastest.

In bfloat16 that kernel runs at a fraction of a product's speed, and it also computes the scores that a mask hides: most
of the scores between completions of a group (docs/performance.md has the measurements).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

SCORES = 4_000_000
"""Scores computed at once; with their weights they about fill a CPU's cache."""
KEPT = 50_000_000
"""Most scores per layer whose weights are kept for the backward; beyond it the fused kernel, which keeps none, runs."""
_FEWEST = 64  # queries at once, whatever the number of keys: a product of fewer rows is slow


def pay(query: torch.Tensor, key: torch.Tensor, dropout: float) -> bool:
    """Return whether products beat the fused kernel, for queries `(D, H, Q, d)` and keys `(D, H_kv, K, d)`."""
    return _can(query, key, dropout) and query.dtype == torch.bfloat16


def pay_in_branches(query: torch.Tensor, key: torch.Tensor, dropout: float) -> bool:
    """Return the same for completions behind a prompt, where products win in float32 too."""
    return _can(query, key, dropout) and query.dtype in (torch.bfloat16, torch.float32)


def _can(query: torch.Tensor, key: torch.Tensor, dropout: float) -> bool:
    scores = query.shape[:3].numel() * key.size(2)
    kept = scores if torch.is_grad_enabled() and query.requires_grad else 0
    return query.device.type == "cpu" and not dropout and kept <= KEPT


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, added: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Attend with queries `(D, H_kv, Q, d)` to keys and values `(D, H_kv, K, d)`; return `(D, H_kv, Q, d)`.

    `added`, `(D or 1, 1, Q, K)`, is added to the scores.
    """
    step = at_once(query, key)
    outputs = []
    for start in range(0, query.size(2), step):
        scores = (query[:, :, start : start + step] * scaling) @ key.transpose(-1, -2)
        if added is not None:
            scores += added[:, :, start : start + step]
        outputs.append(scores.softmax(-1) @ value)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def at_once(query: torch.Tensor, key: torch.Tensor) -> int:
    """Return how many of the queries, `(D, H, Q, d)`, attend together."""
    rows, heads = query.shape[:2]
    return max(_FEWEST, SCORES // (rows * heads * key.size(2)))


@dataclass(frozen=True, slots=True)
class Branches:
    """G completions of T tokens behind each of D prompts of P columns; each completion sees its prompt and itself.

    Attributes:
        count: G.
        steps: T.
        padding: Padding columns of the prompts, boolean, `(D, 1, 1, P)`; None if there are none.
    """

    count: int
    steps: int
    padding: torch.Tensor | None


def attend_in_branches(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, branches: Branches, scaling: float
) -> torch.Tensor:
    """Attend with completions `(D, H, G * T, d)` to their prompts and themselves, `(D, H_kv, P + G * T, d)`.

    One product covers the prompt's keys for all completions, another each completion's own keys; scores between
    siblings are never computed. Returns `(D, H, G * T, d)`.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary positions may leave them in float32 under autocast
    rows, heads, _, size = query.shape
    groups, own = key.size(1), branches.count * branches.steps
    prompt = key.size(2) - own
    repeats = heads // groups
    apart = (rows, groups, branches.count, branches.steps, size)
    output = _BranchAttention.apply(
        _by_branch(query * scaling, groups, branches),
        key[:, :, :prompt],
        value[:, :, :prompt],
        key[:, :, prompt:].reshape(apart),
        value[:, :, prompt:].reshape(*apart[:-1], value.size(-1)),
        branches.padding,
    )  # (D, H_kv, G, R * T, d)
    folded = output.view(rows, groups, branches.count, repeats, branches.steps, -1)
    return folded.transpose(2, 3).reshape(rows, heads, own, -1)


def _by_branch(query: torch.Tensor, groups: int, branches: Branches) -> torch.Tensor:
    """Fold the R heads of a group into each branch: `(D, H, G * T, d)` to `(D, H_kv, G, R * T, d)`."""
    rows, heads, _, size = query.shape
    apart = query.view(rows, groups, heads // groups, branches.count, branches.steps, size)
    return apart.transpose(2, 3).reshape(rows, groups, branches.count, -1, size)


class _BranchAttention(torch.autograd.Function):
    """Softmax over two blocks of scores, the prompt's and the branch's own, with weights kept for the backward.

    Autograd over the same products would join the blocks into one matrix and copy it several times per pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,  # (D, H_kv, G, R * T, d)
        prompt_key: torch.Tensor,  # (D, H_kv, P, d)
        prompt_value: torch.Tensor,
        own_key: torch.Tensor,  # (D, H_kv, G, T, d)
        own_value: torch.Tensor,
        padding: torch.Tensor | None,
    ) -> torch.Tensor:
        steps = own_key.size(3)
        shared = (query.flatten(2, 3) @ prompt_key.transpose(-1, -2)).float()  # (D, H_kv, G * R * T, P)
        if padding is not None:
            shared.masked_fill_(padding, float("-inf"))
        later = torch.ones(steps, steps, dtype=torch.bool).triu(1).repeat(query.size(3) // steps, 1)  # (R * T, T)
        own = (query @ own_key.transpose(-1, -2)).float().masked_fill_(later, float("-inf")).flatten(2, 3)
        highest = torch.maximum(shared.amax(-1, keepdim=True), own.amax(-1, keepdim=True))
        shared, own = shared.sub_(highest).exp_(), own.sub_(highest).exp_()
        total = shared.sum(-1, keepdim=True) + own.sum(-1, keepdim=True)
        shared_weights = shared.div_(total).to(query.dtype)  # (D, H_kv, G * R * T, P)
        own_weights = own.div_(total).to(query.dtype).view(*query.shape[:-1], steps)  # (D, H_kv, G, R * T, T)
        output = (shared_weights @ prompt_value).view(*query.shape[:-1], -1) + own_weights @ own_value
        ctx.save_for_backward(query, prompt_key, prompt_value, own_key, own_value, shared_weights, own_weights, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, prompt_key, prompt_value, own_key, own_value, shared_weights, own_weights, output = ctx.saved_tensors
        gradient = gradients[0].contiguous()  # (D, H_kv, G, R * T, d)
        flat = gradient.flatten(2, 3)
        # Softmax backward: each weight's gradient less its weighted mean, which equals gradient . output.
        mean = (gradient.float() * output.float()).sum(-1, keepdim=True)  # (D, H_kv, G, R * T, 1)
        shared = (flat @ prompt_value.transpose(-1, -2)).sub_(mean.flatten(2, 3)).mul_(shared_weights)
        own = (gradient @ own_value.transpose(-1, -2)).sub_(mean).mul_(own_weights)
        return (
            (shared @ prompt_key).view_as(query) + own @ own_key,
            shared.transpose(-1, -2) @ query.flatten(2, 3),
            shared_weights.transpose(-1, -2) @ flat,
            own.transpose(-1, -2) @ query,
            own_weights.transpose(-1, -2) @ gradient,
            None,
        )
