"""Progress bars on a terminal, or lines in a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINES = 20


class _Lines(Progress):
    """Writes a line for every twentieth of a task instead of a bar."""

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        before = self.tasks[task_id].percentage
        super().advance(task_id, advance)
        task = self.tasks[task_id]
        if int(before * _LINES / 100) < int(task.percentage * _LINES / 100):
            left = "" if task.time_remaining is None else f", {task.time_remaining / 60:.1f} minutes left"
            self.console.print(f"{task.description} {task.completed:.0f}/{task.total:.0f}{left}", highlight=False)


@contextmanager
def progress_bars(shown: bool) -> Iterator[Progress]:
    """Show bars on standard error, with counts and the time left, if `shown`."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    if shown and not console.is_terminal:
        yield _Lines(console=console, disable=True)
        return
    with Progress(*columns, *left, console=console, disable=not shown) as progress:
        yield progress
