"""Intervals for means and paired differences: percentile bootstraps over dialogues, questions and seeds.

Questions of one dialogue share its bank and are not independent, so whole dialogues are resampled (a cluster
bootstrap). With fewer than `MIN_DIALOGUES` dialogues that would be meaningless, so questions are resampled instead. The
interval is then marked, because it covers these dialogues only, not new ones.

A value of None or NaN means that the metric does not apply to the question; such values are ignored everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_DIALOGUES = 20
RESAMPLES = 2000
# Bounds the memory of one block of resampled indices (8 bytes each).
_BLOCK = 2_000_000
_ROUNDING = 1e-12

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% percentile-bootstrap bounds, over `n` values.

    `within_dialogue` marks bounds from resampled questions, used if there are too few dialogues.
    """

    mean: float
    low: float
    high: float
    n: int
    within_dialogue: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the form in `results.json`: mean, low, high and, if marked, `"interval": "within-dialogue"`."""
        bounds: dict[str, Any] = {"mean": self.mean, "low": self.low, "high": self.high}
        return bounds | {"interval": "within-dialogue"} if self.within_dialogue else bounds


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The first run's score less the second's on the same questions.

    `wins`, `losses` and `ties` count questions; `p_value` is from the two-sided sign test without ties.
    """

    difference: float
    interval: Interval
    wins: int
    losses: int
    ties: int
    p_value: float


