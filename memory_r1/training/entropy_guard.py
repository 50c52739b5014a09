"""A guard against entropy collapse: a policy that is sure of every token samples alike and learns no more."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

WINDOW = 10

logger = logging.getLogger(__name__)


class EntropyGuard(TrainerCallback):
    """Stops a run once the mean entropy of its last `WINDOW` logged steps is below a floor.

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
