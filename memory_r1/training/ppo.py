"""PPO with a critic for either agent, on TRL's GRPO trainer: same rollouts, rewards, logs and validation.

GRPO judges a completion by the mean of its group. PPO (Schulman et al. 2017, arXiv:1707.06347) judges each token by the
critic's value before it: generalised advantages (`critic.py`), `(B, T)`, replace the group's in TRL's clipped
surrogate. The last token carries the completion's reward, the weighted sum of its reward functions. A KL term to the
reference can be subtracted from each token's reward (Ouyang et al. 2022, arXiv:2203.02155, equation 2; log-ratio
estimator).

The PPO of Memory-R1 (arXiv:2508.19828), which ran in verl, differs: its critic is a second full-size language model
trained at 1e-5, and its actor is fine-tuned in full at 1e-6. Here the critic is one linear layer on the policy's
*detached* hidden states. It needs no second forward pass and only some hundred parameters, and its error does not
change the policy's features; it sees only what the policy's last layer encodes linearly. The paper's learning rates are
for full fine-tuning and do not apply to adapters and a linear head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.models.utils import disable_gradient_checkpointing

from memory_r1.errors import TrainingError
from memory_r1.training.advantages import (
    clipped_value_loss,
    explained_variance,
    generalized_advantages,
    masked_mean,
    whitened,
)
from memory_r1.training.critic import Critic, HiddenStates
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.policy import POLICY
from memory_r1.training.restore_start import RestoreStart
from memory_r1.training.rows import Row


@dataclass(frozen=True, slots=True)
class Pass:
    """The results of a log-probability pass of the policy that the critic needs.

    Attributes:
        log_probs: Detached, `(B, T)`.
        values: The critic's values before each completion token, `(B, T)`. If the pass has a graph, they have theirs,
            down to the critic's weights only.
    """

    log_probs: torch.Tensor
    values: torch.Tensor


class MemoryPPOTrainer(MemoryGRPOTrainer):
    """`MemoryGRPOTrainer` with a critic in place of the group's mean; `num_iterations` is the number of PPO's epochs.

    It overrides `_calculate_rewards` and `_get_per_token_logps_and_entropies` (to keep their results),
    `_generate_and_score_completions` (advantages), `_compute_loss` (the critic learns), and saving and loading of the
    optimiser (and the critic with it).

    Args:
        value_learning_rate: Constant learning rate of the critic's AdamW.
        gamma: Discount per token.
        gae_lambda: Lambda of the advantages.
        vf_coef: Weight of the value loss. The critic has its own optimiser and Adam's steps are scale-free, so this
            only decides how soon `max_grad_norm` clips.
        cliprange_value: How far a value may move from its value when the completion was sampled.
        value_warmup_steps: Number of first steps in which only the critic learns.
        whiten_advantages: Scale the advantages of a batch, over all processes, to mean 0 and variance 1.
        kl_in_reward: Coefficient of the per-token KL to the starting policy in the reward; 0 disables it.

    Raises:
        TrainingError: The engine shards the model's layers, so no process sees the states that the critic needs.
    """

    compares_groups = False

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        value_learning_rate: float = 1e-3,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        vf_coef: float = 0.5,
        cliprange_value: float = 0.2,
        value_warmup_steps: int = 0,
        whiten_advantages: bool = True,
        kl_in_reward: float = 0.0,
        **kwargs: Any,
    ) -> None:
        beta = args.beta
        args.beta = beta or kl_in_reward  # TRL keeps a reference only if beta is not 0
        super().__init__(model=model, args=args, **kwargs)
        self.beta = args.beta = beta
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        refuse_sharded_layers(self.accelerator.distributed_type, plugin.zero_stage if plugin else 0)
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.vf_coef, self.cliprange_value = vf_coef, cliprange_value
        self.value_warmup_steps = value_warmup_steps
        self.whiten_advantages = whiten_advantages
        self.kl_in_reward = kl_in_reward
        self._hidden = HiddenStates(self.model)
        self.critic = Critic(self._hidden.size, learning_rate=value_learning_rate, device=self.accelerator.device)
        self._passes: list[Pass] = []
        self._rewards = torch.empty(0)
        self.add_callback(KeepCritic(self))

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
        """Do as GRPO does, and compute values from the hidden states of the policy's passes."""
        rows = batch_size or len(input_ids)
        options = (rows, compute_entropy, compute_aux_loss)
        if self._is_reference(model):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *options, **forward_kwargs
            )
        with self._hidden.catching():
            outputs = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *options, **forward_kwargs
            )
        states = self._hidden.of_completions(input_ids, attention_mask, logits_to_keep, rows)
        # Keep values, not states: a rollout's states would be H times as large.
        self._passes.append(Pass(outputs[0].detach(), self.critic(states)))
        return outputs

    def _is_reference(self, model: Any) -> bool:
        """Return whether TRL runs the reference here: a separate model, another adapter, or no adapter."""
        if model is self.ref_model:
            return True
        layers = self.accelerator.unwrap_model(model).modules()
        adapted = next((layer for layer in layers if isinstance(layer, BaseTunerLayer)), None)
        return adapted is not None and (adapted.disable_adapters or POLICY not in adapted.active_adapters)

    def _calculate_rewards(self, inputs: list[Row], *args: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, *args)  # (B of all processes, F)
        start = self.accelerator.process_index * len(inputs)
        self._rewards = self._totals(rewards).flatten()[start : start + len(inputs)]  # (B,)
        return rewards

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        """Return TRL's batch with advantages `(B, T)` and the critic's targets."""
        self._passes.clear()
        self.beta = self.args.beta or self.kl_in_reward  # TRL runs the reference only if beta is not 0
        batch = super()._generate_and_score_completions(inputs)
        self.beta = self.args.beta
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            old = self._old_policy(batch)
        old_values = old.values  # (B, T)
        mask = _policy_tokens(batch)
        scored = mask & ~self._rewards.isnan()[:, None]
        rewards = self._token_rewards(batch, old.log_probs, mask)
        advantages = generalized_advantages(rewards, old_values, scored, gamma=self.gamma, gae_lambda=self.gae_lambda)
        returns = advantages + old_values
        self._log("critic/explained_variance", explained_variance(returns, old_values, scored, self._total))
        self._log("critic/value_mean", masked_mean(old_values, scored, self._total))
        self._log("critic/return_mean", masked_mean(returns, scored, self._total))
        if self.whiten_advantages:
            advantages = whitened(advantages, scored, self._total)
        # Replace the group's advantages, which TRL has logged; the log holds one batch of all processes.
        by_row = advantages.sum(dim=1) / scored.sum(dim=1).clamp(min=1)
        self._logs["advantages"].extend(self.accelerator.gather(by_row).tolist())
        return batch | {
            "advantages": advantages,
            "returns": returns,
            "old_values": old_values,
            "old_per_token_logps": old.log_probs,
            "scored": scored,
            "scored_tokens": self._total(scored.sum()),
        }

    def _old_policy(self, batch: dict[str, Any]) -> Pass:
        """Return the pass of the policy that sampled the batch, TRL's own if it ran one."""
        if not self._passes:
            self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
        (old,) = self._passes
        return old

    def _token_rewards(self, batch: dict[str, Any], log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Put the completion's reward on its last token and subtract each token's KL, `(B, T)`."""
        last = mask & (mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True))
        rewards = last * self._rewards.nan_to_num()[:, None]
        if self.kl_in_reward:
            divergence = log_probs - batch["ref_per_token_logps"]
            self._log("reward_kl", masked_mean(divergence, mask, self._total))
            rewards = rewards - self.kl_in_reward * divergence
        return rewards

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the policy's loss; train the critic from the same pass."""
        self._passes.clear()
        loss = super()._compute_loss(model, inputs)
        (current,) = self._passes
        self._learn_values(current.values, inputs)
        log_ratio = current.log_probs - inputs["old_per_token_logps"]
        # The lowest-variance estimator in J. Schulman's "Approximating KL divergence" (2020).
        self._log("approx_kl", masked_mean(log_ratio.exp() - 1 - log_ratio, _policy_tokens(inputs), self._total))
        # Multiply by 0, since engines expect a backward pass through every parameter.
        return loss * 0.0 if self.state.global_step < self.value_warmup_steps else loss

    def _learn_values(self, values: torch.Tensor, inputs: dict[str, Any]) -> None:
        """Backpropagate the value loss, and step the critic whenever the policy steps.

        The loss is a mean over the tokens of a whole step, on all processes and in all micro-batches, so the split does
        not matter.
        """
        scored = inputs["scored"]
        losses, clipped = clipped_value_loss(values, inputs["old_values"], inputs["returns"], self.cliprange_value)
        steps_a_batch = self.args.steps_per_generation / self.current_gradient_accumulation_steps
        share = inputs["scored_tokens"].clamp(min=1.0) / steps_a_batch
        (self.vf_coef * (losses * scored).sum() / share).backward()
        self._log("critic/loss", masked_mean(losses.detach(), scored, self._total))
        self._log("critic/clip_fraction", masked_mean(clipped.float(), scored, self._total))
        if self.accelerator.sync_gradients:
            self.critic.step(self._total, self.args.max_grad_norm)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the critic before the checkpoint is complete."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.critic.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.critic.load(checkpoint)

    def _total(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, reduction="sum")

    def _log(self, name: str, value: torch.Tensor) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value.item())


