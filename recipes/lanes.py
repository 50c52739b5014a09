"""Commands of a recipe side by side, each when those that it needs have ended.

A small model cannot keep two cores busy: two processes of one thread each do nearly twice the work of one with two
threads, and the same work, bit by bit. Each command's output goes to a log of its own; the terminal shows the newest
line of each log, which is a progress bar on everything long.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from memory_r1.errors import TrainingError

POLL_SECONDS = 0.2
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Task:
    """A Python command that waits for others.

    Attributes:
        name: Unique among the tasks; its log is `<name>.log`.
        command: Arguments of Python, asked for when the command starts: they may depend on what came before.
        after: Names of the tasks whose results it reads. A name that is no task counts as ended.
    """

    name: str
    command: Callable[[], Sequence[str]]
    after: tuple[str, ...] = ()


@dataclass
class Running:
    """A task's process and the log it writes."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def newest_line(log: Path) -> str:
    """The newest line of a log, or the newest state of a bar that redraws itself."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()  # at carriage returns too
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run_tasks(
    tasks: Sequence[Task],
    logs: Path,
    console: Console,
    ended: Callable[[str, float], None] = lambda name, seconds: None,
    lanes: int | None = None,
) -> None:
    """Run all tasks, earlier ones first, as many at a time as there are lanes.

    Args:
        tasks: In order of preference.
        logs: Folder of the logs.
        console: Shows which tasks run, and when each ended.
        ended: Called with a task's name and its seconds as soon as it has ended well.
        lanes: Processes at a time, which share the cores; None: two where there are two cores. A process that runs
            alone has all of them, and `OMP_NUM_THREADS` is obeyed where it is set.

    Raises:
        TrainingError: A task failed, as the message says with the last line of its log; the others are stopped.
        ValueError: Tasks wait for each other.
    """
    cores = os.cpu_count() or 1
    lanes = lanes or min(2, cores)
    logs.mkdir(parents=True, exist_ok=True)
    waiting = {task.name: task for task in tasks}
    running: dict[str, Running] = {}
    with Live(console=console, transient=True, auto_refresh=False) as live:
        try:
            while waiting or running:
                ready = [task for task in waiting.values() if not {*task.after} & {*waiting, *running}]
                ready = ready[: lanes - len(running)]
                if not ready and not running:
                    raise ValueError(f"these tasks wait for each other: {', '.join(waiting)}")
                alone = len(ready) + len(running) == 1
                for task in ready:
                    console.print(f"{task.name}: started", highlight=False)
                    running[task.name] = start(task, logs, None if alone else max(1, cores // lanes))
                    del waiting[task.name]
                for name in [name for name, one in running.items() if one.process.poll() is not None]:
                    _finish(name, running.pop(name), console, ended)
                live.update(_shown(running), refresh=True)
                time.sleep(POLL_SECONDS)
        finally:
            for one in running.values():
                one.process.terminate()
            for one in running.values():
                one.process.wait()


def add_lanes(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how many commands run at a time."""
    parser.add_argument(
        "--lanes",
        type=int,
        choices=range(1, 17),
        metavar="N",
        help="commands run at a time, sharing the cores (default: two where there are two cores)",
    )


def start(task: Task, logs: Path, threads: int | None) -> Running:
    """Start a task's process, which writes to its log and computes with `threads` threads (None: PyTorch's choice)."""
    log = logs / f"{task.name.replace(' ', '-')}.log"
    environment = {**({"OMP_NUM_THREADS": str(threads)} if threads else {}), **os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        command = [sys.executable, *task.command()]
        return Running(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment), log)


def _finish(name: str, one: Running, console: Console, ended: Callable[[str, float], None]) -> None:
    if status := one.process.returncode:
        raise TrainingError(
            f"'{name}' ended with status {status}: {newest_line(one.log)} (all of its output: {one.log})"
        )
    console.print(f"{name}: {one.seconds / 60:.1f} minutes", highlight=False)
    ended(name, one.seconds)


def _shown(running: dict[str, Running]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for name, one in running.items():
        table.add_row(name, f"{one.seconds:4.0f} s", newest_line(one.log))
    return table
