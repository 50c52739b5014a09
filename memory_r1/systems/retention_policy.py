"""The trained policy of `token-retention`: a small network that scores every slot alike, and its two files.

A folder holds `policy.safetensors` (the network and the projection of embeddings) and `policy.json` (their sizes, and
how the policy was trained).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from memory_r1.errors import ConfigurationError, DataError, ModelError
from memory_r1.jsonl import read_json, write_json
from memory_r1.systems.token_slots import Observation, allowed_actions
from memory_r1.weights import hash_file

WEIGHTS, SETTINGS = "policy.safetensors", "policy.json"
PUBLISHED = Path(__file__).parent / "policies" / "token-retention"
"""The policy that comes with the package."""


class RetentionNetwork(nn.Module):
    """Actor and critic that value one turn at a time: the incoming one as if it were held, and each one held.

    The state's value is the sum over the slots, and an action's logit is what it gains less what it gives up. So the
    critic learns from every question which turns pay, and the actor, which shares its features, need not find it out by
    trial. Swapping two slots swaps their logits, and any number of slots will do.

    Args:
        size: Length of a projected embedding, E.
        width: Units per hidden layer, H.
    """

    def __init__(self, size: int, width: int = 64) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.features = nn.Sequential(nn.Linear(size + 4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.worth = nn.Linear(width, 2)  # for the actor, for the critic
        self.offsets = nn.Parameter(torch.tensor([-1.0, 0.0]))  # to a discard's logit, to the value

    def forward(self, turn: Tensor, slots: Tensor, ages: Tensor, uses: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions' logits (B, 1 + 2K) and the value of the state (B,).

        Args:
            turn: Projected embeddings of the incoming turns, (B, E).
            slots: Projected embeddings of what is held, (B, K, E), zero in empty slots.
            ages: (B, K), 0 in empty slots.
            uses: (B, K).
        """
        new = torch.zeros_like(ages[:, :1])  # (B, 1)
        turns = torch.cat([turn[:, None], slots], 1)  # (B, 1 + K, E)
        filled = torch.cat([new + 1, (ages > 0).to(ages.dtype)], 1)  # (B, 1 + K)
        ages, uses = torch.cat([new, ages], 1), torch.cat([new, uses], 1)
        inputs = [turns, torch.stack([ages / 10, uses.clamp(max=3), *nearest_cosines(turns, ages, filled)], -1)]
        worth = self.worth(self.features(torch.cat(inputs, -1))) * filled[..., None]  # (B, 1 + K, 2)
        incoming, held = worth[:, :1, 0], worth[:, 1:, 0]  # (B, 1), (B, K)
        logits = torch.cat([new, self.offsets[0] - held, incoming - held], -1)
        return logits, worth[:, 1:, 1].sum(1) + self.offsets[1]


def nearest_cosines(turns: Tensor, ages: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine of each turn (B, 1 + K, E) with the most similar younger and older one, 0 if there is none.

    A similar younger turn may have replaced it; a similar older one is what it may replace.
    """
    directions = functional.normalize(turns, dim=-1)
    cosines = (directions @ directions.mT) * filled[:, None]  # (B, 1 + K, 1 + K)
    younger = ages[:, :, None] > ages[:, None]
    return (cosines * younger).amax(-1), (cosines * younger.mT).amax(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Principal components of training embeddings: subtract `mean` (F,), multiply by `components` (F, E)."""

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, embeddings: np.ndarray, size: int) -> Self:
        """Keep the `size` main directions of embeddings (N, F), scaled to a mean square of 1."""
        mean = embeddings.mean(0)
        directions = np.linalg.eigh(np.cov(embeddings, rowvar=False))[1][:, ::-1][:, :size]  # (F, E)
        scale = np.sqrt(np.mean(((embeddings - mean) @ directions) ** 2))
        return cls(mean.astype(np.float32), np.ascontiguousarray(directions / scale, dtype=np.float32))

    def apply(self, embeddings: np.ndarray) -> np.ndarray:
        """Project embeddings (..., F) to (..., E).

        Raises:
            ConfigurationError: They have another length than those it was fitted on.
        """
        expected, found = len(self.mean), embeddings.shape[-1]
        if found != expected:
            raise ConfigurationError(
                f"the policy of token-retention reads embeddings of {expected} values, found {found}: use the sentence "
                "model it was trained with, or train one for yours (make train-token-retention)"
            )
        return (embeddings - self.mean) @ self.components


