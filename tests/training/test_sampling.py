"""The choice of prompts."""

from __future__ import annotations

from collections import Counter

import pytest
from datasets import Dataset
from trl.trainer.utils import RepeatSampler

from memory_r1.training.sampling import (
    ROW_INDEX,
    PromptDraws,
    PromptRecord,
    VarianceSampler,
    numbered,
)

NAN = float("nan")


def test_rows_are_numbered() -> None:
    assert numbered(Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}]))[ROW_INDEX] == [0, 1]


def record(*spreads: float) -> PromptRecord:
    made = PromptRecord(len(spreads))
    known = [row for row, spread in enumerate(spreads) if spread == spread]
    made.note(known, [spreads[row] for row in known])
    return made


@pytest.mark.parametrize(
    ("spreads", "mixture", "weights"),
    [
        ((0.1, 0.3, 0.0, 0.0), 1.0, [0.25, 0.75, 0.0, 0.0]),
        ((0.1, 0.3, 0.0, 0.0), 0.0, [0.25] * 4),
        ((0.1, 0.3, 0.0, 0.0), 0.5, [0.25, 0.5, 0.125, 0.125]),
        ((0.2, NAN, 0.0), 1.0, [0.5, 0.5, 0.0]),  # never tried: as good as the best
        ((0.0, NAN), 1.0, [0.0, 1.0]),
        ((NAN, NAN), 1.0, [0.5, 0.5]),
        ((0.0, 0.0), 1.0, [0.5, 0.5]),  # nothing varies, so no preference
    ],
)
def test_weights_mix_recent_spread_with_uniform(
    spreads: tuple[float, ...], mixture: float, weights: list[float]
) -> None:
    assert record(*spreads).weights(mixture).tolist() == pytest.approx(weights)


def test_the_latest_spread_counts() -> None:
    made = record(0.5, 0.5)
    made.note([1], [0.0])
    assert made.weights(1.0).tolist() == pytest.approx([1.0, 0.0])


def test_draws_follow_the_weights() -> None:
    draws = PromptDraws(record(0.1, 0.3, 0.0, 0.0), 0.5, seed=3)
    counts = Counter(row for _ in range(4000) for row in draws.draw(1))
    assert [counts[row] / 4000 for row in range(4)] == pytest.approx([0.25, 0.5, 0.125, 0.125], abs=0.03)


def test_draws_are_different_rows_and_decided_by_the_seed() -> None:
    first, same, other = (PromptDraws(record(*[NAN] * 20), 0.5, seed) for seed in (1, 1, 2))
    drawn = [first.draw(5) for _ in range(6)]
    assert all(len(set(rows)) == 5 for rows in drawn)
    assert drawn == [same.draw(5) for _ in range(6)]
    assert drawn != [other.draw(5) for _ in range(6)]


def test_rows_to_avoid_are_avoided_as_long_as_there_are_others() -> None:
    draws = PromptDraws(record(1.0, 1.0, 0.0, 0.0), 1.0, seed=0)
    assert sorted(draws.draw(2, avoid={0, 1})) == [2, 3]  # although neither ever varied
    assert sorted(draws.draw(4, avoid={0})) == [0, 1, 2, 3]
    assert sorted(draws.draw(2, avoid={0, 1, 2, 3})) == [0, 1]
    assert set(draws.draw(3, avoid={0, 1, 2})[1:]) == {0, 1}
    assert len(draws.draw(6)) == 6  # more than exist, so some repeat


def test_rows_not_tried_come_first_where_too_few_of_them_are_left() -> None:
    for seed in range(20):
        # Rows 4 and 5 never varied, but come before rows already tried.
        drawn = PromptDraws(record(1.0, 1.0, 1.0, 1.0, 0.0, 0.0), 1.0, seed).draw(4, avoid={0, 1, 2, 3})
        assert set(drawn[:2]) == {4, 5} and len(set(drawn)) == 4


def test_a_sampled_epoch_has_the_shape_of_trls() -> None:
    rows, prompts, generations, repeats = 7, 2, 3, 2
    sampler = VarianceSampler(PromptDraws(record(*[NAN] * rows), 0.5, 0), prompts, generations, repeats)
    stock = RepeatSampler(range(rows), generations, prompts, repeats)
    drawn = list(sampler)
    assert len(drawn) == len(list(stock)) == len(sampler) == 3 * 2 * 3 * 2
    size = prompts * generations
    for start in range(0, len(drawn), size * repeats):
        rollout = drawn[start : start + size]
        assert drawn[start + size : start + 2 * size] == rollout
        assert rollout[0] != rollout[3]
        assert rollout == [rollout[0]] * 3 + [rollout[3]] * 3


def test_a_sampler_uses_what_was_learnt_meanwhile() -> None:
    known = record(NAN, NAN, NAN, NAN)
    rollouts = iter(VarianceSampler(PromptDraws(known, 1.0, seed=0), 1, 2, 1))
    next(rollouts), next(rollouts)
    known.note([0, 1, 2, 3], [0.0, 0.0, 1.0, 0.0])
    assert list(rollouts) == [2] * 6
