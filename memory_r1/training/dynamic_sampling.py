"""Groups without variance replaced by fresh prompts: DAPO's dynamic sampling (Yu et al. 2025, section 3.2), bounded.

DAPO samples on until the batch is full of groups that vary. Here the first rollout is kept, at most so many extra
rounds are drawn for its zero-variance groups alone, and those that are left then stay: a step keeps its size, and its
cost has a bound. Every rank decides on gathered rewards and with equally seeded draws, so all of them do the same
rounds.
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
"""What TRL's `_generate` returns: prompt ids, completion ids, tool mask, completions, log-probabilities, extra columns,
images and tool images. All but the images (of which there are none) are lists of one item a row, or None."""


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
    """A rollout that is not drawn again: this rank's samples and the rewards of all ranks, `(B, F)`."""

    samples: list[Sample]
    rewards: torch.Tensor

    def generated(self) -> Generated:
        """The samples as `_generate` returns them; the rows hold the extra columns already."""
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
    """One sample a row; extra columns that the rollout returned join the row, as TRL does it."""
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
        draws: Where fresh prompts come from.
        rounds: Most extra rounds.
        generations: Completions of each prompt (G).
        rank: This process.
        ranks: Processes.
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
        """The rollout with its zero-variance groups replaced, as far as fresh prompts that vary were found.

        Args:
            rollout: This rank's samples and the rewards of all ranks.
            tried: Row numbers of the rollout on all ranks: they are drawn again only where no others are left.
            spreads: Rewards `(B, F)` to the spread of each group, `(B / G,)`.
            sample: Samples and scores rows of this rank; all ranks are asked for equally many.
        """
        size = self.generations
        samples, rewards = list(rollout.samples), rollout.rewards.clone()
        start = self.rank * len(samples)  # of this rank's rows among all
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
    """At least so many groups that the ranks can share their rows evenly: TRL gathers equally many from each."""
    step = ranks // math.gcd(size, ranks)
    return math.ceil(groups / step) * step


def _where(mask: torch.Tensor) -> list[int]:
    return [int(index) for index in mask.nonzero().flatten()]