@dataclass(frozen=True, slots=True, eq=False)
class RetentionPolicy:
    """A network with the projection it was trained on; a `SlotPolicy`.

    Attributes:
        network: The network.
        projection: Maps an encoder's embeddings to the network's.
        slots: The number of slots, K.
        masked: Whether actions without an effect were ruled out in training, and so are here.
        about: How it was trained: JSON values.
    """

    network: RetentionNetwork
    projection: Projection
    slots: int
    masked: bool = True
    about: dict[str, Any] = field(default_factory=dict)

    def act(self, observation: Observation) -> int:
        """Return the action of the highest logit on an observation with whole embeddings."""
        ages = observation["ages"]
        held = self.projection.apply(observation["slots"]) * (ages > 0)[:, None]
        projected = {**observation, "turn": self.projection.apply(observation["turn"]), "slots": held}
        return int(self.act_projected({name: array[None] for name, array in projected.items()})[0])

    def act_projected(self, observations: Observation) -> np.ndarray:
        """Return one action per row of a batch of observations with projected embeddings."""
        inputs = {name: torch.as_tensor(array, dtype=torch.float32) for name, array in observations.items()}
        with torch.inference_mode():
            logits, _ = self.network(**inputs)
        if self.masked:
            logits = logits.masked_fill(~torch.as_tensor(allowed_actions(observations["ages"])), -torch.inf)
        return logits.argmax(-1).numpy()

    def save(self, folder: Path) -> None:
        """Write the policy's two files."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"projection.mean": self.projection.mean, "projection.components": self.projection.components}
        tensors = {f"network.{name}": tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(tensors | {name: torch.from_numpy(array) for name, array in arrays.items()}, folder / WEIGHTS)
        sizes = {"slots": self.slots, "size": self.network.size, "width": self.network.width, "masked": self.masked}
        write_json(folder / SETTINGS, {**sizes, "about": dict(self.about)})

    @classmethod
    def load(cls, folder: Path | str = PUBLISHED) -> Self:
        """Read a policy from a folder.

        Raises:
            ModelError: A file is missing or damaged, or the two do not fit together.
        """
        folder = Path(folder)
        remedy = "give a folder that `make train-token-retention` wrote"
        try:
            settings = read_json(folder / SETTINGS)
            slots, size, width = (settings[name] for name in ("slots", "size", "width"))
            if any(type(value) is not int or value < 1 for value in (slots, size, width)):
                raise ValueError(f"slots={slots!r}, size={size!r}, width={width!r}, allowed: whole numbers from 1")
            tensors = load_file(folder / WEIGHTS)
            projection = Projection(*(tensors.pop(f"projection.{name}").numpy() for name in ("mean", "components")))
            if projection.components.shape != (len(projection.mean), size):
                raise ValueError(f"its projection has {projection.components.shape[-1]} directions, its network {size}")
            network = RetentionNetwork(size, width)
            network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in tensors.items()})
        except (OSError, DataError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ModelError(f"{folder} holds no policy of token-retention ({_reason(error)}); {remedy}") from error
        return cls(network.eval(), projection, slots, settings.get("masked") is not False, settings.get("about", {}))


def policy_hash(folder: Path | str = PUBLISHED) -> str:
    """Return the SHA-256 of a policy's two files, or raise a ModelError if it cannot be loaded."""
    RetentionPolicy.load(folder)
    hashes = (hash_file(Path(folder) / name) for name in (SETTINGS, WEIGHTS))
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """Return the first complaint; torch puts a heading above it."""
    return " ".join(str(error).split("\n")[:2]).replace("\t", "")
