from __future__ import annotations

import os
import platform
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pytest

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError


def failing(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(arguments: Sequence[str]) -> int:
        raise error

    return main


def test_the_status_is_what_main_returns_and_nothing_is_success() -> None:
    assert run_main(lambda arguments: 3, []) == 3
    assert run_main(lambda arguments: None, []) == 0


def test_main_gets_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--limit", "2"])
    seen: list[str] = []
    run_main(seen.extend)
    run_main(seen.extend, ["given"])
    assert seen == ["--limit", "2", "given"]


def test_an_error_made_on_purpose_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(failing(ConfigurationError("limit is \x1b[2J0:\n  give 1")), []) == 1
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == ("error: limit is [2J0: give 1\n", "")


def test_debug_shows_where_it_happened() -> None:
    with pytest.raises(ConfigurationError):
        run_main(failing(ConfigurationError("limit is 0")), ["--debug"])


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_main(failing(ZeroDivisionError()), [])


def test_an_interrupt_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(failing(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_environment_is_set_before_main_and_the_users_own_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    seen: dict[str, str] = {}
    run_main(lambda arguments: seen.update(os.environ), [])
    assert (seen["HF_HUB_DISABLE_TELEMETRY"], seen["TOKENIZERS_PARALLELISM"]) == ("1", "true")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_memory_that_was_freed_is_used_again() -> None:
    script = (
        "import resource, sys\n"
        "from memory_r1.entry import run_main\n"
        "def faults(arguments):\n"
        "    for _ in range(3):\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        bytearray(64 * 2**20)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        "sys.exit(run_main(faults, []))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # 64 MiB mapped anew are 16,384 pages


WATCHED = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup, or in the background, would hand on what they ignore
signal.signal(signal.SIGINT, signal.default_int_handler)
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
def main(arguments):
{body}
sys.exit(run_main(main, ["--config", "some/recipe.yaml", *sys.argv[1:]], lower="per_device_train_batch_size"))
"""
SLEEP = "    print(os.getpid(), flush=True)\n    time.sleep(60)"
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a command runs in the process it was started in")


def watched(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = WATCHED.format(body=f"    {body}")
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def sleeping() -> tuple[subprocess.Popen[str], int]:
    """Start a watched command that sleeps; return it and the process of its `main`."""
    started = subprocess.Popen(
        [sys.executable, "-c", WATCHED.format(body=SLEEP)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    return started, int(started.stdout.readline())


def assert_gone(process: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"{process} still runs")


@linux
def test_a_training_that_is_killed_says_what_to_lower() -> None:
    done = watched("block = bytearray(os.urandom(1)) * 300_000_000; os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + 9
    assert re.fullmatch(r"error: some/recipe.yaml: .*SIGKILL.* 0\.3 GB.*\n", done.stderr), done.stderr
    assert "per_device_train_batch_size" in done.stderr and "--dry-run" in done.stderr


@linux
def test_a_crash_is_not_taken_for_want_of_memory() -> None:
    done = watched("os.kill(os.getpid(), 11)")
    assert done.returncode == 128 + 11
    assert "SIGSEGV" in done.stderr and "per_device_train_batch_size" not in done.stderr


def test_a_watched_command_ends_as_it_would_by_itself() -> None:
    assert watched("print('once', end=''); return 3").stdout == "once"
    assert watched("return 3").returncode == 3
    done = watched("raise ConfigurationError('limit is 0')")
    assert (done.returncode, done.stderr) == (1, "error: limit is 0\n")
    assert "Traceback" in watched("raise ConfigurationError('limit is 0')", "--debug").stderr


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_training_too(number: signal.Signals) -> None:
    started, process = sleeping()
    assert process != started.pid
    started.send_signal(number)
    _, said = started.communicate(timeout=20)
    assert started.returncode == 128 + number
    assert said == "interrupted\n" if number == signal.SIGINT else number.name in said
    assert_gone(process)


@linux
def test_no_training_outlives_the_process_that_watches_it() -> None:
    started, process = sleeping()
    started.kill()
    started.communicate(timeout=20)
    assert_gone(process)


@linux
def test_ctrl_c_interrupts_once() -> None:
    # A terminal sends it to both processes.
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-c", WATCHED.format(body=SLEEP)])
    said = b""
    while b"\n" not in said:
        said += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    try:
        while more := os.read(terminal, 1024):
            said += more
    except OSError:  # how Linux reports that the other side is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    assert said.count(b"interrupted") == 1 and b"Traceback" not in said
