"""A graph of commands, run side by side: each starts when those that it needs have ended.

A small model cannot keep two cores busy: an earlier demo took 13.8 minutes with two commands at a time and 19.3 with
one, and its adapters were the same bit by bit. Each command's output goes to a log of its own; the terminal shows the
newest line of each log, which is a progress bar on everything long.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from memory_r1.errors import TrainingError

POLL_SECONDS = 0.2
GRACE_SECONDS = 10
_TAIL_BYTES = 4096
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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


def run_tasks(
    tasks: Sequence[Task],
    logs: Path,
    console: Console,
    ended: Callable[[str, float], None] = lambda name, seconds: None,
    jobs: int | None = None,
) -> None:
    """Run all tasks, earlier ones first, as many at a time as `jobs` says.

    Args:
        tasks: In order of preference.
        logs: Folder of the logs.
        console: Shows which tasks run, and when each ended.
        ended: Called with a task's name and its seconds as soon as it has ended well.
        jobs: Commands at a time, which share the cores; None: two where there are two cores.

    Raises:
        TrainingError: A task failed, as the message says with the last line of its log; the others are stopped.
        ValueError: Tasks wait for each other.
    """
    jobs = jobs or min(2, os.cpu_count() or 1)
    logs.mkdir(parents=True, exist_ok=True)
    waiting = {task.name: task for task in tasks}
    running: dict[str, Running] = {}
    with (
        _interrupted_when_killed(),
        _guarded() as guard,
        Live(console=console, transient=True, auto_refresh=False) as live,
    ):
        try:
            while waiting or running:
                ready = [task for task in waiting.values() if not {*task.after} & {*waiting, *running}]
                if not ready and not running:
                    raise ValueError(f"these tasks wait for each other: {', '.join(waiting)}")
                for task in ready[: jobs - len(running)]:
                    console.print(f"{task.name}: started", highlight=False)
                    running[task.name] = start(task, logs)
                    del waiting[task.name]
                    guard(running.values())
                _collect(running, console, ended)
                guard(running.values())
                live.update(_shown(running), refresh=True)
                time.sleep(POLL_SECONDS)
        finally:
            _stop(running.values())


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how many commands run at a time."""
    parser.add_argument(
        "--jobs",
        type=int,
        choices=range(1, 17),
        metavar="N",
        help="commands run at a time, sharing the cores (default: two where there are two cores)",
    )


def start(task: Task, logs: Path) -> Running:
    """Start a task's process, with those it starts itself in a session of their own, and send its output to its log."""
    log = logs / f"{task.name.replace(' ', '-')}.log"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *task.command()],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return Running(process, log)


def newest_line(log: Path) -> str:
    """The newest line of a log, or the newest state of a bar that redraws itself, without what moves a cursor."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = _CONTROL.sub("", file.read().decode(errors="replace"))
    lines = text.splitlines()  # at carriage returns too
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def _interrupted_when_killed() -> Iterator[None]:
    """Take the polite signals to end for Ctrl-C, so that commands in sessions of their own are stopped too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextmanager
def _guarded() -> Iterator[Callable[[Collection[Running]], None]]:
    """Have the commands last told killed, with all they have started, if this process is killed.

    The kernel can end a process with its parent, but not those that a launcher has started. So a shell waits for this
    process's end of a pipe to close.
    """
    script = "while read -r line; do groups=$line; done; kill -s KILL -- $groups"
    guard = subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    told = ""

    def tell(running: Collection[Running]) -> None:
        nonlocal told
        groups = " ".join(f"-{one.process.pid}" for one in running)
        if groups != told:
            told = groups
            print(groups, file=guard.stdin, flush=True)

    try:
        yield tell
    finally:
        guard.kill()
        guard.wait()


def _collect(running: dict[str, Running], console: Console, ended: Callable[[str, float], None]) -> None:
    """Take out what has ended; what ended well is told before a failure is raised."""
    over = {name: one for name, one in running.items() if one.process.poll() is not None}
    for name, one in sorted(over.items(), key=lambda item: item[1].process.returncode != 0):
        del running[name]
        if status := one.process.returncode:
            line = newest_line(one.log)
            raise TrainingError(f"'{name}' ended with status {status}: {line} (all of its output: {one.log})")
        console.print(f"{name}: {one.seconds / 60:.1f} minutes", highlight=False)
        ended(name, one.seconds)


def _stop(running: Collection[Running]) -> None:
    """End processes and all that they have started; those that do not obey are killed."""
    for one in running:
        _signal(one, signal.SIGTERM)
    for one in running:
        with suppress(subprocess.TimeoutExpired):
            one.process.wait(GRACE_SECONDS)
        _signal(one, signal.SIGKILL)
        one.process.wait()


def _signal(one: Running, number: int) -> None:
    with suppress(ProcessLookupError):  # all of the session has ended
        os.killpg(one.process.pid, number)


def _shown(running: dict[str, Running]) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True)
    for name, one in running.items():
        table.add_row(name, f"{one.seconds:4.0f} s", Text(newest_line(one.log)))  # a log's brackets are no markup
    return table
