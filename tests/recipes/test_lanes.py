"""Commands side by side: who waits for whom, what each computes with, and what happens when one fails."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from memory_r1.errors import TrainingError
from recipes import lanes
from recipes.lanes import Running, Task, run_tasks

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
    real = lanes.start

    def start(task: Task, logs: Path, threads: int | None) -> Running:
        running.add(task.name)
        seen.append(len(running))
        return real(task, logs, threads)

    monkeypatch.setattr(lanes, "start", start)
    tasks = [Task(name, python("import time; time.sleep(0.2)")) for name in "abc"]
    run_tasks(tasks, tmp_path, QUIET, lambda name, seconds: running.discard(name), lanes=count)
    assert max(seen) == count


def test_tasks_side_by_side_share_the_cores_and_one_alone_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    say = python("import os; print(os.environ.get('OMP_NUM_THREADS'))")
    run_tasks([Task("a", say), Task("b", say), Task("c d", say, ("a", "b"))], tmp_path, QUIET)
    assert [(tmp_path / f"{name}.log").read_text().strip() for name in ("a", "b", "c-d")] == ["3", "3", "None"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run_tasks([Task("a", say), Task("b", say)], tmp_path, QUIET)
    assert (tmp_path / "a.log").read_text().strip() == "5"


def test_a_failure_stops_the_others_and_says_its_last_line_and_log(tmp_path: Path) -> None:
    slow = python("import time; time.sleep(60)")
    fails = python("import sys; print('warming up'); sys.exit('error: no such file')")
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"^'bad' ended with status 1: error: no such file .*bad\.log\)$"):
        run_tasks(
            [Task("slow", slow), Task("bad", fails), Task("never", touch(tmp_path / "x"), ("bad",))], tmp_path, QUIET
        )
    assert time.monotonic() - started < 30
    assert not (tmp_path / "x").exists()


def test_the_newest_state_of_a_bar_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"loading\n" + b"x" * 10_000 + b"\rstep 1/3\rstep 2/3\r \n\n")
    assert lanes.newest_line(log) == "step 2/3"
    log.write_bytes(b"")
    assert lanes.newest_line(log) == ""


def test_tasks_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    tasks = [Task("a", python("pass"), ("b",)), Task("b", python("pass"), ("a",))]
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        run_tasks(tasks, tmp_path, QUIET)
