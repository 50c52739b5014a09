"""GRPO for either agent: TRL's trainer with a shared prompt prefix, greedy validation and diagnostics of rewards."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from memory_r1.agents.language_model import LocalLanguageModel, Messages
from memory_r1.errors import TrainingError
from memory_r1.jsonl import JsonLinesWriter
from memory_r1.training.rollouts import shared_prefix_rollout, supports_shared_rollout
from memory_r1.training.rows import Row
from memory_r1.training.shared_prefix import keep_positions, shared_prefix_outputs, supports_shared_prefix

logger = logging.getLogger(__name__)

Describe = Callable[[Sequence[str], Sequence[Row]], dict[str, float]]
"""(completions, their rows) to metrics of what the completions do, e.g. the share of each operation."""


class MemoryGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` for one agent on LoRA adapters.

    Three of TRL's methods are overridden: `_get_per_token_logps_and_entropies` (shared prefix), `_calculate_rewards`
    (diagnostics) and `evaluate` (greedy completions on validation rows, scored by the same rewards, so that the
    checkpoint kept is the best policy and not the luckiest sample).

    Args:
        describe: Metrics of the completions themselves, logged under `completions/`.
        completions_log: JSONL file that receives every sampled completion with its prompt and rewards.
        shared_prefix: Compute each distinct prompt of a batch once, in rollouts and in the log-probability pass.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        describe: Describe | None = None,
        completions_log: Path | None = None,
        shared_prefix: bool = True,
        **kwargs: Any,
    ) -> None:
        if shared_prefix and supports_shared_prefix(model) and supports_shared_rollout(args):
            kwargs.setdefault("rollout_func", shared_prefix_rollout)
        super().__init__(model=model, args=args, **kwargs)
        require_trainable(self.model)
        self.describe = describe
        self.completions_log = (
            JsonLinesWriter(completions_log) if completions_log and self.accelerator.is_main_process else None
        )
        self.shared_prefix = shared_prefix
        if shared_prefix and not supports_shared_prefix(self.model):
            logger.warning("shared_prefix is off: it needs plain or sliding-window attention under PyTorch's SDPA")
            self.shared_prefix = False
        if self.shared_prefix:
            keep_positions(self.model)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **forward_kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probabilities and entropies of the completions, both `(B, T)`; see `shared_prefix`."""
        multimodal = any(value is not None for value in forward_kwargs.values())
        if not self.shared_prefix or compute_aux_loss or multimodal:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **forward_kwargs,
            )
        with self.accelerator.autocast():
            log_probs, entropy = shared_prefix_outputs(model, input_ids, attention_mask, logits_to_keep)
        return log_probs, entropy if compute_entropy else None, None

    def _calculate_rewards(
        self, inputs: list[Row], prompts: list[Any], completions: list[Any], completion_ids_list: list[Any]
    ) -> torch.Tensor:
        """Rewards of all ranks, `(B, functions)`; logs how sparse they are and what the completions do."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # (B, F)
        mode = "train" if self.model.training else "eval"
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1).view(-1, self.num_generations)
        self._metrics[mode]["groups/all_zero"].append((total == 0).all(dim=1).float().mean().item())
        for index, name in enumerate(self.reward_func_names):
            groups = rewards[:, index].view(-1, self.num_generations)
            constant = (groups.nan_to_num().amax(dim=1) - groups.nan_to_num().amin(dim=1)) < 1e-8
            self._metrics[mode][f"groups/zero_variance/{name}"].append(constant.float().mean().item())
        texts = [completion[0]["content"] for completion in completions]
        if self.describe is not None:
            for name, value in self.describe(texts, inputs).items():
                self._metrics[mode][f"completions/{name}"].append(value)
        if self.completions_log is not None:
            self.completions_log.append(*self._completion_rows(prompts, texts, rewards))
        return rewards

    def _completion_rows(self, prompts: Sequence[Messages], texts: Sequence[str], rewards: torch.Tensor) -> list[Row]:
        """This rank's completions for the log; their rewards are the first rows of all ranks'."""
        return [
            {
                "step": self.state.global_step,
                "prompt": prompt[-1]["content"],
                "completion": text,
                "rewards": {
                    name: None if math.isnan(value) else value
                    for name, value in zip(self.reward_func_names, scores, strict=True)
                },
            }
            for prompt, text, scores in zip(prompts, texts, rewards.tolist(), strict=False)
        ]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Weighted mean reward of greedy completions on the validation rows, as `<prefix>_score`."""
        rows = list(eval_dataset if eval_dataset is not None else self.eval_dataset)
        mine = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        totals, metrics = self._score_greedily(mine)
        gathered = gather_object(totals)
        scored = [value for value in gathered if value is not None]
        results = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        results[f"{metric_key_prefix}_score"] = sum(scored) / len(scored) if scored else 0.0
        self.log(dict(results))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, results)
        return results

    def _score_greedily(self, rows: Sequence[Row]) -> tuple[list[float | None], dict[str, float]]:
        """Weighted reward of each row's greedy completion, and the mean of each reward function."""
        model = self.accelerator.unwrap_model(self.model)
        local = LocalLanguageModel(model, self.processing_class, batch_size=16)
        with disable_gradient_checkpointing(model, self.args.gradient_checkpointing_kwargs):
            generated = local.generate(
                [row["prompt"] for row in rows],
                max_new_tokens=self.args.max_completion_length,
                adapter=getattr(model, "active_adapter", None),
            )
        completions = [[{"role": "assistant", "content": completion.text}] for completion in generated]
        prompts = [row["prompt"] for row in rows]
        ids = [self.processing_class(item.text, add_special_tokens=False)["input_ids"] for item in generated]
        columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ()) if key != "prompt"}
        columns |= {"completion_ids": ids}
        totals: list[float | None] = [None] * len(rows)
        metrics: dict[str, float] = {}
        for weight, function in zip(self.reward_weights.tolist(), self.reward_funcs, strict=True):
            rewards = function(completions=completions, prompts=prompts, **columns)
            known = [reward for reward in rewards if reward is not None]
            metrics[f"reward/{function.__name__}"] = sum(known) / len(known) if known else 0.0
            for index, reward in enumerate(rewards):
                if reward is not None:
                    totals[index] = (totals[index] or 0.0) + weight * reward
        if self.describe is not None:
            described = self.describe([completion.text for completion in generated], rows)
            metrics |= {f"completions/{name}": value for name, value in described.items()}
        return totals, metrics


def require_trainable(model: Any) -> int:
    """Number of trainable parameters.

    Raises:
        TrainingError: There are none. TRL would train such a model without complaint and save it unchanged.
    """
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable == 0:
        raise TrainingError(
            "the model has no trainable parameter, so training would change nothing; load the adapter with "
            "is_trainable=True"
        )
    return trainable
