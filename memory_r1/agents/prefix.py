"""Prompts that begin alike, computed once: the instructions that open every prompt, and prompts asked repeatedly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicLayer

from memory_r1.agents.attention import NO_MASK, Tree, has_window
from memory_r1.agents.prompt_trees import PromptTrees, TreePass


@dataclass(frozen=True, slots=True)
class Groups:
    """B rows as D distinct ones, each repeated in up to G slots: row b stands in slot `slot[b]` of `group[b]`."""

    distinct: list[list[int]]
    group: list[int]
    slot: list[int]

    @property
    def size(self) -> int:
        """G, the slots of the largest group."""
        return max(self.slot) + 1


def grouped(rows: Sequence[list[int]]) -> Groups:
    """Find equal rows; groups are numbered in the order of their first rows."""
    number: dict[tuple[int, ...], int] = {}
    group = [number.setdefault(tuple(row), len(number)) for row in rows]
    taken = [0] * len(number)
    slot = []
    for index in group:
        slot.append(taken[index])
        taken[index] += 1
    return Groups([list(row) for row in number], group, slot)


class ReservedLayer(DynamicLayer):
    """Keys and values of one layer in a buffer with room to grow, so that a decode step writes only what is new.

    Args:
        room: Further positions to reserve whenever the buffer is full.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `(D, H_kv, Q, d)`; returns all keys and values so far, `(D, H_kv, K, d)`."""
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
        """A layer of its own with what this one row holds, for `rows` rows."""
        layer = ReservedLayer(self.room)
        if self.is_initialized:
            layer.update(self.keys.expand(rows, -1, -1, -1), self.values.expand(rows, -1, -1, -1))
        return layer

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows alone, and the room behind them."""
        self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)

    def _grown(self, buffer: torch.Tensor, length: int) -> torch.Tensor:
        rows, heads, _, size = buffer.shape
        grown = buffer.new_empty(rows, heads, length + self.room, size)
        grown[:, :, : self._length] = buffer[:, :, : self._length]
        return grown


def prefill(model: Any, trees: PromptTrees, room: int) -> tuple[torch.Tensor, Cache]:
    """Run prompts, what they share once.

    Args:
        model: Causal language model under tree attention, in evaluation and under `no_grad`.
        trees: The prompts.
        room: Positions that will be appended to the cache.

    Returns:
        Logits of the last token of each distinct prompt, `(D, V)`, and a cache with a row for each, padded behind to
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
        positions = part.positions.to(device)  # (N, S + P)
        own = positions[:, start:]
        seen = {"attention_mask": part.mask().to(device)}
        if part.branching or has_window(model):  # transformers would count a window in columns
            seen = {"attention_mask": NO_MASK, "tree": Tree(part.visible().to(device), own, positions)}
        ends.append(_run(model, part.ids.to(device), seen, own, cache, part.leaves)[part.ends])  # (D of the pass, V)
        caches.append(cache)
    rows = [ReservedLayer(room) for _ in range(layers)]
    for number, layer in enumerate(rows):
        held = [
            _by_prompt(part, cache, number, max(trees.lengths))
            for part, cache in zip(trees.passes, caches, strict=True)
        ]
        layer.update(torch.cat([keys for keys, _ in held]), torch.cat([values for _, values in held]))
    return torch.cat(ends), Cache(layers=rows)


def _run(
    model: Any, ids: torch.Tensor, seen: dict[str, Any], positions: torch.Tensor, cache: Cache, kept: int
) -> torch.Tensor:
    """Logits of the last `kept` columns, `(N, kept, V)`."""
    # Named by an index: for a slice, a CPU would copy the head's weights for every row.
    last = torch.arange(-kept, 0, device=ids.device)
    output = model(
        input_ids=ids, **seen, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=last
    )
    logits: torch.Tensor = output.logits
    return logits


def _by_prompt(part: TreePass, cache: Cache, number: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one layer of a pass, a row for each of its prompts, `(D, H_kv, T, d)`; frees the layer."""
    layer = cache.layers[number]
    cache.layers[number] = ReservedLayer(0)
    device = layer.keys.device
    tree = torch.tensor(part.ends[0], device=device)[:, None]  # (D, 1)
    # Padding repeats the first column: what it holds is a number, and hidden.
    columns = torch.tensor([path + [0] * (width - len(path)) for path in part.paths], device=device)  # (D, T)
    keys, values = (states.transpose(1, 2)[tree, columns].transpose(1, 2) for states in (layer.keys, layer.values))
    return keys, values
