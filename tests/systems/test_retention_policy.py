"""The network treats all slots alike; its files are read back exactly or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from memory_r1.errors import ConfigurationError, ModelError
from memory_r1.systems.retention_policy import Projection, RetentionNetwork, RetentionPolicy, nearest_cosines
from memory_r1.systems.token_slots import Decision, action_of, decode

Inputs = dict[str, torch.Tensor]


def policy(slots: int = 3, whole: int = 10, size: int = 4) -> RetentionPolicy:
    torch.manual_seed(0)
    embeddings = np.random.default_rng(0).normal(size=(200, whole)).astype(np.float32)
    return RetentionPolicy(RetentionNetwork(size, 8), Projection.fit(embeddings, size), slots, about={"seed": 0})


def inputs(slots: int = 5) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    held = torch.randn(2, slots, 4, generator=generator)
    ages = torch.randint(1, 20, (2, slots), generator=generator).float()
    held[:, -1], ages[:, -1] = 0, 0
    return {"turn": torch.randn(2, 4, generator=generator), "slots": held, "ages": ages, "uses": (ages % 3).floor()}


def test_swapping_slots_swaps_their_logits_and_changes_no_other() -> None:
    network, given = policy().network, inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    swapped = {name: array if name == "turn" else array[:, order] for name, array in given.items()}
    logits, value = network(**given)
    after, value_after = network(**swapped)
    assert logits.shape == (2, 11)
    expected = torch.cat([logits[:, :1], logits[:, 1:6][:, order], logits[:, 6:][:, order]], -1)
    assert torch.allclose(after, expected, atol=1e-6)
    assert torch.allclose(value, value_after, atol=1e-6)


def test_another_empty_slot_changes_nothing() -> None:
    network, given = policy().network, inputs()
    wider = {
        name: array if name == "turn" else torch.cat([array, array[:, -1:] * 0], 1) for name, array in given.items()
    }
    logits, value = network(**given)
    after, value_after = network(**wider)
    assert torch.allclose(after[:, [*range(6), *range(7, 12)]], logits, atol=1e-6)
    assert torch.allclose(value, value_after, atol=1e-6)


def test_each_turn_is_compared_with_younger_and_older_ones_held() -> None:
    turns = torch.tensor([[[1.0, 0], [2, 0], [0, 3], [0.6, 0.8], [0, 0]]])  # the last slot is empty
    ages, filled = torch.tensor([[0.0, 5, 2, 9, 0]]), torch.tensor([[1.0, 1, 1, 1, 0]])
    younger, older = nearest_cosines(turns, ages, filled)
    # From the incoming turn to the oldest: nothing is younger than the one, nothing older than the other.
    assert younger[0, :4].tolist() == pytest.approx([0, 1, 0, 0.8])
    assert older[0, :4].tolist() == pytest.approx([1, 0.6, 0.8, 0])


def test_actions_and_their_numbers_are_one_to_one() -> None:
    assert [decode(action, 2) for action in range(5)] == [
        (Decision.RETAIN, 0),
        (Decision.DISCARD, 0),
        (Decision.DISCARD, 1),
        (Decision.ADD, 0),
        (Decision.ADD, 1),
    ]
    assert [action_of(*decode(action, 4), 4) for action in range(9)] == list(range(9))


def test_a_projection_keeps_the_directions_in_which_embeddings_differ() -> None:
    rng = np.random.default_rng(0)
    embeddings = (rng.normal(size=(500, 6)) * [0.01, 3, 0.01, 0.01, 2, 0.01] + 5).astype(np.float32)
    projected = Projection.fit(embeddings, 2).apply(embeddings)
    assert np.abs(projected.mean(0)).max() < 1e-3
    assert np.mean(projected**2) == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(projected[:, 0], embeddings[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(projected[:, 1], embeddings[:, 4])[0, 1]) > 0.99


def test_a_saved_policy_acts_as_before(tmp_path: Path) -> None:
    original = policy()
    original.save(tmp_path)
    loaded = RetentionPolicy.load(tmp_path)
    assert (loaded.slots, loaded.masked, loaded.about) == (3, True, {"seed": 0})
    rng = np.random.default_rng(2)
    for _ in range(50):
        ages = rng.integers(0, 9, 3).astype(np.float32)
        seen = {"turn": rng.normal(size=10), "slots": rng.normal(size=(3, 10)), "ages": ages, "uses": ages * 0}
        assert loaded.act(seen) == original.act(seen)


def test_a_masked_policy_discards_from_no_empty_slot() -> None:
    embeddings = np.random.default_rng(3).normal(size=(30, 10)).astype(np.float32)
    empty = {"slots": np.zeros((3, 10)), "ages": np.zeros(3), "uses": np.zeros(3)}
    assert {policy().act({"turn": row, **empty}) for row in embeddings} <= {0, 4}


def test_an_embedding_of_another_length_is_refused() -> None:
    seen = {"turn": np.zeros(64), "slots": np.zeros((3, 64)), "ages": np.zeros(3), "uses": np.zeros(3)}
    with pytest.raises(ConfigurationError, match="embeddings of 10 values, found 64: use the sentence model"):
        policy().act(seen)


@pytest.mark.parametrize("damage", ["no folder", "no settings", "cut", "other network", "not whole numbers"])
def test_files_that_are_no_policy_are_refused(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    if damage != "no folder":
        policy().save(folder)
    settings, weights = folder / "policy.json", folder / "policy.safetensors"
    if damage == "no settings":
        settings.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif damage in ("other network", "not whole numbers"):
        changed = {"width": 9} if damage == "other network" else {"slots": "six"}
        settings.write_text(json.dumps(json.loads(settings.read_text()) | changed))
    with pytest.raises(ModelError, match=r"holds no policy of token-retention \(.*make train-token-retention") as error:
        RetentionPolicy.load(folder)
    assert "\n" not in str(error.value)
