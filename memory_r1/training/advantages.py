"""Advantages other than GRPO's, and PPO's value loss: pure functions of rewards and values."""

from __future__ import annotations

from collections.abc import Callable

import torch

Sum = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over all processes."""


def best_of_groups(advantages: torch.Tensor, varied: torch.Tensor) -> torch.Tensor:  # (B,), (B / G,) -> (B,)
    """Weigh the best completion of each group and no other: SFT on it, as a control for what GRPO learns.

    The first of several best ones counts. Its weight is G, so that a step moves as far as with weight 1 throughout.

    Args:
        advantages: One per completion, groups side by side.
        varied: Whether a group's rewards vary; a group in which they do not weighs nothing.
    """
    groups = advantages.view(len(varied), -1)
    best = torch.zeros_like(groups).scatter(1, groups.argmax(dim=1, keepdim=True), float(groups.size(1)))
    return (best * varied.to(best.device)[:, None]).view(-1)


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """Compute generalised advantage estimates, GAE (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    A completion is an episode and each of its tokens a step; nothing follows the last token, even of a truncated one.

    Args:
        rewards: Reward of each token, `(B, T)`.
        values: Value of the state before each token, `(B, T)`.
        mask: True for the policy's tokens, `(B, T)`; others are skipped, as if the row lacked them.
        gamma: Discount per token.
        gae_lambda: 1 gives the whole return less the value, 0 the one-step error.

    Returns:
        `(B, T)`, 0 outside the mask.
    """
    advantages = torch.zeros_like(values)
    advantage = following = torch.zeros_like(values[:, 0])  # (B,)
    for step in reversed(range(values.size(1))):
        real = mask[:, step]
        error = rewards[:, step] + gamma * following - values[:, step]
        advantage = torch.where(real, error + gamma * gae_lambda * advantage, advantage)
        following = torch.where(real, values[:, step], following)
        advantages[:, step] = advantage.where(real, torch.zeros_like(advantage))
    return advantages


def masked_mean(values: torch.Tensor, mask: torch.Tensor, total: Sum) -> torch.Tensor:  # (B, T), (B, T) -> ()
    """Return the mean over the mask of all processes; 0 if the mask is empty."""
    sums = total(torch.stack([values.masked_fill(~mask, 0.0).sum(), mask.sum()]))
    return sums[0] / sums[1].clamp(min=1.0)


def masked_variance(values: torch.Tensor, mask: torch.Tensor, total: Sum) -> torch.Tensor:  # (B, T), (B, T) -> ()
    """Return the variance over the mask of all processes."""
    return masked_mean((values - masked_mean(values, mask, total)) ** 2, mask, total)


def whitened(values: torch.Tensor, mask: torch.Tensor, total: Sum) -> torch.Tensor:  # (B, T), (B, T) -> (B, T)
    """Scale to mean 0 and variance 1 over the mask of all processes; 0 outside it."""
    mean, variance = masked_mean(values, mask, total), masked_variance(values, mask, total)
    return ((values - mean) / (variance.sqrt() + 1e-8)).masked_fill(~mask, 0.0)


def explained_variance(
    returns: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, total: Sum
) -> torch.Tensor:  # (B, T) -> ()
    """Return the share of the returns' variance that the values predict: 1 for all, 0 for a constant.

    The result is NaN if the returns do not vary.
    """
    variance = masked_variance(returns, mask, total)
    missed = masked_variance(returns - values, mask, total)
    return torch.where(variance > 0, 1 - missed / variance, torch.nan)


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the squared errors of values, which may move from the old ones by `cliprange` per batch of completions.

    The PPO paper (Schulman et al. 2017, arXiv:1707.06347) lacks this, its first implementation has it: "Value function
    loss clipping" in Huang et al. 2022, "The 37 implementation details of proximal policy optimization".

    Returns:
        Half the larger of the free and the clipped squared error, and where the clipped one is larger; both `(B, T)`.
    """
    near = old_values + (values - old_values).clamp(-cliprange, cliprange)
    free_loss, near_loss = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(free_loss, near_loss), near_loss > free_loss
