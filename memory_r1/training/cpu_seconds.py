"""CPU seconds of a training loop, in every row of its log: what "equal compute" is measured in."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class CpuSeconds(TrainerCallback):
    """Adds `cpu_seconds` to every row of the log: those of all threads of this process since training began.

    Validation counts, that of the start too, and so does what `before` says was spent on choosing prompts. Loading and
    playing banks do not. A resumed run goes on from its last row.

    Attributes:
        before: CPU seconds spent on this run before the loop.
    """

    def __init__(self) -> None:
        self.before = 0.0
        self._used = 0.0
        self._started: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on from what an earlier launch has used."""
        self._used = max((row.get("cpu_seconds", 0.0) for row in state.log_history), default=self.before)
        self._started = time.process_time()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the seconds to the newest row, and to what other callbacks report of it."""
        if self._started is None:  # validated by hand, outside a loop
            return
        seconds = round(self._used + time.process_time() - self._started, 2)
        state.log_history[-1]["cpu_seconds"] = seconds
        if logs is not None:
            logs["cpu_seconds"] = seconds
