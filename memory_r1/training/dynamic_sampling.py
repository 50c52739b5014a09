"""Replace groups without variance by fresh prompts: DAPO's dynamic sampling (Yu et al. 2025, section 3.2), bounded.

DAPO samples until the batch is full of groups that vary. Here the first rollout is kept, and a bounded number of extra
rounds replaces only its zero-variance groups; any that remain then stay. So a step keeps its size and has a bounded
cost. Every rank decides on gathered rewards with equally seeded draws, so all ranks run the same rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object

from memory_r1.training.rows import Row
from memory_r1.training.sampling import PromptDraws
from memory_r1.training.zero_variance import TINY

Generated = tuple[Any, ...]
"""The result of TRL's `_generate`: prompt ids, completion ids, tool mask, completions, log-probabilities, extra
columns, images and tool images. All but the images (there are none) are lists with one item per row, or None."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion of one row."""

    row: Row
    prompt_ids: list[int]
    completion_ids: list[int]
    tool_mask: list[int] | None
    completion: Any
    log_probs: list[float] | None


@dataclass(frozen=True, slots=True)
class Settled:
    """A final rollout: this rank's samples and the rewards of all ranks, `(B, F)`."""

    samples: list[Sample]
    rewards: torch.Tensor

    def generated(self) -> Generated:
        """Return the samples in the form of `_generate`; the rows already hold the extra columns."""
        samples = self.samples
        masked = any(sample.tool_mask is not None for sample in samples)
        scored = any(sample.log_probs is not None for sample in samples)
        return (
            [sample.prompt_ids for sample in samples],
            [sample.completion_ids for sample in samples],
            [sample.tool_mask for sample in samples] if masked else None,
            [sample.completion for sample in samples],
            [sample.log_probs for sample in samples] if scored else None,
            {},
            None,
            [],
        )


def samples_of(rows: Sequence[Row], generated: Generated) -> list[Sample]:
    """Return one sample per row; like TRL, add the rollout's extra columns to the row."""
    prompt_ids, completion_ids, tool_mask, completions, log_probs, extra = generated[:6]
    return [
        Sample(
            row | {name: values[index] if isinstance(values, list) else values for name, values in extra.items()},
            prompt_ids[index],
            completion_ids[index],
            tool_mask[index] if tool_mask is not None else None,
            completions[index],
            log_probs[index] if log_probs is not None else None,
        )
        for index, row in enumerate(rows)
    ]


class DynamicSampler:
    """Draws fresh prompts for the groups of a rollout that have no variance.

    Args:
        rows: The training rows, by their number.
        draws: Source of fresh prompts.
        rounds: Maximum number of extra rounds.
        generations: Completions per prompt (G).
        rank: Index of this process.
        ranks: Number of processes.
    """

    def __init__(
        self, rows: Sequence[Row], draws: PromptDraws, *, rounds: int, generations: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.rows = rows
        self.draws = draws
        self.rounds = rounds
        self.generations = generations
        self.rank = rank
        self.ranks = ranks
        self.replaced = 0

    def settle(
        self,
        rollout: Settled,
        tried: Sequence[int],
        spreads: Callable[[torch.Tensor], torch.Tensor],
        sample: Callable[[list[Row]], Settled],
    ) -> Settled:
        """Replace the zero-variance groups of a rollout, as far as fresh prompts that vary are found.

        Args:
            rollout: This rank's samples and the rewards of all ranks.
            tried: Row numbers of the rollout on all ranks, drawn again only if no others are left.
            spreads: Maps rewards `(B, F)` to the spread of each group, `(B / G,)`.
            sample: Samples and scores rows of this rank; every rank gets the same number.
        """
        size = self.generations
        samples, rewards = list(rollout.samples), rollout.rewards.clone()
        start = self.rank * len(samples)  # first row of this rank among all
        seen = set(tried)
        self.replaced = 0
        for _ in range(self.rounds):
            alike = _where(spreads(rewards) <= TINY)
            if not alike:
                break
            drawn = self.draws.draw(_whole_shares(len(alike), size, self.ranks), seen)
            seen.update(drawn)
            fresh = sample(self._share([dict(self.rows[row]) for row in drawn for _ in range(size)]))
            everywhere = gather_object(fresh.samples) if self.ranks > 1 else fresh.samples
            varied = _where(spreads(fresh.rewards) > TINY)
            for group, source in zip(alike, varied, strict=False):
                rewards[group * size : (group + 1) * size] = fresh.rewards[source * size : (source + 1) * size]
                for offset in range(size):
                    place = group * size + offset - start
                    if 0 <= place < len(samples):
                        samples[place] = everywhere[source * size + offset]
            self.replaced += min(len(alike), len(varied))
        return Settled(samples, rewards)

    def _share(self, rows: list[Row]) -> list[Row]:
        size = len(rows) // self.ranks
        return rows[self.rank * size : (self.rank + 1) * size]


def _whole_shares(groups: int, size: int, ranks: int) -> int:
    """Round up the number of groups until the ranks share their rows evenly, as TRL's gathering requires."""
    step = ranks // math.gcd(size, ranks)
    return math.ceil(groups / step) * step


def _where(mask: torch.Tensor) -> list[int]:
    return [int(index) for index in mask.nonzero().flatten()]
