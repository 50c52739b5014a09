"""GRPO for either agent: TRL's trainer with a shared prompt prefix, greedy validation and reward diagnostics."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import split_tensor_dict

from memory_r1.inference.tree_attention import use_tree_attention
from memory_r1.jsonl import JsonLinesWriter
from memory_r1.training.advantages import best_of_groups
from memory_r1.training.completion_stats import completion_rows
from memory_r1.training.cpu_seconds import CpuSeconds
from memory_r1.training.dynamic_sampling import DynamicSampler, Settled, samples_of
from memory_r1.training.early_stopping import EntropyGuard
from memory_r1.training.policy import require_trainable
from memory_r1.training.rollouts import has_images, shared_prefix_rollout, shuffle_groups, supports_shared_rollout
from memory_r1.training.rows import Row
from memory_r1.training.sampling import ROW_INDEX, PromptDraws, PromptRecord, VarianceSampler, numbered
from memory_r1.training.shared_prefix import keep_positions, shared_prefix_outputs
from memory_r1.training.validation import Describe, PlayedDialogues, Scores, merged, score_greedily
from memory_r1.training.zero_variance import (
    TINY,
    ZeroVarianceWatch,
    group_measures,
    group_spreads,
    remedies_for,
    weighted_totals,
    without_failed,
    zero_variance,
)

logger = logging.getLogger(__name__)


class MemoryGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` for one agent on LoRA adapters.

    It overrides these methods of TRL: `_get_train_sampler`, `_generate_and_score_completions` and `_generate` (remedies
    for flat rewards), `_prepare_inputs` (keeps groups together), `_calculate_rewards` (diagnostics),
    `_get_per_token_logps_and_entropies` (shared prefix) and `evaluate` (greedy completions on validation rows, scored
    by the same rewards, so that the kept checkpoint is the best policy and not the luckiest sample).

    Args:
        describe: Computes metrics of the completions, logged under `completions/`.
        completions_log: JSONL file for every completion trained on, with its prompt and rewards.
        shared_prefix: Compute each distinct prompt of a batch once, in rollouts and in the log-probability pass.
        dynamic_sampling_rounds: Maximum number of rounds that replace groups without variance by fresh prompts.
        best_of_group: Imitate the best completion of each group instead: iterated best-of-G SFT on the same rollouts.
        entropy_floor: Stop once the entropy stays below this; 0 never stops.
        played: Validate by playing these dialogues, instead of by `eval_dataset`.
        variance_sampling: Share of prompts drawn by the recent variance of their rewards; 0 shuffles all.
    """

    _buffered_inputs: Any  # micro-batches of the current rollout
    _newest_spreads: torch.Tensor  # of the newest rewards of all ranks, (B / G,)

    compares_groups = True
    """Whether a completion is judged by its group, so that a group without variance teaches nothing."""

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        describe: Describe | None = None,
        completions_log: Path | None = None,
        shared_prefix: bool = True,
        dynamic_sampling_rounds: int = 0,
        variance_sampling: float = 0.0,
        best_of_group: bool = False,
        entropy_floor: float = 0.0,
        played: PlayedDialogues | None = None,
        **kwargs: Any,
    ) -> None:
        if dynamic_sampling_rounds or variance_sampling:
            kwargs["train_dataset"] = numbered(kwargs["train_dataset"])
        columns = getattr(kwargs.get("train_dataset"), "column_names", None) or ()
        if shared_prefix and use_tree_attention(model) and supports_shared_rollout(args, columns):
            kwargs.setdefault("rollout_func", shared_prefix_rollout)
        super().__init__(model=model, args=args, **kwargs)
        self.cpu_seconds = CpuSeconds()
        self.callback_handler.callbacks.insert(0, self.cpu_seconds)  # before those that report a row
        if entropy_floor:
            self.add_callback(EntropyGuard(entropy_floor))
        require_trainable(self.model)
        self.describe = describe
        self.completions_log = (
            JsonLinesWriter(completions_log) if completions_log and self.accelerator.is_main_process else None
        )
        self._fallbacks: set[str] = set()
        self.shared_prefix = shared_prefix
        if shared_prefix and not use_tree_attention(self.model):
            self._fall_back("it needs plain or sliding-window attention under PyTorch's SDPA")
        elif shared_prefix and has_images(columns):
            self._fall_back("rows with images are read and cut into micro-batches by TRL")
        self.shared_prefix = shared_prefix and not self._fallbacks
        if self.shared_prefix:
            keep_positions(self.model)
        self.variance_sampling = variance_sampling
        self.best_of_group = best_of_group
        self.played = played
        self._watch = None
        if self.compares_groups and self.accelerator.is_main_process:
            weights = dict(zip(self.reward_func_names, self.reward_weights.tolist(), strict=True))
            remedies = remedies_for(self.reward_func_names, dynamic_sampling_rounds, variance_sampling)
            self._watch = ZeroVarianceWatch(weights, remedies)
        self._record = PromptRecord(len(self.train_dataset)) if dynamic_sampling_rounds or variance_sampling else None
        self._dynamic_sampler = self._make_dynamic_sampler(dynamic_sampling_rounds) if dynamic_sampling_rounds else None
        self._settled: Settled | None = None

    def _fall_back(self, reason: str) -> None:
        """Log once per reason why prompts are not shared."""
        if reason not in self._fallbacks:
            self._fallbacks.add(reason)
            logger.warning("shared_prefix is off: %s", reason)

    def _make_dynamic_sampler(self, rounds: int) -> DynamicSampler:
        # A seed other than the sampler's, so that fresh prompts are not the ones it draws next.
        return DynamicSampler(
            self.train_dataset,
            self._draws(self.args.seed + 1),
            rounds=rounds,
            generations=self.num_generations,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )

    def _draws(self, seed: int) -> PromptDraws:
        assert self._record is not None  # set whenever something draws
        return PromptDraws(self._record, self.variance_sampling, seed)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Return TRL's sampler or, with `variance_sampling`, one that prefers prompts that varied recently."""
        if not self.variance_sampling:
            return super()._get_train_sampler(dataset)
        return VarianceSampler(
            self._draws(self.args.seed),
            prompts=self.args.generation_batch_size // self.num_generations,
            generations=self.num_generations,
            repeats=self.num_iterations * self.args.steps_per_generation,
        )

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        """Return TRL's batch; with `dynamic_sampling_rounds`, first settle its prompts, completions and rewards.

        TRL generates, scores and computes advantages in one method. Here the first two run until the groups are
        settled, and TRL's calls of `_generate` and `_calculate_rewards` then return the result.
        """
        batch = self._settled_batch(inputs)
        if self.best_of_group and self.model.training:
            own = len(batch["advantages"]) // self.num_generations  # groups of this rank
            spreads = self._newest_spreads[self.accelerator.process_index * own :][:own]
            batch["advantages"] = best_of_groups(batch["advantages"], spreads > TINY)
        return batch

    def _settled_batch(self, inputs: list[Row]) -> dict[str, Any]:
        if self._dynamic_sampler is None or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        tried = gather_object([row[ROW_INDEX] for row in inputs])
        first = self.sample(inputs)
        self._settled = self._dynamic_sampler.settle(first, tried, self._spreads, self.sample)
        at_first = zero_variance(self._totals(first.rewards))
        self._metrics["train"]["dynamic_sampling/zero_variance_at_first"].append(at_first)
        groups = len(first.rewards) / self.num_generations
        self._metrics["train"]["dynamic_sampling/replaced"].append(self._dynamic_sampler.replaced / groups)
        try:
            return super()._generate_and_score_completions([sample.row for sample in self._settled.samples])
        finally:
            self._settled = None

    def _generate(self, prompts: list[Any]) -> Any:
        if self._settled is not None:
            return self._settled.generated()
        with self.accelerator.autocast():  # TRL's fallback, `PeftModel.generate`, bypasses autocast
            return super()._generate(prompts)

    def clear_metrics(self, mode: str) -> None:
        """Forget what was measured since the last row of the log, in mode "train" or "eval"."""
        self._metrics[mode].clear()

    def sample(self, rows: list[Row]) -> Settled:
        """Sample completions of this rank's rows, with the rewards of all ranks."""
        samples = samples_of(rows, self._generate([row["prompt"] for row in rows]))
        scored = [(sample.row, sample.row["prompt"], sample.completion, sample.completion_ids) for sample in samples]
        return Settled(samples, self._score(*map(list, zip(*scored, strict=True))))

    def _score(
        self, inputs: list[Row], prompts: list[Any], completions: list[Any], completion_ids: list[Any]
    ) -> torch.Tensor:
        """Compute the rewards of all ranks, `(B, F)`; note their spread within each prompt's group."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        rewards = without_failed(rewards, self.num_generations)
        if self._record is not None and self.model.training:
            rows = gather_object([row[ROW_INDEX] for row in inputs])[:: self.num_generations]
            self._record.note(rows, self._spreads(rewards).tolist())
        return rewards

    def _spreads(self, rewards: torch.Tensor) -> torch.Tensor:
        """Return the spread of the weighted reward in each group, `(B / G,)`, from `(B, F)`."""
        return group_spreads(self._totals(rewards))

    def _totals(self, rewards: torch.Tensor) -> torch.Tensor:
        """Return each completion's weighted reward, `(B / G, G)`, from `(B, F)`; NaN without any reward."""
        return weighted_totals(rewards, self.reward_weights).view(-1, self.num_generations)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Return the micro-batch of this step, from a new rollout or the last one.

        TRL shuffles a rollout's rows before it splits them into micro-batches, which would scatter each group over
        several passes. Here whole groups are shuffled. TRL handles validation and `shared_prefix: false`.
        """
        if not self.shared_prefix or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        pieces = self.args.steps_per_generation
        if self._step % (pieces * self.num_iterations) == 0 or self._buffered_inputs is None:
            rollout = self._generate_and_score_completions(generation_batch)
            # If a rank holds only part of a group, that part is one micro-batch (`MemoryGRPOConfig`).
            rows = min(self.num_generations, self.args.per_device_train_batch_size)
            self._buffered_inputs = split_tensor_dict(shuffle_groups(rollout, rows), pieces)
        return self._buffered_inputs[self._step % pieces]

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
        """Return log-probabilities and entropies of the completions, both `(B, T)`; see `shared_prefix`.

        The share of passes that compute a prompt once is logged as `shared_prefix/used`.
        """
        multimodal = any(value is not None for value in forward_kwargs.values())
        shared = self.shared_prefix and not compute_aux_loss and not multimodal
        self._metrics["train" if self.model.training else "eval"]["shared_prefix/used"].append(float(shared))
        if self.shared_prefix and compute_aux_loss:
            self._fall_back(
                "the load-balancing loss of a mixture of experts counts all tokens of all rows (in passes with "
                "gradients; router_aux_loss_coef: 0 goes without it)"
            )
        elif self.shared_prefix and multimodal:
            self._fall_back("TRL reads what goes with images")
        if not shared:
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
        # The input may be a whole rollout, as for the reference: split it into passes of a micro-batch each.
        size = batch_size or len(input_ids)
        with self.accelerator.autocast():
            passes = [
                shared_prefix_outputs(model, ids, mask, logits_to_keep)
                for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True)
            ]
        log_probs = torch.cat([log_probs for log_probs, _ in passes])
        entropies = [entropy for _, entropy in passes if entropy is not None]
        return log_probs, torch.cat(entropies) if compute_entropy and entropies else None, None

    def _calculate_rewards(
        self, inputs: list[Row], prompts: list[Any], completions: list[Any], completion_ids_list: list[Any]
    ) -> torch.Tensor:
        """Return the rewards of all ranks, `(B, F)`; log their sparsity and the completions' metrics."""
        if self._settled is not None:
            rewards = self._settled.rewards  # (B, F)
        else:
            rewards = self._score(inputs, prompts, completions, completion_ids_list)
        self._newest_spreads = self._spreads(rewards)
        mode = "train" if self.model.training else "eval"
        measures = group_measures(rewards, self.reward_weights, self.reward_func_names, self.num_generations)
        for name, value in measures.items():
            self._metrics[mode][name].append(value)
        if self._watch is not None and mode == "train":
            self._watch.note(measures)
        texts = [completion[0]["content"] for completion in completions]
        if self.describe is not None:
            for name, value in self.describe(texts, inputs).items():
                self._metrics[mode][f"completions/{name}"].append(value)
        if self.completions_log is not None:
            # A rollout may complete prompts other than the dataset's (`training/session_credit.py`).
            completed = [row.get("played_prompt", prompt) for row, prompt in zip(inputs, prompts, strict=True)]
            rows = completion_rows(self.state.global_step, self.reward_func_names, completed, texts, rewards.tolist())
            self.completions_log.append(*rows)
        return rewards

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the mean greedy score of validation rows or `played` questions as `<prefix>_score`."""
        model = self.accelerator.unwrap_model(self.model)
        with disable_gradient_checkpointing(model, self.args.gradient_checkpointing_kwargs):
            share = self._validate(model, list(eval_dataset if eval_dataset is not None else self.eval_dataset))
        score, measures = merged(gather_object([share]))
        results = {f"{metric_key_prefix}_{name}": value for name, value in measures.items()}
        results[f"{metric_key_prefix}_score"] = score
        training = self.model.training
        self.model.eval()  # TRL logs the metrics gathered for the model's current mode
        self.log(dict(results))
        self.model.train(training)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, results)
        return results

    def _validate(self, model: Any, rows: list[Row]) -> Scores:
        """Run this process's share of the validation."""
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        longest = self.args.max_completion_length
        if self.played is not None:
            return self.played.score(model, self.processing_class, self.played.dialogues[share], longest)
        return score_greedily(
            model,
            self.processing_class,
            rows[share],
            self.reward_funcs,
            self.reward_weights,
            max_new_tokens=longest,
            describe=self.describe,
        )
