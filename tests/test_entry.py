from __future__ import annotations

import os
import platform
import subprocess
import sys
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
    assert run_main(failing(ConfigurationError("limit is 0:\n  give 1")), []) == 1
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == ("error: limit is 0: give 1\n", "")


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
