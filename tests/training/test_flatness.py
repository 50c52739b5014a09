"""What is said of a reward that does not tell completions apart."""

from __future__ import annotations

import logging

import pytest
import torch

from memory_r1.training.flatness import (
    Flatness,
    FlatnessWatch,
    flatness,
    flatness_measures,
    group_spreads,
    remedies_for,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("rewards", "spread"),
    [
        ([1.0, 1.0, 1.0], 0.0),
        ([0.0, 0.0, 0.0], 0.0),
        ([0.0, 1.0, 2.0], 1.0),  # squares 1 + 0 + 1 over 3 - 1
        ([0.0, 2.0, NAN], 2.0**0.5),  # a completion without a reward is no completion with reward 0
        ([1.0, NAN, NAN], 0.0),
        ([NAN, NAN, NAN], 0.0),
    ],
)
def test_the_spread_of_a_group_is_that_of_its_known_rewards(rewards: list[float], spread: float) -> None:
    assert group_spreads(torch.tensor([rewards])).tolist() == pytest.approx([spread])


@pytest.mark.parametrize(
    ("rewards", "zero_variance", "all_zero"),
    [
        ([[0.0, 0.0], [0.5, 0.5], [0.0, 1.0], [2.0, 1.0]], 0.5, 0.25),
        ([[0.0, NAN], [NAN, NAN]], 1.0, 0.5),  # one known reward of 0; and none, which is missing and not 0
        ([[1e-9, 1e-9], [-1.0, 1.0]], 0.5, 0.0),  # tiny is not 0, and neither is a mean of 0
    ],
)
def test_flat_groups_and_those_without_any_reward_are_counted(
    rewards: list[list[float]], zero_variance: float, all_zero: float
) -> None:
    assert flatness(torch.tensor(rewards)) == Flatness(zero_variance, all_zero)


def test_the_log_tells_the_rewards_apart() -> None:
    assert flatness_measures(Flatness(0.5, 0.25), {"answer_f1": Flatness(0.75, 0.5)}) == {
        "groups/all_zero": 0.25,
        "groups/all_zero/answer_f1": 0.5,
        "groups/zero_variance/answer_f1": 0.75,
    }


def warnings_of(
    shares: list[float], caplog: pytest.LogCaptureFixture, zero: float = 0.0, main: list[float] | None = None
) -> list[str]:
    """What a window of four rollouts says when the whole reward and (unless `main` is given) answer_f1 are so flat."""
    watch = FlatnessWatch("answer_f1", ["Do this", "or that"], window=4)
    with caplog.at_level(logging.WARNING):
        for share, own in zip(shares, main or shares, strict=True):
            watch.note(Flatness(share, zero), {"answer_f1": Flatness(own, zero), "answer_format": Flatness(1.0, 0.0)})
    return [entry.getMessage() for entry in caplog.records]


def test_a_flat_reward_is_told_once_and_names_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of([0.5, 0.75, 1.0, 0.5, 1.0, 1.0], caplog, zero=0.3)
    assert message.startswith("the reward is flat: in the last 4 rollouts 69% of the groups had no variance")
    assert "answer_f1 69% and 30%, answer_format 100% and 0%" in message
    assert "). Do this; or that; docs/flat-rewards.md" in message


def test_groups_that_earn_nothing_have_a_remedy_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of([0.8] * 4, caplog, zero=0.5)
    assert "Most of them earned 0 throughout: where completions/parse_failures is high" in message
    assert message.index("warm_start") < message.index("Do this")


def test_a_flat_main_reward_is_told_where_the_others_make_the_sum_vary(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of([0.0] * 5, caplog, main=[0.75] * 5)
    assert message.startswith("answer_f1, of the largest weight, is flat: in the last 4 rollouts 75%")
    assert "only the other rewards were learnt" in message


@pytest.mark.parametrize(("share", "replaces"), [(1.0, True), (0.0, False)])
def test_fresh_prompts_are_no_remedy_where_the_sum_varies(
    share: float, replaces: bool, caplog: pytest.LogCaptureFixture
) -> None:
    watch = FlatnessWatch("answer_f1", remedies_for(["answer_f1"], 0, 0.0), window=1)
    with caplog.at_level(logging.WARNING):
        watch.note(Flatness(share, 0.0), {"answer_f1": Flatness(1.0, 0.0)})
    (entry,) = caplog.records
    assert ("resample_rounds" in entry.getMessage()) is replaces
    assert "variance_sampling" in entry.getMessage()


@pytest.mark.parametrize("shares", [[1.0] * 3, [0.5] * 8, [1.0, 0.0] * 4, []])
def test_half_of_the_groups_or_too_few_rollouts_are_no_warning(
    shares: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_of(shares, caplog) == []


def test_remedies_are_those_not_taken_yet() -> None:
    everything = remedies_for(["answer_exact_match"], 0, 0.0)
    settings = ("answer_f1", "resample_rounds: 2", "variance_sampling: 0.5", "temperature")
    assert all(setting in remedy for setting, remedy in zip(settings, everything, strict=True))
    assert remedies_for(["answer_f1"], 2, 0.5) == ["raise num_generations or temperature"]
