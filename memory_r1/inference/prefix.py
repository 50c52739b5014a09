"""Prefill a batch of prompts: shared beginnings run once, and each prompt gets its own keys and values."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, DynamicLayer

from memory_r1.inference.prompt_trees import PromptTrees
from memory_r1.inference.tree_attention import NO_MASK, Tree, has_window


class ReservedLayer(DynamicLayer):
    """Keys and values of one layer in a buffer with room to grow, so that a decode step writes only new positions.

    Args:
        room: Additional positions to reserve whenever the buffer is full.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `(D, H_kv, Q, d)`; return all keys and values so far, `(D, H_kv, K, d)`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._length, self._buffers = 0, (key_states[:, :, :0], value_states[:, :, :0])
        end = self._length + key_states.size(2)
        if end > self._buffers[0].size(2):
            self._buffers = (self._grown(self._buffers[0], end), self._grown(self._buffers[1], end))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def repeated(self, rows: int) -> ReservedLayer:
        """Return a copy of this one-row layer with `rows` rows."""
        layer = ReservedLayer(self.room)
        if self.is_initialized:
            layer.update(self.keys.expand(rows, -1, -1, -1), self.values.expand(rows, -1, -1, -1))
        return layer

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows, and the room behind them."""
        self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)

    def _grown(self, buffer: torch.Tensor, length: int) -> torch.Tensor:
        rows, heads, _, size = buffer.shape
        grown = buffer.new_empty(rows, heads, length + self.room, size)
        grown[:, :, : self._length] = buffer[:, :, : self._length]
        return grown


def prefill(model: Any, trees: PromptTrees, room: int) -> tuple[torch.Tensor, Cache]:
    """Run prompts, and the tokens they share only once.

    Args:
        model: Causal language model under tree attention, in evaluation mode and under `no_grad`.
        trees: The prompts.
        room: Positions that will be appended to the cache.

    Returns:
        Logits of the last token of each distinct prompt, `(D, V)`, and a cache with one row for each, right-padded to
        the longest, `(D, H_kv, T, d)`.
    """
    device, start = model.device, len(trees.shared)
    layers = model.config.get_text_config().num_hidden_layers
    beginning = [ReservedLayer(0) for _ in range(layers)]
    if start:
        shared = torch.tensor([trees.shared], device=device)  # (1, S)
        seen: dict[str, Any] = {"attention_mask": torch.ones_like(shared)}
        _run(model, shared, seen, torch.arange(start, device=device)[None], Cache(layers=beginning), 1)
    ends, caches = [], []
    for part in trees.passes:
        cache = Cache(layers=[layer.repeated(len(part.ids)) for layer in beginning])
        positions = part.positions.to(device)  # (M, S + P)
        own = positions[:, start:]
        seen = {"attention_mask": part.mask().to(device)}
        if part.branching or has_window(model):  # transformers counts a window in columns
            seen = {"attention_mask": NO_MASK, "tree": Tree(part.visible().to(device), own, positions)}
        ends.append(_run(model, part.ids.to(device), seen, own, cache, part.leaves)[part.ends])  # (D of the pass, V)
        caches.append(cache)
    return torch.cat(ends), _by_prompt(trees, caches, room)


def _run(
    model: Any, ids: torch.Tensor, seen: dict[str, Any], positions: torch.Tensor, cache: Cache, kept: int
) -> torch.Tensor:
    """Return the logits of the last `kept` columns, `(M, kept, V)`."""
    # Select columns by index: for a slice, a CPU would copy the head's weights for every row.
    last = torch.arange(-kept, 0, device=ids.device)
    output = model(
        input_ids=ids, **seen, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=last
    )
    logits: torch.Tensor = output.logits
    return logits


def _by_prompt(trees: PromptTrees, caches: list[Cache], room: int) -> Cache:
    """Move the caches of the passes into one with a row per distinct prompt, `(D, H_kv, T, d)`."""
    width, device = max(trees.lengths), caches[0].layers[0].keys.device
    places = [
        # Padding repeats the first column: its values are finite, and hidden.
        (torch.tensor(part.ends[0])[:, None], torch.tensor([path + [0] * (width - len(path)) for path in part.paths]))
        for part in trees.passes
    ]
    places = [(tree.to(device), columns.to(device)) for tree, columns in places]  # (D of the pass, 1 and T)

    def dealt(states: list[torch.Tensor]) -> torch.Tensor:
        rows = [held.transpose(1, 2)[place] for held, place in zip(states, places, strict=True)]  # (D, T, H_kv, d)
        return torch.cat(rows).transpose(1, 2)

    layers = []
    for number in range(len(caches[0].layers)):
        held = [cache.layers[number] for cache in caches]
        layers.append(ReservedLayer(room))
        layers[-1].update(dealt([layer.keys for layer in held]), dealt([layer.values for layer in held]))
        for cache in caches:
            cache.layers[number] = ReservedLayer(0)  # free the copied states
    return Cache(layers=layers)
