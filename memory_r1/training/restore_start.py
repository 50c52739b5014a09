"""Callbacks of a training run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from memory_r1.jsonl import read_json, write_json
from memory_r1.training.policy import POLICY

logger = logging.getLogger(__name__)


class RestoreStart(TrainerCallback):
    """Validates the policy before the first step, so that a run without improvement keeps its start.

    transformers only compares checkpoints with each other. Without this, a policy that got worse at every checkpoint
    would still be saved as the best one. The run's folder keeps score and weights for a resume.

    Args:
        folder: The run's output folder.
        metric: The deciding metric of `evaluate`, as in the recipe's `metric_for_best_model`.
        greater_is_better: Direction of the metric.
    """

    def __init__(self, folder: Path, metric: str = "eval_score", *, greater_is_better: bool = True) -> None:
        self.metric = metric
        self.greater_is_better = greater_is_better
        self.weights = folder / "start" / "policy.safetensors"
        self.record = folder / "start" / "score.json"
        self.trainer: Any = None
        self.score: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the starting policy once; a resumed run reads the score of its first launch."""
        if self.record.is_file():
            self.score = read_json(self.record)["score"]
            return
        if state.global_step > 0 or args.eval_strategy == "no":
            return
        self.score = self.trainer.evaluate()[self.metric]
        if self.trainer.accelerator.is_main_process:
            self.weights.parent.mkdir(parents=True, exist_ok=True)
            policy = self.trainer.accelerator.unwrap_model(self.trainer.model)
            save_file(get_peft_model_state_dict(policy, adapter_name=POLICY), self.weights)
            write_json(self.record, {"score": self.score})

    def restore_unless_beaten(self) -> bool:
        """Restore the starting weights if no checkpoint validated better; return whether they were restored."""
        best = self.trainer.state.best_metric
        if self.score is None or best is None:
            return False
        if best > self.score if self.greater_is_better else best < self.score:
            return False
        policy = self.trainer.accelerator.unwrap_model(self.trainer.model)
        set_peft_model_state_dict(policy, load_file(self.weights), adapter_name=POLICY)
        logger.warning("no checkpoint validated above the start (%.3f): the starting policy is kept", self.score)
        return True
