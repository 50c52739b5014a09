"""Advantages and the value loss, against tables made by hand."""

from __future__ import annotations

import pytest
import torch

from memory_r1.training.advantages import (
    best_of_groups,
    clipped_value_loss,
    explained_variance,
    generalized_advantages,
    masked_mean,
    masked_variance,
    whitened,
)


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over the processes of a single-process run."""
    return tensor


def test_advantages_are_those_of_a_table_made_by_hand() -> None:
    # gamma = 0.5, lambda = 0.5, so that gamma * lambda = 0.25.
    # Row 1, three tokens:      errors d2 = 4 - 2 = 2, d1 = 0 + 0.5 * 2 - 1 = 0, d0 = 1 + 0.5 * 1 - 3 = -1.5
    #                           advantages 2, 0 + 0.25 * 2 = 0.5, -1.5 + 0.25 * 0.5 = -1.375
    # Row 2, two and padding:   errors d1 = 8 - 4 = 4, d0 = 0 + 0.5 * 4 - 1 = 1; advantages 4, 1 + 0.25 * 4 = 2
    rewards = torch.tensor([[1.0, 0.0, 4.0], [0.0, 8.0, 99.0]])
    values = torch.tensor([[3.0, 1.0, 2.0], [1.0, 4.0, 77.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = generalized_advantages(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    assert found.tolist() == [[-1.375, 0.5, 2.0], [2.0, 4.0, 0.0]]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.8), (0.97, 0.0), (1.0, 1.0)])
def test_advantages_are_discounted_sums_of_one_step_errors(gamma: float, gae_lambda: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 9, generator=generator)
    mask = torch.tensor([[1] * 9, [1] * 4 + [0] * 5, [1] + [0] * 8, [1, 1, 0, 0, 1, 0, 1, 1, 0]], dtype=torch.bool)
    found = generalized_advantages(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    for row in range(4):
        steps = mask[row].nonzero().flatten().tolist()  # tokens outside the completion are skipped
        r, v = rewards[row, steps].tolist(), [*values[row, steps].tolist(), 0.0]
        errors = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(steps))]
        for t, step in enumerate(steps):
            expected = sum((gamma * gae_lambda) ** later * error for later, error in enumerate(errors[t:]))
            assert found[row, step].item() == pytest.approx(expected, abs=1e-5)
    assert (found[~mask] == 0).all()


def test_with_lambda_1_an_advantage_is_the_whole_return_less_the_value() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    found = generalized_advantages(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=1.0, gae_lambda=1.0)
    assert found.tolist() == [[4.0, 3.0, 2.0]]


def test_a_row_without_tokens_has_no_advantage() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    found = generalized_advantages(torch.ones(1, 3), torch.ones(1, 3), nothing, gamma=1.0, gae_lambda=1.0)
    assert found.tolist() == [[0.0, 0.0, 0.0]]
    assert masked_mean(found, nothing, alone).item() == 0.0


def test_moments_and_whitening_see_the_mask_only() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask, alone).item() == pytest.approx(3.0)
    assert masked_variance(values, mask, alone).item() == pytest.approx(8 / 3)
    white = whitened(values, mask, alone)
    assert white[mask].tolist() == pytest.approx([-2 / (8 / 3) ** 0.5, 0.0, 2 / (8 / 3) ** 0.5])
    assert (white[~mask] == 0).all()


def test_moments_are_those_of_all_processes() -> None:
    # The other process has the values 7 and 9 and sends only sums: 16 over 2 tokens; then (7-5)^2 + (9-5)^2 = 20.
    values, mask = torch.tensor([[1.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool)
    sent = iter([torch.tensor([16.0, 2.0]), torch.tensor([20.0, 2.0])])
    # Of 1, 3, 7 and 9: mean 5, variance (16 + 4 + 4 + 16) / 4.
    assert masked_variance(values, mask, lambda sums: sums + next(sent)).item() == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0], 1.0),
        ([11.0, 12.0, 13.0], 1.0),  # a constant error has no variance
        ([2.0, 2.0, 2.0], 0.0),
        ([3.0, 2.0, 1.0], -3.0),  # errors -2, 0, 2 have four times the variance of 1, 2, 3
    ],
)
def test_explained_variance(values: list[float], expected: float) -> None:
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 50.0]]), torch.tensor([[True, True, True, False]])
    found = explained_variance(returns, torch.tensor([[*values, 0.0]]), mask, alone)
    assert found.item() == pytest.approx(expected)


def test_nothing_explains_returns_that_do_not_vary() -> None:
    same, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    for values in (torch.zeros(1, 2), torch.tensor([[1.0, 2.0]])):
        assert explained_variance(same, values, mask, alone).isnan()


def test_value_loss_is_the_larger_of_free_and_clipped() -> None:
    # Return 1, old value 0, cliprange 0.2: a value past 0.2 towards the return counts as 0.2;
    # one that moved away counts unclipped.
    values = torch.tensor([[0.1, 0.9, -0.5]])
    losses, clipped = clipped_value_loss(values, torch.zeros(1, 3), torch.ones(1, 3), 0.2)
    assert losses[0].tolist() == pytest.approx([0.5 * 0.9**2, 0.5 * 0.8**2, 0.5 * 1.5**2])
    assert clipped.tolist() == [[False, True, False]]


def test_the_best_of_each_group_alone_is_imitated() -> None:
    advantages = torch.tensor([0.5, -0.5, 0.5, -0.5, 6e-4, 6e-4, 6e-4, 6e-4, -1.0, -1.0, -1.0, 3.0])
    varied = torch.tensor([True, False, True])  # the second is rounding noise
    assert best_of_groups(advantages, varied).tolist() == [4.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4.0]
