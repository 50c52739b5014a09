"""Batched generation: equal prompts are prefilled once, and their completions are decoded side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from memory_r1.inference.prefix import prefill
from memory_r1.inference.prompt_trees import PromptTrees
from memory_r1.inference.tree_attention import NO_MASK, Tree

if TYPE_CHECKING:
    from memory_r1.inference.constrained import Constraint

# Drop finished prompts once at most this share of the batch still runs, since dropping copies the rest.
_WORTH_A_COPY = 0.75


@torch.no_grad()
def decode(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stops: Collection[int],
    pad: int,
    temperature: float = 0.0,
    constrain: Callable[[PromptTrees], Constraint] | None = None,
) -> list[list[int]]:
    """Complete tokenized prompts, each up to and including its first stop token.

    Args:
        model: Causal language model under tree attention (`use_tree_attention`), in evaluation mode.
        prompts: B rows of token ids, none empty.
        max_new_tokens: Longest completion, in tokens.
        stops: Ids that end a completion.
        pad: Id that fills gaps; never read.
        temperature: Sampling temperature; 0 is greedy.
        constrain: Builds what bounds the completions of the distinct prompts.

    Returns:
        B rows of completion ids, in order.
    """
    trees = PromptTrees(prompts, pad)
    device = model.device
    logits, cache = prefill(model, trees, room=trees.slots * max_new_tokens)  # (D, V)
    growth = _Growth(torch.tensor(trees.lengths, device=device), trees.slots, max_new_tokens)
    logits = logits[:, None].expand(-1, trees.slots, -1)  # (D, G, V)
    constraint = constrain(trees) if constrain is not None else None
    running = torch.arange(len(logits), device=device)  # prompts with unfinished completions, D' of D
    tokens = _next(logits, temperature, constraint, running)  # (D, G)
    ended = torch.ones_like(tokens, dtype=torch.bool)
    ended[trees.row, trees.slot] = False  # leaves the empty slots of smaller groups ended
    stop_ids = torch.tensor(sorted(stops), device=device)
    drawn = tokens.new_full((*tokens.shape, max_new_tokens), pad)  # (D, G, T)
    drawn[:, :, 0] = tokens
    for step in range(max_new_tokens - 1):
        ended = ended | torch.isin(tokens, stop_ids)
        growing = (~ended.all(-1)).nonzero()[:, 0]
        if not len(growing):
            break
        if len(growing) <= _WORTH_A_COPY * len(running):
            running, tokens, ended = running[growing], tokens[growing], ended[growing]
            cache.batch_select_indices(growing)
            growth.select(growing)
        tree = growth.step(step)
        logits = model(
            input_ids=tokens,
            attention_mask=NO_MASK,
            tree=tree,
            position_ids=tree.query_positions,
            past_key_values=cache,
            use_cache=True,
        ).logits  # (D', G, V)
        tokens = _next(logits, temperature, constraint, running)
        drawn[running, :, step + 1] = tokens
    return [until(row, stops) for row in drawn[trees.row, trees.slot].tolist()]


class _Growth:
    """Visibility while G completions grow behind each of D prompts: column `P + s * G + g` is step s of slot g."""

    def __init__(self, lengths: torch.Tensor, slots: int, steps: int) -> None:
        self.slots, self.width = slots, int(lengths.max())
        columns = torch.arange(self.width, device=lengths.device)
        prompts = (columns < lengths[:, None])[:, None].expand(-1, slots, -1)  # (D, G, P)
        own = torch.eye(slots, dtype=torch.bool, device=lengths.device).repeat(1, steps)  # (G, S * G)
        self.visible = torch.cat([prompts, own.expand(len(lengths), -1, -1)], dim=-1)
        steps_of = torch.arange(steps, device=lengths.device).repeat_interleave(slots)  # (S * G,)
        self.positions = torch.cat(
            [columns.expand(len(lengths), -1), lengths[:, None] + steps_of], dim=-1
        )  # (D, P + S * G)

    def select(self, rows: torch.Tensor) -> None:
        """Keep only these prompts."""
        self.visible, self.positions = self.visible[rows], self.positions[rows]

    def step(self, number: int) -> Tree:
        """Return the tree for the `(D, G)` tokens of one step."""
        start = self.width + number * self.slots
        end = start + self.slots
        return Tree(self.visible[:, :, :end], self.positions[:, start:end], self.positions[:, :end])


def _next(
    logits: torch.Tensor, temperature: float, constraint: Constraint | None, running: torch.Tensor
) -> torch.Tensor:  # (D', G, V) -> (D', G)
    """Draw the next token of every completion of the `running` prompts."""
    if constraint is None:
        return _drawn(logits, temperature)
    rows = running.tolist()
    tokens = _drawn(constraint.apply(logits, rows), temperature)
    constraint.follow(tokens, rows)
    return tokens


def _drawn(logits: torch.Tensor, temperature: float) -> torch.Tensor:  # (D, G, V) -> (D, G)
    if temperature == 0:
        return logits.argmax(-1)
    chances = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(chances.flatten(0, 1), 1).view(logits.shape[:2])


def until(row: list[int], stops: Collection[int]) -> list[int]:
    """Cut a row of ids after its first stop."""
    for position, token in enumerate(row):
        if token in stops:
            return row[: position + 1]
    return row
