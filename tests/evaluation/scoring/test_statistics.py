from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_r1.evaluation.scoring.statistics import (
    averaged_interval,
    bootstrap_interval,
    hierarchical_interval,
    paired_difference,
    paired_seed_difference,
    question_differences,
)


def test_equal_values_have_an_interval_of_no_width() -> None:
    interval = bootstrap_interval([0.25] * 7)
    assert interval is not None
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.25, 0.25, 0.25, 7)


def test_nothing_to_measure_is_none() -> None:
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([None, math.nan], groups=["a", "b"]) is None
    assert hierarchical_interval([]) is None


def test_values_that_do_not_apply_are_left_out() -> None:
    interval = bootstrap_interval([1.0, None, 0.0, math.nan, 1.0, 1.0])
    assert interval is not None
    assert (interval.mean, interval.n) == (0.75, 4)
    assert interval == bootstrap_interval([1.0, 0.0, 1.0, 1.0])


def test_question_bounds_agree_with_the_binomial() -> None:
    # The mean of 100 resampled fair coin flips has a standard deviation of 0.05: bounds near 0.5 -+ 1.96 * 0.05.
    interval = bootstrap_interval([0.0, 1.0] * 50, resamples=20_000)
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(0.402, abs=0.012), pytest.approx(0.598, abs=0.012))
    assert "interval" not in interval.to_dict()


def test_dialogues_are_resampled_whole() -> None:
    # 20 dialogues of 50 equal answers, 10 of them right. The resampled mean is Binomial(20, 0.5) / 20: its distribution
    # function is 0.021 at 5, 0.058 at 6, so its 2.5% quantile is 6 and, by symmetry, its 97.5% quantile is 14.
    values = [float(dialogue < 10) for dialogue in range(20) for _ in range(50)]
    groups = [f"d{dialogue}" for dialogue in range(20) for _ in range(50)]
    clustered, independent = bootstrap_interval(values, groups, resamples=20_000), bootstrap_interval(values)
    assert clustered is not None and independent is not None
    assert (clustered.low, clustered.high) == (6 / 20, 14 / 20)
    assert not clustered.within_dialogue
    # As independent questions: standard deviation 0.5 / sqrt(1000).
    assert independent.high - independent.low == pytest.approx(2 * 1.96 * 0.0158, rel=0.1)


def test_long_dialogues_weigh_more() -> None:
    # One dialogue of 60 right answers and 20 of one wrong answer: the mean is over questions, 60 / 80.
    interval = bootstrap_interval([1.0] * 60 + [0.0] * 20, ["long"] * 60 + [f"d{i}" for i in range(20)])
    assert interval is not None
    # About 36% of the resamples miss the long dialogue; at most, every draw is the long one.
    assert (interval.mean, interval.low) == (0.75, 0.0)


@pytest.mark.parametrize(("dialogues", "marked"), [(19, True), (20, False)])
def test_fewer_than_twenty_dialogues_are_marked(dialogues: int, marked: bool) -> None:
    values = [float(i % 2) for i in range(dialogues * 3)]
    interval = bootstrap_interval(values, [f"d{i % dialogues}" for i in range(dialogues * 3)])
    assert interval is not None
    assert interval.within_dialogue is marked
    assert interval.to_dict().get("interval") == ("within-dialogue" if marked else None)


def test_dialogues_without_an_applicable_value_do_not_count_as_dialogues() -> None:
    values = [1.0] * 19 + [None] * 5
    interval = bootstrap_interval(values, [f"d{i}" for i in range(24)])
    assert interval is not None and interval.within_dialogue


def test_groups_must_match_the_values() -> None:
    with pytest.raises(ValueError, match="shorter"):
        bootstrap_interval([1.0, 0.0], ["d1"])


def test_the_same_seed_gives_the_same_bounds() -> None:
    values = list(np.random.default_rng(1).random(50))
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_blocks_do_not_change_the_number_of_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_r1.evaluation.scoring.statistics._BLOCK", 64)
    interval = bootstrap_interval([0.0, 1.0] * 16, resamples=2_000)
    assert interval is not None
    # Standard deviation 0.5 / sqrt(32) = 0.088.
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.088, rel=0.15)


def test_seeds_that_disagree_widen_the_interval() -> None:
    # Within a seed every question has the same score: all of the uncertainty comes from the seeds.
    questions = [f"q{i}" for i in range(30)]
    runs = [dict.fromkeys(questions, score) for score in (0.2, 0.4, 0.6)]
    interval = hierarchical_interval(runs, resamples=20_000)
    assert interval is not None
    # The mean of three draws from {0.2, 0.4, 0.6} is 0.2 in 1 of 27 resamples (3.7% > 2.5%), and 0.6 likewise.
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.4, 0.2, 0.6))
    assert interval.n == 90


def test_seeds_do_not_narrow_what_the_questions_leave_open() -> None:
    # Three seeds that agree on every question carry no more information than one.
    run = {f"q{i}": float(i % 2) for i in range(100)}
    one, three = hierarchical_interval([run], resamples=10_000), hierarchical_interval([run] * 3, resamples=10_000)
    assert one is not None and three is not None
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.1)


