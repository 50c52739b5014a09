"""Draw prompts so as to avoid zero-variance groups (`zero_variance.py`).

There are two remedies: replace such groups by fresh prompts (`dynamic_sampling.py`), and draw prompts whose rewards
varied recently more often (`VarianceSampler`). Both are off by default.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

ROW_INDEX = "row_index"
"""Dataset column with the row's number."""

# Keeps prompts that never varied drawable if no others are left.
_LEAST_WEIGHT = 1e-12


def numbered(dataset: Any) -> Any:
    """Return the dataset with its row numbers as column `ROW_INDEX`."""
    return dataset.add_column(ROW_INDEX, list(range(len(dataset))))


class PromptRecord:
    """The latest spread of rewards in the group of each of `rows` training rows; a resumed run starts empty."""

    def __init__(self, rows: int) -> None:
        self.spreads = torch.full((rows,), torch.nan, dtype=torch.float64)  # (rows,)

    def note(self, rows: Sequence[int], spreads: Sequence[float]) -> None:
        """Record the spreads of these rows' groups."""
        self.spreads[list(rows)] = torch.tensor(spreads, dtype=torch.float64)

    def weights(self, mixture: float) -> torch.Tensor:
        """Return each row's probability, `(rows,)`: a share `mixture` follows the recent spread, the rest is uniform.

        For a binary reward the spread is largest if half of the completions succeed, which is the "learnability" of
        Foster et al. 2025 (arXiv 2502.12272). An untried row gets the largest known spread, so that all are tried soon
        (as in prioritized replay, Schaul et al. 2016, section 3.3).
        """
        rows = len(self.spreads)
        untried = self.spreads.isnan()
        best = float(self.spreads.nan_to_num().max())
        spreads = torch.where(untried, best or 1.0, self.spreads)
        uniform = torch.full((rows,), 1 / rows, dtype=torch.float64)
        total = float(spreads.sum())
        return (1 - mixture) * uniform + mixture * spreads / total if total else uniform


class PromptDraws:
    """Seeded draws of training rows by their recent spread; equal histories give equal draws on every rank.

    Args:
        record: The rows' recent spreads.
        mixture: 0 draws uniformly, 1 by spread alone.
        seed: Seed of the draws.
    """

    def __init__(self, record: PromptRecord, mixture: float, seed: int) -> None:
        self.record = record
        self.mixture = mixture
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int, avoid: Collection[int] = ()) -> list[int]:
        """Draw distinct rows, rows in `avoid` only after all others; repeat rows only if there are too few."""
        weights = self.record.weights(self.mixture) + _LEAST_WEIGHT
        if count > len(weights):
            return self._among(weights, count, replacement=True)
        tried = torch.zeros(len(weights), dtype=torch.bool)
        tried[sorted(avoid)] = True
        untried = min(count, int((~tried).sum()))
        first = self._among(weights.masked_fill(tried, 0.0), untried)
        return first + self._among(weights.masked_fill(~tried, 0.0), count - untried)

    def _among(self, weights: torch.Tensor, count: int, replacement: bool = False) -> list[int]:
        if count == 0:
            return []  # all weights may be zero
        return torch.multinomial(weights, count, replacement=replacement, generator=self._generator).tolist()


class VarianceSampler(Sampler[int]):
    """TRL's `RepeatSampler` with drawn rollouts in place of a permutation of the rows.

    A rollout's rows are drawn when it is fetched. Accelerate fetches one rollout ahead, so the spreads of the rollout
    before it are still missing. An epoch has as many rollouts as a pass over all rows, but may miss some rows.

    Args:
        draws: Source of the rows.
        prompts: Distinct prompts per rollout, over all ranks.
        generations: Completions per prompt (G).
        repeats: Number of fetches per rollout: TRL fetches it once for each of its micro-batches.
    """

    def __init__(self, draws: PromptDraws, prompts: int, generations: int, repeats: int) -> None:
        self.draws = draws
        self.prompts = prompts
        self.generations = generations
        self.repeats = repeats
        self.rollouts = len(draws.record.spreads) // prompts

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.rollouts):
            rollout = [row for row in self.draws.draw(self.prompts) for _ in range(self.generations)]
            for _ in range(self.repeats):
                yield from rollout

    def __len__(self) -> int:
        return self.rollouts * self.prompts * self.generations * self.repeats
