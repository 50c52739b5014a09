"""Compute the log-probabilities of a group's completions with one pass over their shared prompt.

A GRPO batch repeats each prompt G times. Here each distinct prompt forms one sequence with its completions side by side
behind it, and one forward runs them all under a tree mask (`inference/tree_attention.py`). The gradients of all
completions flow back into the one prompt pass, and the engine needs only ordinary forward and backward hooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from memory_r1.inference.cpu_attention import Branches
from memory_r1.inference.prompt_trees import grouped
from memory_r1.inference.tree_attention import NO_MASK, Tree, has_window, keeps_keys_and_values_only

IGNORED = -100


@dataclass(frozen=True, slots=True)
class PackedGroups:
    """D sequences of a prompt (right-padded to P) and G completions of T tokens each: L = P + G * T columns.

    Attributes:
        ids: `(D, L)`.
        positions: `(D, L)`; every completion continues at its prompt's length.
        visible: What each completion token sees, boolean, `(D, G * T, L)`.
        predicting: Column that predicts each completion token, `(D, G * T)`.
        labels: The completion tokens, `IGNORED` on padding, `(D, G * T)`.
        group: Sequence of each row of the batch, B numbers.
        slot: Index of each row among its sequence's completions, B numbers.
        slots: G.
        prompt_length: P.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    predicting: torch.Tensor
    labels: torch.Tensor
    group: list[int]
    slot: list[int]
    slots: int
    prompt_length: int

    def visible_to_all(self) -> torch.Tensor:  # -> (D, L, L)
        """Return `visible` below the prompts' own causal rows."""
        causal = torch.ones_like(self.visible[0, :1]).expand(self.prompt_length, -1).tril()  # (P, L)
        return torch.cat([causal.expand(len(self.visible), -1, -1), self.visible], dim=1)

    def branches(self) -> Branches | None:
        """Return `visible` as `Branches`, or None off the CPU, where nothing uses them."""
        if self.ids.device.type != "cpu":
            return None
        steps = self.labels.size(1) // self.slots
        prompts = self.visible[:, :1, : self.prompt_length]  # (D, 1, P)
        return Branches(self.slots, steps, None if bool(prompts.all()) else ~prompts[:, None])

    def by_row(self, values: torch.Tensor) -> torch.Tensor:  # (D, G * T) -> (B, T)
        """Return the values of completion tokens in the rows of the batch."""
        return values.view(len(values), self.slots, -1)[self.group, self.slot]


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int) -> PackedGroups:
    """Pack TRL's rows: left-padded prompts followed by right-padded completions, `(B, P + T)`."""
    split = input_ids.size(1) - completion_length
    real = attention_mask[:, :split].bool()
    groups = grouped([row[kept].tolist() for row, kept in zip(input_ids[:, :split], real, strict=True)])
    device, slots, count = input_ids.device, groups.size, len(groups.distinct)
    lengths = torch.tensor([len(prompt) for prompt in groups.distinct], device=device)  # (D,)
    width = int(lengths.max())
    prompts = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in groups.distinct], device=device)
    completions = input_ids.new_zeros(count, slots, completion_length)
    labels = torch.full_like(completions, IGNORED)
    own = input_ids[:, split:]  # (B, T)
    completions[groups.group, groups.slot] = own
    labels[groups.group, groups.slot] = own.masked_fill(attention_mask[:, split:] == 0, IGNORED)

    steps = torch.arange(completion_length, device=device)
    first = width + torch.arange(slots, device=device)[:, None] * completion_length  # (G, 1)
    before = (first + steps - 1).repeat(count, 1, 1)  # (D, G, T)
    before[:, :, 0] = lengths[:, None] - 1
    positions = torch.cat(
        [torch.arange(width, device=device).expand(count, -1), (lengths[:, None] + steps).repeat(1, slots)], dim=1
    )
    return PackedGroups(
        ids=torch.cat([prompts, completions.flatten(1)], dim=1),
        positions=positions,
        visible=_tree(lengths, width, slots, completion_length),
        predicting=before.flatten(1),
        labels=labels.flatten(1),
        group=groups.group,
        slot=groups.slot,
        slots=slots,
        prompt_length=width,
    )