class KeepCritic(TrainerCallback):
    """Writes the critic beside the adapter when training ends, since a finished run drops its checkpoints.

    Like the policy, it comes from the best checkpoint if there is one. The file's metadata holds its `step` and the
    policy's (`policy_step`), which is 0 if `RestoreStart` restores the start, whose critic is untrained.
    """

    def __init__(self, trainer: MemoryPPOTrainer) -> None:
        self.trainer = trainer

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Load the critic of the kept policy's step, and save it."""
        step = state.global_step
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.trainer.critic.load(state.best_model_checkpoint)
            step = int(state.best_global_step or step)
        if args.should_save:
            kept = 0 if self._start_is_kept(state) else step
            self.trainer.critic.save(args.output_dir, {"step": str(step), "policy_step": str(kept)})

    def _start_is_kept(self, state: TrainerState) -> bool:
        """Predict the decision of `RestoreStart.restore_unless_beaten` after training."""
        callbacks = self.trainer.callback_handler.callbacks
        scores = [callback.score for callback in callbacks if isinstance(callback, RestoreStart)]
        best = state.best_metric
        return best is not None and any(score is not None and best <= score for score in scores)


def refuse_sharded_layers(engine: DistributedType, zero_stage: int) -> None:
    """Raise a TrainingError if the engine leaves each process only shards of the layers."""
    if engine == DistributedType.FSDP or zero_stage == 3:
        name = "FSDP" if engine == DistributedType.FSDP else "ZeRO-3"
        raise TrainingError(
            f"PPO under {name}: its critic reads hidden states of the unsharded policy; use ddp.yaml or zero2.yaml of "
            "recipes/accelerate, or GRPO"
        )


def _policy_tokens(batch: dict[str, Any]) -> torch.Tensor:  # -> (B, T)
    """Mask the tokens that the policy wrote, without padding and tokens of a tool or the environment."""
    mask = batch["completion_mask"].bool()
    return mask & batch["tool_mask"].bool() if "tool_mask" in batch else mask
