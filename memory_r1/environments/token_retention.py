"""The environment of `token-retention`: a bounded token memory meets the turns of a stream, and later questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from memory_r1.environments.streams import Stream
from memory_r1.errors import ConfigurationError
from memory_r1.systems.token_slots import Decision, Observation, allowed_actions, decode


class TokenRetentionEnv(gymnasium.Env[dict[str, Any], np.int64]):
    """One episode is one stream; observations and actions are those of `systems/token_slots.py`.

    Each step decides about one turn. Then the questions of that step are asked: the reward is the number of those whose
    turn is held, and an answer counts as a use. The last observation, after the last turn, shows a turn of zeros.
    Nothing observed depends on a later turn or question.

    Actions without an effect (discarding from an empty slot) are allowed; `action_masks` tells them to MaskablePPO.

    Args:
        streams: The streams, all of one embedding size; `reset` draws one, or takes `options={"stream": index}`.
        slots: The number of turns held at most, K.

    Raises:
        ConfigurationError: There is no stream, no slot, or a stream of another embedding size.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (gymnasium's)

    def __init__(self, streams: Sequence[Stream], slots: int = 6) -> None:
        sizes = {stream.embeddings.shape[1] for stream in streams}
        if len(sizes) != 1 or slots < 1:
            raise ConfigurationError(
                f"token retention: {len(streams)} streams with embeddings of {sorted(sizes)} values and {slots} slots; "
                "give at least one stream, all of one size, and at least one slot"
            )
        (size,) = sizes
        self.streams, self.slots = list(streams), slots
        self.action_space = spaces.Discrete(1 + 2 * slots)
        self.observation_space = spaces.Dict(
            {
                "turn": spaces.Box(-np.inf, np.inf, (size,), np.float32),
                "slots": spaces.Box(-np.inf, np.inf, (slots, size), np.float32),
                "ages": spaces.Box(0, np.inf, (slots,), np.float32),
                "uses": spaces.Box(0, np.inf, (slots,), np.float32),
            }
        )
        self._begin(self.streams[0])

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        index = (options or {}).get("stream")
        self._begin(self.streams[int(self.np_random.integers(len(self.streams))) if index is None else index])
        return self.observe(), {}

    def _begin(self, stream: Stream) -> None:
        self.stream, self.now = stream, 0
        self.held: list[int | None] = [None] * self.slots
        """The turn that each slot holds, by its index in the stream."""
        self.uses = np.zeros(self.slots, dtype=np.float32)
        self.used_at = np.zeros(self.slots)
        """When each slot was last written or used."""
        self.answered = 0

    @property
    def done(self) -> bool:
        """Whether every turn has been decided on."""
        return self.now >= len(self.stream.embeddings)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        decision, slot = decode(int(action), self.slots)
        if decision is not Decision.RETAIN:
            self.held[slot] = self.now if decision is Decision.ADD else None
            self.uses[slot], self.used_at[slot] = 0, self.now
        reward = 0
        for step, turn in self.stream.questions:
            if step == self.now and turn in self.held:
                place = self.held.index(turn)
                self.uses[place] += 1
                self.used_at[place] = self.now + 0.5  # after the turn that was added in this step
                reward += 1
        self.answered += reward
        self.now += 1
        info = {"answered": self.answered, "asked": len(self.stream.questions)} if self.done else {}
        return self.observe(), float(reward), self.done, False, info

    def observe(self) -> Observation:
        """Return what a policy sees before it decides about the current turn."""
        embeddings = self.stream.embeddings
        turn = np.zeros_like(embeddings[0]) if self.done else embeddings[self.now]
        slots = np.stack([np.zeros_like(turn) if held is None else embeddings[held] for held in self.held])
        arrays = {"turn": turn, "slots": slots, "ages": self._ages(), "uses": self.uses}
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    def action_masks(self) -> np.ndarray:
        """Return which actions make sense now, (1 + 2K,) bool."""
        return allowed_actions(self._ages())

    def _ages(self) -> np.ndarray:
        return np.array([0 if held is None else self.now - held for held in self.held])
