"""Train a retention policy with stable-baselines3's PPO or sb3-contrib's MaskablePPO, and take its network out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from memory_r1.environments.policies import shares, trained
from memory_r1.environments.streams import Stream
from memory_r1.environments.token_retention import TokenRetentionEnv
from memory_r1.systems.retention_policy import Projection, RetentionNetwork, RetentionPolicy

Algorithm = Literal["ppo", "maskable-ppo"]
Report = Callable[[int, float | None, float], object]


class RetentionFeatures(BaseFeaturesExtractor):
    """The whole network as a feature extractor: the logits and, in the last column, the value."""

    def __init__(self, observation_space: spaces.Dict, width: int = 64) -> None:
        slots, size = observation_space["slots"].shape or (0, 0)
        super().__init__(observation_space, features_dim=2 + 2 * slots)
        self.network = RetentionNetwork(size, width)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        logits, value = self.network(**observations)
        return torch.cat([logits, value[:, None]], -1)  # (B, 2 + 2K)


class _Columns(nn.Module):
    """Some columns of the features."""

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, features: Tensor) -> Tensor:
        return features[:, self.columns]


class _OwnHeads:
    """A policy whose feature extractor computes logits and value itself: no layers follow it."""

    def _build(self: Any, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_net, self.value_net = _Columns(slice(None, -1)), _Columns(slice(-1, None))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class RetentionActorCritic(_OwnHeads, MultiInputActorCriticPolicy):
    """The policy class for PPO."""


class MaskableRetentionActorCritic(_OwnHeads, MaskableMultiInputActorCriticPolicy):
    """The policy class for MaskablePPO."""


ALGORITHMS: dict[Algorithm, tuple[type[PPO] | type[MaskablePPO], type]] = {
    "ppo": (PPO, RetentionActorCritic),
    "maskable-ppo": (MaskablePPO, MaskableRetentionActorCritic),
}

SETTINGS: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 512,
    "n_epochs": 6,
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "ent_coef": 0.003,
}
"""Arguments of either algorithm, where they are not its own defaults; the learning rate falls linearly to 0."""


def new_model(
    algorithm: Algorithm,
    streams: Sequence[Stream],
    *,
    slots: int,
    seed: int,
    width: int = 64,
    environments: int = 16,
    **settings: Any,
) -> PPO | MaskablePPO:
    """Return an untrained model whose policy is a `RetentionNetwork`.

    Args:
        algorithm: PPO, or MaskablePPO, which never draws an action without an effect.
        streams: Training streams of projected embeddings.
        slots: The number of slots, K.
        seed: Of weights, streams and actions.
        width: Units per hidden layer.
        environments: The number that advance together.
        settings: Further arguments of the algorithm, in place of `SETTINGS`.
    """
    kind, policy = ALGORITHMS[algorithm]
    chosen = SETTINGS | settings
    first_rate = chosen.pop("learning_rate")
    return kind(
        policy,
        DummyVecEnv([lambda: TokenRetentionEnv(streams, slots)] * environments),
        seed=seed,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": RetentionFeatures,
            "features_extractor_kwargs": {"width": width},
            "net_arch": [],
            "ortho_init": False,
        },
        learning_rate=lambda left: first_rate * left,
        **chosen,
    )


def policy_of(model: PPO | MaskablePPO, projection: Projection, **about: Any) -> RetentionPolicy:
    """Return a model's policy, which shares no weights with it and needs no stable-baselines3."""
    trained_network = model.policy.features_extractor.network
    network = RetentionNetwork(trained_network.size, trained_network.width)
    network.load_state_dict(trained_network.state_dict())
    slots = (int(model.action_space.n) - 1) // 2
    return RetentionPolicy(network.eval(), projection, slots, isinstance(model, MaskablePPO), about)


class ValidateAndKeepBest(BaseCallback):
    """After every few rollouts, play held-out streams greedily, report the score, and keep the best policy.

    Args:
        streams: Streams that no training episode draws.
        projection: Of the policy that is kept.
        report: Called with the steps done, the share of the training questions answered since the last call (None
            before an episode has ended), and the mean share on `streams`.
        every: Rollouts from one validation to the next.
    """

    def __init__(self, streams: Sequence[Stream], projection: Projection, report: Report, every: int = 8) -> None:
        super().__init__()
        self.streams, self.projection, self.report, self.every = streams, projection, report, every
        self.best: RetentionPolicy | None = None
        self.best_share = -1.0
        self._rollouts = 0
        self._ended: list[float] = []

    def _on_step(self) -> bool:
        self._ended += [info["answered"] / info["asked"] for info in self.locals["infos"] if "asked" in info]
        return True

    def _on_rollout_start(self) -> None:
        if self._rollouts % self.every == 0:
            self._validate()
        self._rollouts += 1

    def _on_training_end(self) -> None:
        self._validate()

    def _validate(self) -> None:
        policy = policy_of(self.model, self.projection)
        share = float(np.mean(shares(trained(policy), self.streams, policy.slots)))
        reward = float(np.mean(self._ended)) if self._ended else None
        self.logger.record("token_retention/validation", share)
        if reward is not None:
            self.logger.record("token_retention/reward", reward)
        self._ended.clear()
        if share > self.best_share:
            self.best, self.best_share = policy, share
        self.report(self.num_timesteps, reward, share)
