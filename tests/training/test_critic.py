"""The critic's maths against tables derived by hand, and its states against a plain forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memory_r1.errors import TrainingError
from memory_r1.training.advantages import (
    clipped_value_loss,
    explained_variance,
    generalized_advantages,
    masked_mean,
    masked_variance,
    whitened,
)
from memory_r1.training.critic import CRITIC_FILE, Critic, HiddenStates
from tests.tiny import load_base, sharpen, with_lora

CPU = torch.device("cpu")


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


def test_a_new_critic_expects_nothing_and_learns_in_float32() -> None:
    critic = Critic(4, learning_rate=0.1, device=CPU)
    states = torch.randn(2, 3, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = critic(states)
    assert values.dtype == torch.float32
    assert values.tolist() == [[0.0] * 3] * 2
    assert {parameter.dtype for parameter in critic.parameters()} == {torch.float32}


def test_values_do_not_depend_on_the_scale_of_states() -> None:
    critic = learnt(Critic(4, learning_rate=0.1, device=CPU))
    states = torch.randn(2, 3, 4) * 3
    torch.testing.assert_close(critic(states * 100), critic(states), rtol=0, atol=1e-4)


def learnt(critic: Critic, steps: int = 3) -> Critic:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        states = torch.randn(2, 3, 4, generator=generator)
        ((critic(states) - states.sum(-1)) ** 2).mean().backward()
        critic.step(alone, 1.0)
    return critic


def test_a_step_takes_the_gradients_of_all_processes() -> None:
    states = torch.tensor([[[1.0, -1.0, 2.0, -2.0]], [[0.0, 3.0, 1.0, -1.0]]])
    together, split = (Critic(4, learning_rate=0.1, device=CPU) for _ in range(2))
    (together(states) - 1).square().sum().backward()
    together.step(alone, 1.0)
    other = Critic(4, learning_rate=0.1, device=CPU)
    (other(states[1:]) - 1).square().sum().backward()
    sent = iter([other.head.weight.grad, other.head.bias.grad])
    (split(states[:1]) - 1).square().sum().backward()
    split.step(lambda gradient: gradient + next(sent), 1.0)
    torch.testing.assert_close(split.head.weight, together.head.weight)
    assert together.head.weight.abs().max() > 0


def test_a_loaded_critic_learns_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    critic = learnt(Critic(4, learning_rate=0.1, device=CPU))
    critic.save(tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in load_file(tmp_path / CRITIC_FILE).values())
    loaded = Critic(4, learning_rate=0.1, device=CPU)
    loaded.load(tmp_path)
    expected, found = learnt(critic, 2).head, learnt(loaded, 2).head
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.bias, expected.bias)


def test_a_critic_that_has_not_learnt_is_saved_too(tmp_path: Path) -> None:
    Critic(4, learning_rate=0.1, device=CPU).save(tmp_path)
    loaded = Critic(4, learning_rate=0.1, device=CPU)
    loaded.load(tmp_path)
    assert torch.equal(learnt(loaded).head.weight, learnt(Critic(4, learning_rate=0.1, device=CPU)).head.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("other size", "size mismatch"),
        ("other tensors", "weight"),
        ("cut short", "not the critic of this model"),
    ],
)
def test_what_is_no_critic_of_this_model_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / CRITIC_FILE
    if content == "other size":
        Critic(8, learning_rate=0.1, device=CPU).save(tmp_path)
    elif content == "other tensors":
        save_file({"something": torch.zeros(1)}, path)
    elif content == "cut short":
        learnt(Critic(4, learning_rate=0.1, device=CPU)).save(tmp_path)
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TrainingError, match=message) as caught:
        Critic(4, learning_rate=0.1, device=CPU).load(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_states_are_those_before_each_token(tiny_model: Path) -> None:
    policy = with_lora(sharpen(load_base(tiny_model)), seed=1)
    hidden = HiddenStates(policy)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad(), hidden.catching():
        policy(input_ids=ids, attention_mask=torch.ones_like(ids))
    found = hidden.of_completions(ids, torch.ones_like(ids), 2, batch_size=1)
    for place, seen in enumerate((3, 4)):  # token 8 is chosen after three tokens, token 9 after four
        with torch.no_grad():
            alone_states = policy.get_base_model().model(input_ids=ids[:, :seen]).last_hidden_state
        torch.testing.assert_close(found[0, place], alone_states[0, -1], rtol=0, atol=1e-4)


def test_only_what_is_asked_for_is_caught_and_it_has_no_graph(tiny_model: Path) -> None:
    policy: Any = with_lora(load_base(tiny_model))
    hidden = HiddenStates(policy)
    ids = torch.tensor([[5, 6, 7]])
    policy(input_ids=ids)
    with hidden.catching():
        policy(input_ids=ids)
    policy(input_ids=ids[:, :2])
    found = hidden.of_completions(ids, torch.ones_like(ids), 1, batch_size=1)
    assert found.shape == (1, 1, 64)
    assert not found.requires_grad
