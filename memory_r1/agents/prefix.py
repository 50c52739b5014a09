"""Prompts that begin alike, computed once: the instructions that open every prompt, and prompts asked repeatedly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicLayer

from memory_r1.agents.attention import NO_MASK, Tree, has_window


@dataclass(frozen=True, slots=True)
class AlignedRows:
    """Rows of equal length: the `shared` tokens that all begin with, padding, then the rest of each row.

    `ids` and `mask` are D lists of P numbers; the mask is 0 on padding, and positions are counted over the rest.
    """

    ids: list[list[int]]
    mask: list[list[int]]
    shared: int


def aligned(rows: Sequence[list[int]], pad: int) -> AlignedRows:
    """Align token rows; at least one token of every row is left out of what they share."""
    shared = 0
    shortest = min(len(row) for row in rows)
    while shared < shortest - 1 and len({row[shared] for row in rows}) == 1:
        shared += 1
    width = max(len(row) for row in rows)
    ids = [row[:shared] + [pad] * (width - len(row)) + row[shared:] for row in rows]
    mask = [[1] * shared + [0] * (width - len(row)) + [1] * (len(row) - shared) for row in rows]
    return AlignedRows(ids, mask, shared)


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

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._buffers = (self.keys.repeat_interleave(repeats, 0), self.values.repeat_interleave(repeats, 0))
        self.keys, self.values = self._buffers

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows alone, and the room behind them."""
        self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)

    def _grown(self, buffer: torch.Tensor, length: int) -> torch.Tensor:
        rows, heads, _, size = buffer.shape
        grown = buffer.new_empty(rows, heads, length + self.room, size)
        grown[:, :, : self._length] = buffer[:, :, : self._length]
        return grown


def prefill(model: Any, ids: torch.Tensor, mask: torch.Tensor, shared: int, room: int) -> tuple[torch.Tensor, Cache]:
    """Run aligned rows, what they share once.

    Args:
        model: Causal language model under tree attention, in evaluation and under `no_grad`.
        ids: Aligned rows, `(D, P)`.
        mask: Their attention mask, `(D, P)`.
        shared: Number of leading tokens that all rows share.
        room: Positions that will be appended to the cache.

    Returns:
        Logits of the last position, `(D, V)`, and the cache of all P.
    """
    count, width = ids.shape
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (D, P)
    layers = model.config.get_text_config().num_hidden_layers
    cache = Cache(layers=[ReservedLayer(room) for _ in range(layers)])
    logits = ids
    last = torch.tensor([-1], device=ids.device)
    spans = [(1, 0, shared), (count, shared, width)] if shared and count > 1 else [(count, 0, width)]
    for rows, start, stop in spans:
        if start and count > 1:
            cache.batch_repeat_interleave(count)
        seen: dict[str, Any] = {"attention_mask": mask[:rows, :stop]}
        if has_window(model):  # transformers counts a window in columns, over the padding between
            columns = torch.arange(stop, device=ids.device)
            causal = columns[start:, None] >= columns[None, :]  # (Q, K)
            itself = columns[start:, None] == columns[None, :]  # padding sees itself: a row must see something
            visible = (causal & mask[:rows, None, :stop].bool()) | itself
            tree = Tree(visible, positions[:rows, start:stop], positions[:rows, :stop])
            seen = {"attention_mask": NO_MASK, "tree": tree}
        logits = model(
            input_ids=ids[:rows, start:stop],
            **seen,
            position_ids=positions[:rows, start:stop],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits[:, -1]
    return logits, cache
