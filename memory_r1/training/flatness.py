"""Rewards that do not tell a group's completions apart: how many groups, by which reward, and what helps.

GRPO learns from the differences within a group: where all G completions of a prompt earn the same, their advantages are
zero and the group teaches nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

logger = logging.getLogger(__name__)

FLAT = 1e-6  # spreads up to here are rounding, not reward
WINDOW = 10  # rollouts that the warning looks back on
_REPLACE = "set resample_rounds: 2 to replace such groups by fresh prompts"


@dataclass(frozen=True, slots=True)
class Flatness:
    """Shares of the groups of a rollout.

    Attributes:
        zero_variance: Groups whose known rewards are all the same, or of which fewer than two are known.
        all_zero: Groups whose known rewards, of which there are some, are all exactly 0.
    """

    zero_variance: float
    all_zero: float


def group_spreads(rewards: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the known rewards in each group; 0 where fewer than two are known.

    Args:
        rewards: `(groups, G)`, NaN where a completion has no reward.

    Returns:
        `(groups,)`.
    """
    known = ~rewards.isnan()  # (groups, G)
    count = known.sum(dim=1)
    mean = rewards.nansum(dim=1) / count.clamp(min=1)
    deviation = torch.where(known, rewards - mean[:, None], 0.0)
    return (deviation.square().sum(dim=1) / (count - 1).clamp(min=1)).sqrt()


def without_failed(rewards: torch.Tensor, generations: int) -> torch.Tensor:  # (B, F) -> (B, F)
    """Take out the rows, as all NaN, that lack a reward which others of their group have.

    TRL adds up the rewards that a row has: one whose answer or judge failed would be pushed down for it.
    """
    missing = rewards.isnan().view(-1, generations, rewards.size(1))  # (B / G, G, F)
    failed = missing & ~missing.all(dim=1, keepdim=True)
    return rewards.masked_fill(failed.any(dim=-1).view(-1, 1), torch.nan)


def flatness(rewards: torch.Tensor) -> Flatness:
    """How flat rewards `(groups, G)` are, NaN where a completion has none."""
    known = ~rewards.isnan()
    zero = known.any(dim=1) & (rewards.nan_to_num() == 0).all(dim=1)  # (groups,)
    return Flatness(
        zero_variance=(group_spreads(rewards) <= FLAT).float().mean().item(), all_zero=zero.float().mean().item()
    )


def flatness_measures(total: Flatness, by_reward: Mapping[str, Flatness]) -> dict[str, float]:
    """What the log says of a rollout; the whole reward's groups without variance are TRL's `frac_reward_zero_std`."""
    measures = {"groups/all_zero": total.all_zero}
    for name, one in by_reward.items():
        measures[f"groups/all_zero/{name}"] = one.all_zero
        measures[f"groups/zero_variance/{name}"] = one.zero_variance
    return measures


class FlatnessWatch:
    """Warns once when over the last `window` rollouts more than half of the groups had no variance.

    In the whole reward or, where that varies, in the reward of the largest weight: the policy then learns from the
    others alone.

    Args:
        main: Name of the reward of the largest weight.
        remedies: What the recipe could set that it has not.
        window: Rollouts looked back on.
    """

    def __init__(self, main: str, remedies: Sequence[str], window: int = WINDOW) -> None:
        self.main = main
        self.remedies = remedies
        self.warned = False
        self._rollouts: deque[tuple[Flatness, Mapping[str, Flatness]]] = deque(maxlen=window)

    def note(self, total: Flatness, by_reward: Mapping[str, Flatness]) -> None:
        """Take note of a rollout: how flat its whole reward was, and each one."""
        self._rollouts.append((total, by_reward))
        if self.warned or len(self._rollouts) < (self._rollouts.maxlen or 0):
            return
        whole = _mean([one for one, _ in self._rollouts])
        each = {name: _mean([rewards[name] for _, rewards in self._rollouts]) for name in by_reward}
        if whole.zero_variance > 0.5:
            self._warn("the reward is flat", whole, "so nothing was learnt from them", each, self.remedies)
        elif each[self.main].zero_variance > 0.5:
            learnt = "so only the other rewards were learnt from there"
            # What is replaced is flat in the sum; these groups are not.
            others = [remedy for remedy in self.remedies if remedy != _REPLACE]
            self._warn(f"{self.main}, of the largest weight, is flat", each[self.main], learnt, each, others)

    def _warn(
        self, what: str, flat: Flatness, learnt: str, each: Mapping[str, Flatness], untried: Sequence[str]
    ) -> None:
        self.warned = True
        remedies = list(untried)
        if flat.all_zero > flat.zero_variance / 2:
            remedies.insert(
                0,
                "Most of them earned 0 throughout: where completions/parse_failures is high, start from an SFT adapter "
                "(warm_start)",
            )
        logger.warning(
            "%s: in the last %d rollouts %.0f%% of the groups had no variance, %s (no variance and all 0, by reward: "
            "%s). %s; docs/flat-rewards.md says more",
            what,
            len(self._rollouts),
            100 * flat.zero_variance,
            learnt,
            ", ".join(
                f"{name} {100 * one.zero_variance:.0f}% and {100 * one.all_zero:.0f}%" for name, one in each.items()
            ),
            "; ".join(remedies),
        )


def remedies_for(reward_names: Sequence[str], resample_rounds: int, variance_sampling: float) -> list[str]:
    """What a recipe with these settings can do about flat rewards, the likeliest help first."""
    remedies = []
    if "answer_exact_match" in reward_names:
        remedies.append("Replace answer_exact_match by a graded reward such as answer_f1")
    if not resample_rounds:
        remedies.append(_REPLACE)
    if not variance_sampling:
        remedies.append("set variance_sampling: 0.5 to draw prompts that vary more often")
    return [*remedies, "raise num_generations or temperature"]


def _mean(shares: Sequence[Flatness]) -> Flatness:
    count = len(shares)
    return Flatness(sum(one.zero_variance for one in shares) / count, sum(one.all_zero for one in shares) / count)
