"""Warnings about rewards that do not distinguish completions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch

from memory_r1.training.zero_variance import (
    ZeroVarianceWatch,
    all_zero,
    group_measures,
    group_spreads,
    remedies_for,
    weighted_totals,
    zero_variance,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("rewards", "spread"),
    [
        ([1.0, 1.0, 1.0], 0.0),
        ([0.0, 0.0, 0.0], 0.0),
        ([0.0, 1.0, 2.0], 1.0),  # squares 1 + 0 + 1 over 3 - 1
        ([0.0, 2.0, NAN], 2.0**0.5),  # a missing reward is not a reward of 0
        ([1.0, NAN, NAN], 0.0),
        ([NAN, NAN, NAN], 0.0),
    ],
)
def test_the_spread_of_a_group_is_that_of_its_known_rewards(rewards: list[float], spread: float) -> None:
    assert group_spreads(torch.tensor([rewards])).tolist() == pytest.approx([spread])


@pytest.mark.parametrize(
    ("rewards", "same", "zero"),
    [
        ([[0.0, 0.0], [0.5, 0.5], [0.0, 1.0], [2.0, 1.0]], 0.5, 0.25),
        ([[0.0, NAN], [NAN, NAN]], 1.0, 0.5),  # one known reward of 0; and a group with none, which counts as missing
        ([[1e-9, 1e-9], [-1.0, 1.0]], 0.5, 0.0),  # tiny is not 0, and neither is a mean of 0
    ],
)
def test_groups_without_variance_and_those_that_earn_nothing_are_counted(
    rewards: list[list[float]], same: float, zero: float
) -> None:
    assert (zero_variance(torch.tensor(rewards)), all_zero(torch.tensor(rewards))) == (same, zero)


def test_the_weighted_total_is_that_of_the_rewards_there_are() -> None:
    rewards = torch.tensor([[1.0, 2.0], [NAN, 2.0], [NAN, NAN]])
    totals = weighted_totals(rewards, torch.tensor([0.5, 0.25]))
    assert totals[:2].tolist() == [1.0, 0.5]
    assert totals[2].isnan()


def test_the_log_tells_the_rewards_apart_and_leaves_out_what_entries_cost() -> None:
    # Groups of two: answers differ; only entries differ; nothing differs; answers and costs cancel out.
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, -0.5], [1, 0], [1, 0], [0.5, -0.5], [0.25, 0.0]])
    assert group_measures(rewards, torch.tensor([2.0, 1.0]), ["answer_f1", "entry_cost"], 2) == {
        "groups/zero_variance": 0.5,
        "groups/flat": 0.5,
        "groups/all_zero": 0.25,
        "groups/zero_variance/answer_f1": 0.5,
        "groups/all_zero/answer_f1": 0.25,
        "groups/zero_variance/entry_cost": 0.5,
        "groups/all_zero/entry_cost": 0.5,
    }


def measures(flat: float, zero: float = 0.0, main: float | None = None, same: float | None = None) -> dict[str, float]:
    """Make a rollout's statistics; by default answer_f1 and the whole reward vary in groups that are not flat."""
    return {
        "groups/flat": flat,
        "groups/zero_variance": flat if same is None else same,
        "groups/all_zero": zero,
        "groups/zero_variance/answer_f1": flat if main is None else main,
        "groups/all_zero/answer_f1": zero,
        "groups/zero_variance/answer_format": 1.0,
        "groups/all_zero/answer_format": 0.0,
    }


def warnings_of(
    rollouts: list[dict[str, float]], caplog: pytest.LogCaptureFixture, remedies: Sequence[str] = ("Do this", "or that")
) -> list[str]:
    """Return the warnings after a window of four rollouts."""
    watch = ZeroVarianceWatch({"answer_f1": 1.0, "answer_format": 0.1}, remedies, window=4)
    with caplog.at_level(logging.WARNING):
        for rollout in rollouts:
            watch.note(rollout)
    return [entry.getMessage() for entry in caplog.records]


def test_a_flat_reward_is_told_once_and_names_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of([measures(flat, 0.3) for flat in (0.5, 0.75, 1.0, 0.5, 1.0, 1.0)], caplog)
    assert message.startswith("the reward is flat: in the last 4 rollouts 69% of the groups had no variance, so")
    assert "answer_f1 69% and 30%, answer_format 100% and 0%" in message
    assert "). Do this; or that; docs/zero-variance-groups.md" in message


def test_groups_that_earn_nothing_have_a_remedy_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of([measures(0.8, 0.5)] * 4, caplog)
    assert "Most of them earned 0 throughout: where completions/parse_failures is high" in message
    assert message.index("warm_start") < message.index("Do this")


def test_a_flat_main_reward_is_told_where_the_others_make_the_sum_vary(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of([measures(0.0, main=0.75)] * 5, caplog)
    assert message.startswith("answer_f1, of the largest weight, is flat: in the last 4 rollouts 75%")
    assert "only the other rewards were learnt" in message


def test_what_entries_cost_makes_no_reward_vary_and_is_never_the_main_one(caplog: pytest.LogCaptureFixture) -> None:
    watch = ZeroVarianceWatch({"answer_f1": 0.5, "entry_cost": 1.0}, remedies_for(["answer_f1"], 0, 0.0), window=1)
    rewards = torch.tensor([[0.5, -0.1], [0.5, -0.2]])
    with caplog.at_level(logging.WARNING):
        watch.note(group_measures(rewards, torch.tensor([0.5, 1.0]), ["answer_f1", "entry_cost"], 2))
    (message,) = caplog.messages
    assert (
        "the reward is flat: in the last 1 rollouts 100% of the groups had no variance but in what entries" in message
    )
    assert "dynamic_sampling_rounds" not in message  # it replaces only groups without any variance


@pytest.mark.parametrize(("flat", "replaces"), [(1.0, True), (0.0, False)])
def test_fresh_prompts_are_no_remedy_where_the_sum_varies(
    flat: float, replaces: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (message,) = warnings_of([measures(flat, main=1.0)] * 4, caplog, remedies_for(["answer_f1"], 0, 0.0))
    assert ("dynamic_sampling_rounds" in message) is replaces
    assert "variance_sampling" in message


@pytest.mark.parametrize("shares", [[1.0] * 3, [0.5] * 8, [1.0, 0.0] * 4, []])
def test_half_of_the_groups_or_too_few_rollouts_are_no_warning(
    shares: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_of([measures(share) for share in shares], caplog) == []


def test_remedies_are_those_not_taken_yet() -> None:
    everything = remedies_for(["answer_exact_match"], 0, 0.0)
    settings = ("answer_f1", "dynamic_sampling_rounds: 2", "variance_sampling: 0.5", "temperature")
    assert all(setting in remedy for setting, remedy in zip(settings, everything, strict=True))
    assert remedies_for(["answer_f1"], 2, 0.5) == ["raise num_generations or temperature"]
