"""Groups whose rewards do not vary: how many, by which reward, and how to get fewer.

GRPO learns from differences within a group. If all G completions of a prompt earn the same weighted reward, their
advantages are zero and this *zero-variance* group teaches nothing. A *flat* group varies at most by the cost of
entries: it may teach thrift, but nothing about answers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence

import torch

from memory_r1.training.frozen_answering import ENTRY_COST

logger = logging.getLogger(__name__)

TINY = 1e-6  # spreads up to this are rounding errors
WINDOW = 10  # rollouts considered by the warning
_REPLACE = "set dynamic_sampling_rounds: 2 to replace groups without variance by fresh prompts"


def weighted_totals(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:  # (B, F), (F,) -> (B,)
    """Return the weighted sum of each completion's known rewards (TRL's rule), or NaN if none is known."""
    totals = (rewards * weights.to(rewards.device)).nansum(dim=1)
    return totals.masked_fill(rewards.isnan().all(dim=1), torch.nan)


def group_spreads(rewards: torch.Tensor) -> torch.Tensor:
    """Return each group's standard deviation of known rewards, `(groups,)`; 0 if fewer than two are known.

    Args:
        rewards: `(groups, G)`, NaN if a completion has no reward.
    """
    known = ~rewards.isnan()  # (groups, G)
    count = known.sum(dim=1)
    mean = rewards.nansum(dim=1) / count.clamp(min=1)
    deviation = torch.where(known, rewards - mean[:, None], 0.0)
    return (deviation.square().sum(dim=1) / (count - 1).clamp(min=1)).sqrt()


def zero_variance(rewards: torch.Tensor) -> float:
    """Return the share of groups `(groups, G)` whose known rewards are all equal or fewer than two."""
    return (group_spreads(rewards) <= TINY).float().mean().item()


def all_zero(rewards: torch.Tensor) -> float:
    """Return the share of groups `(groups, G)` with at least one known reward whose known rewards are all exactly 0."""
    zero = (~rewards.isnan()).any(dim=1) & (rewards.nan_to_num() == 0).all(dim=1)  # (groups,)
    return zero.float().mean().item()


def without_failed(rewards: torch.Tensor, generations: int) -> torch.Tensor:  # (B, F) -> (B, F)
    """Set all rewards of a row to NaN if it lacks one that others in its group have.

    TRL sums the rewards that a row has, so a failed answer or judge would count against the row.
    """
    missing = rewards.isnan().view(-1, generations, rewards.size(1))  # (B / G, G, F)
    failed = missing & ~missing.all(dim=1, keepdim=True)
    return rewards.masked_fill(failed.any(dim=-1).view(-1, 1), torch.nan)


def group_measures(
    rewards: torch.Tensor, weights: torch.Tensor, names: Sequence[str], generations: int
) -> dict[str, float]:
    """Return shares of a rollout's groups for the log: `groups/<share>` and, per reward, `groups/<share>/<reward>`.

    TRL's `frac_reward_zero_std` is not such a share if TRL scales by the deviation of the whole batch.

    Args:
        rewards: `(B, F)`, rows of a group side by side, NaN if a completion has no reward.
        weights: `(F,)`.
        names: Names of the F rewards.
        generations: Completions per prompt (G).
    """
    others = [place for place, name in enumerate(names) if name != ENTRY_COST]
    answers = weighted_totals(rewards[:, others], weights[others]).view(-1, generations)  # (B / G, G)
    measures = {
        "groups/zero_variance": zero_variance(weighted_totals(rewards, weights).view(-1, generations)),
        "groups/flat": zero_variance(answers),
        "groups/all_zero": all_zero(answers),
    }
    for name, scores in zip(names, rewards.T, strict=True):
        measures[f"groups/zero_variance/{name}"] = zero_variance(scores.reshape(-1, generations))
        measures[f"groups/all_zero/{name}"] = all_zero(scores.reshape(-1, generations))
    return measures


def main_reward(weights: Mapping[str, float]) -> str:
    """Return the name of the reward with the largest weight, the entry cost aside."""
    return max((name for name in weights if name != ENTRY_COST), key=lambda name: abs(weights[name]))


class ZeroVarianceWatch:
    """Warns once if more than half of the groups in the last `window` rollouts were flat.

    Otherwise it warns if more than half had no variance in the reward of the largest weight, so that the policy learns
    only from the others.

    Args:
        weights: Weight of each reward by name; the entry cost never counts as the largest.
        remedies: Remedies that the recipe does not use yet.
        window: Number of rollouts considered.
    """

    def __init__(self, weights: Mapping[str, float], remedies: Sequence[str], window: int = WINDOW) -> None:
        self.names = list(weights)
        self.main = main_reward(weights)
        self.remedies = remedies
        self.warned = False
        self._rollouts: deque[Mapping[str, float]] = deque(maxlen=window)

    def note(self, measures: Mapping[str, float]) -> None:
        """Record a rollout's `group_measures`, and warn if necessary."""
        self._rollouts.append(measures)
        if self.warned or len(self._rollouts) < (self._rollouts.maxlen or 0):
            return
        shares = {name: sum(one[name] for one in self._rollouts) / len(self._rollouts) for name in measures}
        # Only groups without variance in the whole reward are replaced.
        replaced = shares["groups/zero_variance"] > 0.5
        remedies = [remedy for remedy in self.remedies if replaced or remedy != _REPLACE]
        main = shares[f"groups/zero_variance/{self.main}"]
        if shares["groups/flat"] > 0.5:
            besides = " but in what entries cost" if ENTRY_COST in self.names else ""
            learnt = f"no variance{besides}, so nothing about answers was learnt from them"
            self._warn("the reward is flat", shares["groups/flat"], shares["groups/all_zero"], learnt, shares, remedies)
        elif main > 0.5:
            learnt = "no variance in it, so only the other rewards were learnt from there"
            what = f"{self.main}, of the largest weight, is flat"
            self._warn(what, main, shares[f"groups/all_zero/{self.main}"], learnt, shares, remedies)

    def _warn(
        self,
        what: str,
        flat: float,
        zero: float,
        learnt: str,
        shares: Mapping[str, float],
        remedies: list[str],
    ) -> None:
        self.warned = True
        if zero > flat / 2:
            start = "where completions/parse_failures is high, start from an SFT adapter (warm_start)"
            remedies = [f"Most of them earned 0 throughout: {start}", *remedies]
        by_reward = ", ".join(
            f"{name} {shares[f'groups/zero_variance/{name}']:.0%} and {shares[f'groups/all_zero/{name}']:.0%}"
            for name in self.names
        )
        logger.warning(
            "%s: in the last %d rollouts %.0f%% of the groups had %s (no variance and all 0, by reward: %s). %s; "
            "docs/zero-variance-groups.md says more",
            what,
            len(self._rollouts),
            100 * flat,
            learnt,
            by_reward,
            "; ".join(remedies),
        )


def remedies_for(reward_names: Sequence[str], dynamic_sampling_rounds: int, variance_sampling: float) -> list[str]:
    """Return the remedies for flat rewards that a recipe does not use yet, most promising first."""
    remedies = []
    if "answer_exact_match" in reward_names:
        remedies.append("Replace answer_exact_match by a graded reward such as answer_f1")
    if not dynamic_sampling_rounds:
        remedies.append(_REPLACE)
    if not variance_sampling:
        remedies.append("set variance_sampling: 0.5 to draw prompts that vary more often")
    return [*remedies, "raise num_generations or temperature"]