def bootstrap_interval(
    values: Sequence[float | None],
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Return the interval of the mean of `values`, or None if no value applies.

    Args:
        values: One score per question.
        groups: The dialogue of each question; without it the values count as independent.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling; the same input gives the same bounds.

    Raises:
        ValueError: `groups` is not as long as `values`.
    """
    keys = [str(i) for i in range(len(values))]
    dialogues = None if groups is None else dict(zip(keys, groups, strict=True))
    return hierarchical_interval([dict(zip(keys, values, strict=True))], dialogues, resamples, seed)


def hierarchical_interval(
    runs: Sequence[Mapping[str, float | None]],
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Return the interval of the mean over several seeds' runs, or None if no value applies.

    Every resample draws seeds and, independently, dialogues (or questions), both with replacement: all seeds have the
    same questions, so the two are crossed, not nested (the pigeonhole bootstrap, Owen 2007). For a single run this is
    the ordinary bootstrap. With fewer than about five seeds the bounds are too narrow, as in any bootstrap of so few.

    Args:
        runs: One mapping per seed, from question id to score.
        groups: Maps question id to dialogue id; without it the questions count as independent.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
    """
    applicable = [
        {key: float(value) for key, value in run.items() if value is not None and not math.isnan(value)} for run in runs
    ]
    questions = sorted({key for run in applicable for key in run})
    if not questions:
        return None
    units, clustered = _units(questions, groups)
    sums, counts = _totals(applicable, units)
    means = _resampled_means(sums, counts, resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    n = int(counts.sum())
    return Interval(float(sums.sum() / n), float(low), float(high), n, groups is not None and not clustered)


def averaged_interval(
    strata: Sequence[Sequence[float | None]], resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Return the interval of the mean of the strata's means, or None if no value applies.

    Values count as independent and are resampled within each stratum. Strata without a value are ignored.
    """
    means, resampled, n = [], [], 0
    for number, stratum in enumerate(strata):
        values = np.array([value for value in stratum if value is not None and not math.isnan(value)], dtype=np.float64)
        if len(values):
            sums, counts = values[None], np.ones((1, len(values)))
            means.append(values.mean())
            resampled.append(_resampled_means(sums, counts, resamples, [seed, number]))
            n += len(values)
    if not means:
        return None
    low, high = np.percentile(np.mean(resampled, axis=0), [2.5, 97.5])
    return Interval(float(np.mean(means)), float(low), float(high), n)


def question_differences(
    first: Mapping[str, float | None], second: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Return the score of `first` less that of `second` for every question, or None if either does not apply.

    Raises:
        ValueError: The question ids differ.
    """
    if unmatched := first.keys() ^ second.keys():
        example = min(unmatched)
        raise ValueError(
            f"{len(unmatched)} question ids are in one run only (such as {example!r}): a paired difference needs two "
            "runs over the same questions; evaluate both with the same split, limit and data"
        )
    return {key: _difference(first[key], second[key]) for key in first}


def paired_difference(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference | None:
    """Compare two runs, both from question id to score, or return None if no question applies to both.

    Args:
        first: The run claimed to be better.
        second: The run to compare it with.
        groups: Maps question id to dialogue id, as in `hierarchical_interval`.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: The question ids differ.
    """
    return paired_seed_difference([(first, second)], groups, resamples, seed)


def paired_seed_difference(
    pairs: Sequence[tuple[Mapping[str, float | None], Mapping[str, float | None]]],
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference | None:
    """Do the same as `paired_difference` over several seeds, one pair of runs each, with `hierarchical_interval`.

    Wins, losses and ties still count questions, by the sign of the question's mean difference over the seeds.

    Raises:
        ValueError: The question ids of a pair differ.
    """
    from scipy.stats import binomtest

    runs = [question_differences(first, second) for first, second in pairs]
    interval = hierarchical_interval(runs, groups, resamples, seed)
    if interval is None:
        return None
    by_question: dict[str, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            if value is not None:
                by_question.setdefault(key, []).append(value)
    signs = [_sign(math.fsum(values)) for values in by_question.values()]
    wins, losses = signs.count(1), signs.count(-1)
    p_value = float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0
    return PairedDifference(interval.mean, interval, wins, losses, signs.count(0), p_value)


def _sign(total: float) -> int:
    # Differences that cancel out over seeds leave a rounding error.
    return 0 if abs(total) < _ROUNDING else (1 if total > 0 else -1)


def _difference(first: float | None, second: float | None) -> float | None:
    if first is None or second is None or math.isnan(first) or math.isnan(second):
        return None
    return first - second


def _units(questions: Sequence[str], groups: Mapping[str, str] | None) -> tuple[dict[str, int], bool]:
    """Return each question's resampling unit (a number from 0), and whether the units are dialogues."""
    if groups is not None:
        numbers = {group: number for number, group in enumerate(sorted({groups[key] for key in questions}))}
        if len(numbers) >= MIN_DIALOGUES:
            return {key: numbers[groups[key]] for key in questions}, True
    return {key: number for number, key in enumerate(questions)}, False


def _totals(runs: Iterable[Mapping[str, float]], units: Mapping[str, int]) -> tuple[Array, Array]:
    """Return sum and number of values per run and unit, both (runs, units); drop runs without a value."""
    size = max(units.values()) + 1
    sums, counts = [], []
    for run in runs:
        if run:
            members = np.fromiter((units[key] for key in run), dtype=np.int64, count=len(run))
            weights = np.fromiter(run.values(), dtype=np.float64, count=len(run))
            sums.append(np.bincount(members, weights=weights, minlength=size))
            counts.append(np.bincount(members, minlength=size).astype(np.float64))
    return np.stack(sums), np.stack(counts)


def _resampled_means(sums: Array, counts: Array, resamples: int, seed: int | Sequence[int]) -> Array:
    """Draw rows and columns with replacement `resamples` times; return each draw's ratio of sums to counts."""
    rng = np.random.default_rng(seed)
    n_runs, n_units = sums.shape
    block = max(1, _BLOCK // (n_units * n_runs))
    means = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if n_runs == 1:
            run_sums, run_counts = sums, counts
        else:
            drawn = rng.integers(n_runs, size=(size, n_runs))
            run_sums, run_counts = sums[drawn].sum(axis=1), counts[drawn].sum(axis=1)
        columns = rng.integers(n_units, size=(size, n_units))
        rows = np.arange(len(run_sums))[:, None] if n_runs > 1 else 0
        numerator, denominator = run_sums[rows, columns].sum(axis=1), run_counts[rows, columns].sum(axis=1)
        # If runs have different questions, a draw can be empty; drop it.
        means.append(numerator[denominator > 0] / denominator[denominator > 0])
    return np.concatenate(means)
