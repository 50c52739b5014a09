"""What rewards that look at one row at a time share: a row that cannot be scored costs itself and no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from memory_r1.errors import ConfigurationError, MemoryR1Error
from memory_r1.memory.bank import MemoryBank
from memory_r1.training.rows import apply_completion

logger = logging.getLogger(__name__)

LogMetric = Callable[[str, float], None]

ROW_FAILURES = (MemoryR1Error, ValueError, KeyError, TypeError, AttributeError)
"""What a malformed row raises; anything else is a fault of the run, and so is a `ConfigurationError`."""


def each_row(name: str, work: Callable[..., Any], rows: Iterable[Sequence[Any]]) -> tuple[list[Any], int]:
    """What `work` makes of each row's columns, and how many rows failed: None, and a line in the log, for each."""
    results: list[Any] = []
    failed = 0
    for row in rows:
        try:
            results.append(work(*row))
        except ConfigurationError:
            raise  # the run's fault, not the row's
        except ROW_FAILURES as error:
            logger.warning("%s: a row was left out: %s", name, error)
            results.append(None)
            failed += 1
    return results, failed


def log_share(log_metric: LogMetric | None, name: str, part: int, whole: int) -> None:
    """Log a share under `name` where there is a log, as in training but not in validation."""
    if log_metric is not None:
        log_metric(name, part / max(1, whole))


def bank_after(completion: str, turn: str, bank: str, recalled_ids: Sequence[int]) -> MemoryBank | None:
    """The bank that a manager's completion leaves; None for a completion that does not parse, which is no NOOP."""
    checked, after = apply_completion(completion, turn, bank, recalled_ids)
    return after if checked.failure is None else None
