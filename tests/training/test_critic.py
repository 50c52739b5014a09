"""The critic's maths against tables derived by hand, and its states against a plain forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memory_r1.errors import TrainingError
from memory_r1.training.critic import CRITIC_FILE, Critic, HiddenStates
from tests.tiny import load_base, sharpen, with_lora

CPU = torch.device("cpu")


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over the processes of a single-process run."""
    return tensor


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