def _tree(lengths: torch.Tensor, width: int, slots: int, steps: int) -> torch.Tensor:  # (D,) -> (D, G * T, L)
    """Let each completion token see its prompt's real tokens and its own completion up to itself."""
    visible = torch.zeros(len(lengths), slots * steps, width + slots * steps, dtype=torch.bool, device=lengths.device)
    columns = torch.arange(width, device=lengths.device)
    visible[:, :, :width] = (columns < lengths[:, None])[:, None]
    causal = torch.ones(steps, steps, dtype=torch.bool, device=lengths.device).tril()
    visible[:, :, width:] = torch.block_diag(*[causal] * slots)
    return visible


def keep_positions(model: Any) -> None:
    """Make `model`'s backbone return only the positions in the call's argument `kept_positions`, `(D, N)`.

    Off the GPU, TRL's fused head projects every position that it receives.
    """

    def keep(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        positions = kwargs.get("kept_positions")
        if positions is not None:
            hidden = output.last_hidden_state  # (D, L, H)
            index = positions[..., None].expand(-1, -1, hidden.size(-1))
            output.last_hidden_state = hidden.gather(1, index)  # (D, N, H)
        return output

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.base_model.register_forward_hook(keep, with_kwargs=True)


def shared_prefix_outputs(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute log-probabilities and entropies of the completions, with one pass over each distinct prompt.

    Args:
        model: Causal language model with TRL's fused head, tree attention and `keep_positions`; may be wrapped.
        input_ids: Left-padded prompts followed by right-padded completions, `(B, P + T)`.
        attention_mask: 1 for real tokens, `(B, P + T)`.
        completion_length: T, the padded length of the completions.

    Returns:
        Both `(B, T)`; entropies are None if the head does not compute them.
    """
    packed = pack(input_ids, attention_mask, completion_length)
    plain = model.module if hasattr(model, "module") else model
    # The prompt's rows are causal: left out of the mask, they take the causal path, which needs no L x L mask.
    windowed = has_window(plain)
    visible = packed.visible_to_all() if windowed else packed.visible
    own = slice(packed.ids.size(1) - visible.size(1), None)
    outputs = model(
        input_ids=packed.ids,
        attention_mask=NO_MASK,
        tree=Tree(visible, packed.positions[:, own], packed.positions, None if windowed else packed.branches()),
        position_ids=packed.positions,
        kept_positions=packed.predicting,
        shift_labels=packed.labels,
        fused_lm_head=True,
    )
    entropy = outputs.entropy
    return packed.by_row(outputs.log_probs), None if entropy is None else packed.by_row(entropy)


def position_ids(attention_mask: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T)
    """Count positions over real tokens only, as `generate` does under left padding."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def common_prefix_length(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> int:  # (B, T), (B, T)
    """Count the leading tokens that all right-padded rows share, mostly the instructions."""
    same = (input_ids == input_ids[:1]).all(dim=0) & attention_mask.bool().all(dim=0)  # (T,)
    return int(same.long().cumprod(dim=0).sum())


def supports_prefix_cache(model: Any) -> bool:
    """Return whether rows can continue from `prefix_cache`: no window drops keys, no checkpointing disables it."""
    plain = keeps_keys_and_values_only(model) and not has_window(model)
    return plain and not getattr(model, "is_activation_checkpointing", False)


def prefix_cache(model: Any, prefix: torch.Tensor, rows: int) -> DynamicCache:  # (P,)
    """Return the key-value cache of one token sequence, with its autograd graph, repeated for `rows` rows."""
    cache = DynamicCache(config=model.config)
    model(input_ids=prefix[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(rows)
    return cache
