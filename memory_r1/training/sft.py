"""Supervised warm start: TRL's `SFTTrainer`, with logits only for completions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from trl import SFTTrainer

from memory_r1.inference.tree_attention import use_tree_attention
from memory_r1.training.cpu_seconds import CpuSeconds
from memory_r1.training.policy import require_trainable
from memory_r1.training.shared_prefix import (
    IGNORED,
    common_prefix_length,
    position_ids,
    prefix_cache,
    supports_prefix_cache,
)


class CompletionSFTTrainer(SFTTrainer):
    """`SFTTrainer` for rows with long prompts and short completions.

    Off the GPU, TRL's fused head projects every position onto the vocabulary, including the prompt. Here the
    instructions that open every prompt run once per batch, and left padding puts all completions at the end, so that
    only the last positions are projected.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.callback_handler.callbacks.insert(0, CpuSeconds())  # before those that report a row
        require_trainable(self.model)
        use_tree_attention(self.model)  # even without a tree it is faster in bfloat16 on a CPU

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean negative log-likelihood of the completion tokens (with a count, over accumulation steps)."""
        batch = (inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        first_label = int((batch[2] != IGNORED).any(dim=0).nonzero()[0])
        shared = 0
        # Engines that wrap or shard the model expect one forward per backward.
        alone = self.accelerator.unwrap_model(model) is model and not self.is_fsdp_enabled
        if alone and supports_prefix_cache(model):
            # One token less, so that each row keeps the prompt token that predicts its first completion token.
            shared = max(0, min(common_prefix_length(*batch[:2]), first_label) - 1)
        cache = prefix_cache(model, batch[0][0, :shared], len(batch[0])) if shared else None
        ids, rest, labels = left_pad(*(tensor[:, shared:] for tensor in batch))
        mask = torch.cat([rest.new_ones(len(rest), shared), rest], dim=1)  # (B, T)
        kept = labels.size(1) - int((labels != IGNORED).any(dim=0).nonzero()[0])  # positions from the first label on
        outputs = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position_ids(mask)[:, shared:],
            past_key_values=cache,
            logits_to_keep=torch.arange(-kept - 1, 0, device=ids.device),
            use_cache=cache is not None,
        )
        logits = outputs.logits[:, :-1].float()  # (B, kept, V)
        targets = labels[:, -kept:]  # (B, kept)
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        labelled = targets != IGNORED
        loss = total / (labelled.sum() if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        correct = (logits.argmax(-1) == targets)[labelled].float().mean()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append(correct.item())
        return (loss, outputs) if return_outputs else loss


def left_pad(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn right padding into left padding; all tensors are `(B, T)`."""
    length = input_ids.size(1)
    padding = length - attention_mask.sum(dim=1, keepdim=True)  # (B, 1)
    index = (torch.arange(length, device=input_ids.device) - padding) % length  # (B, T)
    return input_ids.gather(1, index), attention_mask.gather(1, index), labels.gather(1, index)
