"""Callbacks that end a run before its last step, when going on is no better use of time."""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

WINDOW = 10

logger = logging.getLogger(__name__)


class Patience(TrainerCallback):
    """Stops a run after some validations in a row without a new lowest loss.

    Counts from the run's own log, so that a resumed run stops where an uninterrupted one would.

    Args:
        validations: How many validations to wait for a lower loss.
    """

    def __init__(self, validations: int) -> None:
        self.validations = validations

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare the newest validation losses with those before; one that is not finite is never the lowest."""
        losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
        losses = [loss if math.isfinite(loss) else math.inf for loss in losses]
        waited = len(losses) - 1 - losses.index(min(losses))
        if waited >= self.validations:
            logger.info("no lower validation loss in %d validations: training stops", waited)
            control.should_training_stop = True


class CpuBudget(TrainerCallback):
    """Stops a run once its training loop has used some CPU seconds, so that runs of unlike steps can be compared.

    Args:
        seconds: As `CpuSeconds` logs them.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare the newest row of the log."""
        if state.log_history[-1].get("cpu_seconds", 0.0) >= self.seconds:
            logger.info("%g CPU seconds are used: training stops at step %d", self.seconds, state.global_step)
            control.should_training_stop = True


class EntropyGuard(TrainerCallback):
    """Stops a run once the mean entropy of its last `WINDOW` logged steps is below a floor.

    A policy that is sure of every token samples alike and learns no more.
    The best validated checkpoint stays the result, as in a run that ends by itself.

    Args:
        floor: Mean entropy per token, in nats.
    """

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Read the entropy of a training step's row."""
        if logs is None or "entropy" not in logs:
            return
        self._recent.append(float(logs["entropy"]))
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) == WINDOW and mean < self.floor:
            logger.warning(
                "entropy fell to %.3f, below entropy_floor %.3f: training stops at step %d (raise temperature or beta, "
                "or lower learning_rate)",
                mean,
                self.floor,
                state.global_step,
            )
            control.should_training_stop = True
