"""stable-baselines3's models and the policy taken out of them act alike; training learns what pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from memory_r1.environments.policies import each, fifo, shares, trained
from memory_r1.environments.streams import Stream
from memory_r1.environments.token_retention import TokenRetentionEnv
from memory_r1.environments.training import ValidateAndKeepBest, new_model, policy_of
from memory_r1.systems.retention_policy import Projection, RetentionPolicy

IDENTITY = Projection(np.zeros(4, dtype=np.float32), np.eye(4, dtype=np.float32))
TINY: dict[str, Any] = {"n_steps": 64, "batch_size": 128, "environments": 4, "width": 8}


def streams(count: int, seed: int) -> list[Stream]:
    """Sixteen turns, of which the six that point one way are asked about in the end."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        embeddings = rng.normal(0, 0.3, (16, 4)).astype(np.float32)
        facts = sorted(rng.choice(15, 6, replace=False).tolist())
        embeddings[facts, 0] += 1
        made.append(Stream(f"d{number}", embeddings, tuple((15, turn) for turn in facts)))
    return made


@pytest.mark.parametrize("algorithm", ["ppo", "maskable-ppo"])
def test_the_policy_taken_out_saved_and_loaded_acts_as_the_model_does(algorithm: Any, tmp_path: Path) -> None:
    model = new_model(algorithm, streams(8, 0), slots=3, seed=1, **TINY)
    model.learn(512)
    policy_of(model, IDENTITY).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]
    policy = RetentionPolicy.load(tmp_path)
    assert (policy.slots, policy.masked) == (3, algorithm == "maskable-ppo")
    env = TokenRetentionEnv(streams(8, 2), slots=3)
    rng = np.random.default_rng(3)
    taken = set()
    for episode in range(8):
        seen, _ = env.reset(options={"stream": episode})
        while not env.done:
            masks = {"action_masks": env.action_masks()} if algorithm == "maskable-ppo" else {}
            expected = int(model.predict(seen, deterministic=True, **masks)[0])
            assert policy.act(seen) == expected
            taken.add(expected)
            seen, *_ = env.step(rng.integers(7))  # to states that the policy itself may not reach
    assert len(taken) > 1


def test_training_beats_first_in_first_out_and_the_callback_keeps_the_best() -> None:
    reports: list[tuple[int, float | None, float]] = []
    keep = ValidateAndKeepBest(streams(40, 5), IDENTITY, lambda *report: reports.append(report), every=4)
    new_model("maskable-ppo", streams(200, 4), slots=6, seed=0, **TINY | {"environments": 8}).learn(
        12_000, callback=keep
    )
    assert keep.best is not None
    assert keep.best_share == max(share for *_, share in reports)
    heldout = streams(100, 6)
    learned, floor = shares(trained(keep.best), heldout, 6), shares(each(fifo), heldout, 6)
    assert np.mean(learned) > np.mean(floor) + 0.2
    # The training reward is reported from the first whole episode on, and rises.
    assert reports[0][:2] == (0, None) and reports[-1][0] >= 12_000
    rewards = [reward for _, reward, _ in reports[1:] if reward is not None]
    assert rewards[-1] > rewards[0] + 0.1


def test_equal_seeds_give_equal_policies() -> None:
    first, second, other = (
        new_model("ppo", streams(4, 0), slots=2, seed=seed, **TINY).learn(256) for seed in (0, 0, 1)
    )
    weights = [model.policy.state_dict() for model in (first, second, other)]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
    assert any(bool((weights[0][name] != weights[2][name]).any()) for name in weights[0])
