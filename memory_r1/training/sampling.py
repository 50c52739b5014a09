"""Against zero-variance groups: which prompts are drawn.

Two remedies draw prompts anew: zero-variance groups (`zero_variance.py`) are replaced by fresh prompts
(`dynamic_sampling.py`), and prompts whose rewards varied lately are drawn more often (`VarianceSampler`). Both are off
unless a recipe asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

ROW_INDEX = "row_index"
"""Dataset column by which a row is found again."""

# Keeps a prompt that never varied drawable where nothing but such prompts is left.
_LEAST_WEIGHT = 1e-12


def numbered(dataset: Any) -> Any:
    """The dataset with its row numbers as column `ROW_INDEX`."""
    return dataset.add_column(ROW_INDEX, list(range(len(dataset))))


class PromptRecord:
    """The latest spread of rewards within the group of each training row; it starts anew in a resumed run.

    Args:
        rows: Rows of the training dataset.
    """

    def __init__(self, rows: int) -> None:
        self.spreads = torch.full((rows,), torch.nan, dtype=torch.float64)  # (rows,)

    def note(self, rows: Sequence[int], spreads: Sequence[float]) -> None:
        """Keep the spread of a group for each of these rows."""
        self.spreads[list(rows)] = torch.tensor(spreads, dtype=torch.float64)

    def weights(self, mixture: float) -> torch.Tensor:
        """Probability of each row, `(rows,)`: `mixture` parts by recent spread, the rest uniform.

        For a binary reward the spread is largest where half of the completions succeed, which is the "learnability" of
        Foster et al. 2025 (arXiv 2502.12272). A row never tried counts as the best one known, so that all are tried
        soon (as in prioritized replay, Schaul et al. 2016, section 3.3).
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
        record: What is known of the rows.
        mixture: 0 draws uniformly, 1 by spread alone.
        seed: Of the draws.
    """

    def __init__(self, record: PromptRecord, mixture: float, seed: int) -> None:
        self.record = record
        self.mixture = mixture
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int, avoid: Collection[int] = ()) -> list[int]:
        """Different rows, those of `avoid` only when all others are drawn; rows repeat only where there are too few."""
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
            return []  # as many as there may be no weight above zero
        return torch.multinomial(weights, count, replacement=replacement, generator=self._generator).tolist()


class VarianceSampler(Sampler[int]):
    """TRL's `RepeatSampler` with drawn rollouts in place of a permutation of the rows.

    Rows of a rollout are drawn when it is fetched, by what is known of them then; Accelerate fetches one rollout ahead,
    so that the one before it is not known yet. An epoch has as many rollouts as a pass over all rows would, but need
    not contain each row.

    Args:
        draws: Where rows come from.
        prompts: Different prompts of a rollout, over all ranks.
        generations: Completions of each prompt (G).
        repeats: How often a rollout is fetched: TRL fetches it once for each micro-batch made of it.
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
