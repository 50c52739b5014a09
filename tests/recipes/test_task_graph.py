"""Concurrent commands: their order, their threads, and failures."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from memory_r1.errors import TrainingError
from recipes import task_graph
from recipes.task_graph import Running, Task, run_tasks
from tests.fake_runs import FakeProcess

QUIET = Console(quiet=True)


def python(code: str) -> partial[list[str]]:
    return partial(list, ["-c", code])


def touch(path: Path, *, needs: Path | None = None) -> partial[list[str]]:
    check = f"assert pathlib.Path({str(needs)!r}).exists(); " if needs else ""
    return python(f"import pathlib; {check}pathlib.Path({str(path)!r}).touch()")


def test_a_task_starts_when_what_it_needs_has_ended(tmp_path: Path) -> None:
    ended: dict[str, float] = {}
    tasks = [
        Task("last", touch(tmp_path / "c", needs=tmp_path / "b"), ("middle", "ended in an earlier launch")),
        Task("middle", touch(tmp_path / "b", needs=tmp_path / "a"), ("first",)),
        Task("first", python(f"import pathlib, time; time.sleep(0.3); pathlib.Path({str(tmp_path / 'a')!r}).touch()")),
    ]
    run_tasks(tasks, tmp_path / "logs", QUIET, ended.__setitem__)
    assert list(ended) == ["first", "middle", "last"]
    assert ended["first"] >= 0.3
    assert (tmp_path / "c").exists()


def test_a_command_is_asked_for_when_its_task_starts(tmp_path: Path) -> None:
    made = tmp_path / "made"

    def command() -> list[str]:
        assert made.exists()
        return ["-c", "pass"]

    run_tasks([Task("reads", command, ("writes",)), Task("writes", touch(made))], tmp_path, QUIET)


@pytest.mark.parametrize("count", [1, 2])
def test_only_so_many_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    running: set[str] = set()
    seen: list[int] = []
    real = task_graph.start

    def start(task: Task, logs: Path) -> Running:
        running.add(task.name)
        seen.append(len(running))
        return real(task, logs)

    monkeypatch.setattr(task_graph, "start", start)
    tasks = [Task(name, python("import time; time.sleep(0.2)")) for name in "abc"]
    run_tasks(tasks, tmp_path, QUIET, lambda name, seconds: running.discard(name), jobs=count)
    assert max(seen) == count


# Starts a child process and waits for it, like the launcher of a training run.
LAUNCHER = """
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({path!r}).write_text(str(child.pid))
child.wait()
"""


def is_running(pid: int) -> bool:
    """Return whether it survives a kill, which takes a moment on a busy machine."""
    for _ in range(100):
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.05)
    return True


def test_a_failure_stops_the_others_with_all_they_started_and_says_its_last_line_and_log(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    launcher = python(LAUNCHER.format(path=str(pid)))
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.05)\n"
    fails = python(f"{wait}time.sleep(0.2); import sys; print('warming up'); sys.exit('error: no such file')")
    tasks = [Task("slow", launcher), Task("bad", fails), Task("never", touch(tmp_path / "x"), ("bad",))]
    with pytest.raises(TrainingError, match=r"^'bad' ended with status 1: error: no such file .*bad\.log\)$"):
        run_tasks(tasks, tmp_path, QUIET)
    assert not is_running(int(pid.read_text()))
    assert not (tmp_path / "x").exists()


def test_a_polite_signal_stops_every_command(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def kill() -> list[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return ["-c", "pass"]

    before = signal.getsignal(signal.SIGTERM)
    tasks = [
        Task("slow", python(LAUNCHER.format(path=str(pid)))),
        Task(
            "waits", python(f"import pathlib, time\nwhile not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.05)\n")
        ),
        Task("kills", kill, ("waits",)),
    ]
    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks, tmp_path, QUIET)
    assert not is_running(int(pid.read_text()))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_killed_parent_takes_every_command_along(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"""
import pathlib
from rich.console import Console
from recipes.task_graph import Task, run_tasks
task = Task("slow", lambda: ["-c", {LAUNCHER.format(path=str(pid))!r}])
run_tasks([task], pathlib.Path({str(tmp_path)!r}), Console())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    started = int(pid.read_text())
    try:
        assert not is_running(started)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(os.getpgid(started), signal.SIGKILL)


def test_what_ended_well_beside_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        task_graph, "start", lambda task, logs: Running(FakeProcess(task.name == "bad"), tmp_path / "log")
    )
    (tmp_path / "log").write_text("")
    told: list[str] = []
    with pytest.raises(TrainingError, match="'bad' ended"):
        run_tasks([Task("bad", list), Task("good", list)], tmp_path, QUIET, lambda name, _: told.append(name), jobs=2)
    assert told == ["good"]


def test_the_newest_state_of_a_bar_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"loading\n" + b"x" * 10_000 + b"\rstep 1/3\rstep 2/3\r \n\n")
    assert task_graph.newest_line(log) == "step 2/3"
    log.write_bytes(b"turns 3/4\n\x1b[A\x1b[2K")
    assert task_graph.newest_line(log) == "turns 3/4"
    log.write_bytes(b"")
    assert task_graph.newest_line(log) == ""


def test_a_log_is_shown_as_it_is(tmp_path: Path) -> None:
    code = "import time; print('[rank0]: [/INST]', flush=True); time.sleep(0.5)"
    shown = io.StringIO()
    run_tasks([Task("prints", python(code))], tmp_path, Console(file=shown, force_terminal=True, width=80))
    assert "[rank0]: [/INST]" in shown.getvalue()


def test_tasks_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    tasks = [Task("a", python("pass"), ("b",)), Task("b", python("pass"), ("a",))]
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        run_tasks(tasks, tmp_path, QUIET)
