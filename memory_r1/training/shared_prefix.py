"""Log-probabilities of a group's completions with the group's shared prompt computed once.

A GRPO batch repeats each prompt G times. Here each distinct prompt is one sequence, its completions side by side
behind it, and one forward runs them all under a tree mask (`inference/tree_attention.py`): gradients of all completions
flow back into the one prompt pass, and nothing but ordinary forward and backward hooks is asked of the engine.
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
        positions: `(D, L)`; every completion goes on from its prompt's length.
        visible: What each completion token sees, boolean, `(D, G * T, L)`.
        predicting: Column that predicts each completion token, `(D, G * T)`.
        labels: Those tokens, `IGNORED` on padding, `(D, G * T)`.
        group: Sequence of each row of the batch, B numbers.
        slot: Its place among that sequence's completions, B numbers.
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
        """`visible` below what the prompts' tokens see: themselves, causally."""
        causal = torch.ones_like(self.visible[0, :1]).expand(self.prompt_length, -1).tril()  # (P, L)
        return torch.cat([causal.expand(len(self.visible), -1, -1), self.visible], dim=1)

    def branches(self) -> Branches | None:
        """What `visible` says, in a few numbers; None off the CPU, where nobody reads it."""
        if self.ids.device.type != "cpu":
            return None
        steps = self.labels.size(1) // self.slots
        prompts = self.visible[:, :1, : self.prompt_length]  # (D, 1, P)
        return Branches(self.slots, steps, None if bool(prompts.all()) else ~prompts[:, None])

    def by_row(self, values: torch.Tensor) -> torch.Tensor:  # (D, G * T) -> (B, T)
        """Values of completion tokens, back in the rows of the batch."""
        return values.view(len(values), self.slots, -1)[self.group, self.slot]


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int) -> PackedGroups:
    """Pack TRL's rows, left-padded prompts followed by right-padded completions, both `(B, P + T)`."""
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
    """A completion sees its prompt's real tokens and itself up to each token."""
    visible = torch.zeros(len(lengths), slots * steps, width + slots * steps, dtype=torch.bool, device=lengths.device)
    columns = torch.arange(width, device=lengths.device)
    visible[:, :, :width] = (columns < lengths[:, None])[:, None]
    causal = torch.ones(steps, steps, dtype=torch.bool, device=lengths.device).tril()
    visible[:, :, width:] = torch.block_diag(*[causal] * slots)
    return visible


def keep_positions(model: Any) -> None:
    """Let `model`'s backbone hand on only the positions named by `kept_positions`, a `(D, N)` argument of a call.

    TRL's fused head projects every position that it is given when it runs off the GPU.
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
    """Log-probabilities and entropies of the completions, each distinct prompt computed once.

    Args:
        model: Causal language model with TRL's fused head, under tree attention and `keep_positions`; may be wrapped.
        input_ids: Left-padded prompts followed by right-padded completions, `(B, P + T)`.
        attention_mask: 1 for real tokens, `(B, P + T)`.
        completion_length: T, the padded length of the completions.

    Returns:
        Both `(B, T)`; entropies are None where the head does not compute them.
    """
    packed = pack(input_ids, attention_mask, completion_length)
    plain = model.module if hasattr(model, "module") else model
    # The prompt's own rows are causal: without them, attention takes its causal path there, and needs no L x L mask.
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
    """Positions counted over real tokens only, as `generate` counts them under left padding."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def common_prefix_length(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> int:  # (B, T), (B, T)
    """Number of leading tokens that all right-padded rows share (the instructions, mostly)."""
    same = (input_ids == input_ids[:1]).all(dim=0) & attention_mask.bool().all(dim=0)  # (T,)
    return int(same.long().cumprod(dim=0).sum())


def supports_prefix_cache(model: Any) -> bool:
    """Whether rows can go on from `prefix_cache`: no window drops keys, no checkpointing turns the cache off."""
    plain = keeps_keys_and_values_only(model) and not has_window(model)
    return plain and not getattr(model, "is_activation_checkpointing", False)


def prefix_cache(model: Any, prefix: torch.Tensor, rows: int) -> DynamicCache:  # (P,)
    """A key-value cache of one token sequence, with its autograd graph, repeated for `rows` rows."""
    cache = DynamicCache(config=model.config)
    model(input_ids=prefix[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(rows)
    return cache