def test_paired_difference_counts_and_sign_test() -> None:
    # Eight wins, one loss, one tie: mean (8 - 1) / 10. Sign test on 9: 2 * (C(9,0) + C(9,1)) / 2**9 = 20 / 512.
    first = {f"q{i}": 1.0 for i in range(8)} | {"q8": 0.0, "q9": 1.0}
    second = {f"q{i}": 0.0 for i in range(8)} | {"q8": 1.0, "q9": 1.0}
    result = paired_difference(first, second)
    assert result is not None
    assert (result.wins, result.losses, result.ties) == (8, 1, 1)
    assert result.difference == pytest.approx(0.7)
    assert result.p_value == pytest.approx(20 / 512)
    assert result.interval.low < 0.7 < result.interval.high


def test_paired_difference_clusters_by_dialogue() -> None:
    ids = [f"q{i}" for i in range(200)]
    groups = {key: f"d{i // 8}" for i, key in enumerate(ids)}
    first = {key: float((i // 8) % 2) for i, key in enumerate(ids)}
    second = dict.fromkeys(ids, 0.0)
    clustered, loose = paired_difference(first, second, groups), paired_difference(first, second)
    assert clustered is not None and loose is not None
    # Eight equal answers a dialogue: the interval is sqrt(8) times as wide.
    ratio = (clustered.interval.high - clustered.interval.low) / (loose.interval.high - loose.interval.low)
    assert ratio == pytest.approx(math.sqrt(8), rel=0.15)


def test_an_average_of_strata_weighs_each_alike_and_resamples_within() -> None:
    # Means 1.0 and 0.25 of strata of unequal size: 0.625, not the mean of all values, 11 / 14.
    interval = averaged_interval([[1.0] * 10, [1.0, 0.0, 0.0, 0.0], [None, math.nan], []], resamples=20_000)
    assert interval is not None
    assert (interval.mean, interval.n, interval.within_dialogue) == (0.625, 14, False)
    # Only the second varies, as Binomial(4, 1/4) / 4: P(0) = 0.316, P(<= 2) = 0.949, P(<= 3) = 0.996.
    assert (interval.low, interval.high) == (0.5, (1 + 3 / 4) / 2)
    assert averaged_interval([[None], []]) is None


def test_strata_of_the_same_values_vary_independently() -> None:
    # Both alike: the average of two independent means has 1 / sqrt(2) of the width of one.
    coin = [0.0, 1.0] * 50
    one, two = averaged_interval([coin], resamples=10_000), averaged_interval([coin, coin], resamples=10_000)
    assert one is not None and two is not None
    assert (one.high - one.low) / (two.high - two.low) == pytest.approx(math.sqrt(2), rel=0.1)


def test_seeds_of_a_difference_count_each_question_once() -> None:
    # Three seeds of four questions: q0 better in all, q1 in two of three, q2 cancels out, q3 worse in the mean.
    base = dict.fromkeys(("q0", "q1", "q2", "q3"), 0.3)
    seeds = [(0.7, 0.7, 0.4, 0.3), (0.7, 0.7, 0.5, 0.3), (0.7, 0.2, 0.0, 0.0)]
    pairs = [(dict(zip(base, values, strict=True)), base) for values in seeds]
    result = paired_seed_difference(pairs)
    assert result is not None
    # Sums over seeds: 1.2, 0.7, 0.0 (with a rounding error), -0.3; sign test of 2 against 1: p = 1.
    assert (result.wins, result.losses, result.ties, result.p_value) == (2, 1, 1, 1.0)
    assert result.difference == pytest.approx(1.6 / 12)
    assert result.interval.n == 12


def test_seeds_that_differ_widen_a_difference() -> None:
    keys = [f"q{i}" for i in range(30)]
    base = dict.fromkeys(keys, 0.0)
    pairs = [(dict.fromkeys(keys, score), base) for score in (0.2, 0.4, 0.6)]
    result = paired_seed_difference(pairs, resamples=20_000)
    assert result is not None
    # As for one run's seeds: three draws of 0.2 occur in 1 of 27 resamples, more than 2.5%.
    assert (result.interval.low, result.interval.high) == pytest.approx((0.2, 0.6))


def test_runs_without_a_difference_have_p_one() -> None:
    run = {"q1": 1.0, "q2": 0.5}
    result = paired_difference(run, run)
    assert result is not None
    assert (result.difference, result.p_value, result.ties) == (0.0, 1.0, 2)


def test_a_question_that_does_not_apply_to_one_run_is_left_out_of_the_pair() -> None:
    first: dict[str, float | None] = {"q1": 1.0, "q2": None, "q3": math.nan}
    second: dict[str, float | None] = {"q1": 0.5, "q2": 1.0, "q3": 1.0}
    assert question_differences(first, second) == {"q1": 0.5, "q2": None, "q3": None}
    result = paired_difference(first, second)
    assert result is not None and result.interval.n == 1
    assert paired_difference({"q1": None}, {"q1": 1.0}) is None


def test_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 question ids.*'q2'"):
        paired_difference({"q1": 1.0, "q2": 1.0}, {"q1": 1.0, "q3": 1.0})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_mean_is_exact_and_bounds_stay_in_range(values: list[float]) -> None:
    interval = bootstrap_interval(values, resamples=200)
    assert interval is not None
    assert interval.mean == pytest.approx(sum(values) / len(values))
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
