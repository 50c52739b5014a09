"""`memory-r1 chat`: from a pipe, and in a terminal with Ctrl-C and Ctrl-D."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memory_r1.assistant import memory as library
from memory_r1.cli.app import app
from tests.assistant.memories import scripted_agents

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, str(ROOT / "tests" / "fixtures" / "chatting_process.py"), "chat"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "load_agents", lambda *_, **__: scripted_agents())


def chat(store: Path, *lines: str) -> list[str]:
    """Return the lines of a chat from a pipe, without the first."""
    arguments = ["chat", "--speaker", "Ann", "--store", str(store), "--manager", "base", "--answer", "base"]
    done = CliRunner().invoke(app, arguments, input="".join(f"{line}\n" for line in lines), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()[1:]


def test_a_chat_from_a_pipe_reads_like_one(tmp_path: Path) -> None:
    store = tmp_path / "memory.db"
    told = chat(store, "lives in [red]Rome", "lives in Oslo", "hm", "", "ghost", "/nonsense", "eats figs", "never mind")
    assert told[:6] == [
        "> lives in [red]Rome",
        "+ #1 Ann lives in [red]Rome",
        "> lives in Oslo",
        "~ #1 Ann lives in [red]Rome -> Ann lives in Oslo",
        "> hm",
        "nothing to store",
    ]
    assert told[6:9] == ["> ", "> ghost", "nothing to store"]
    assert told[9].startswith("! refused (unknown_id)")
    assert told[10] == "> /nonsense" and any(line.startswith("  /history NUMBER") for line in told)
    assert told[-3:] == ["+ #2 Ann eats figs", "> never mind", "- #2 Ann eats figs"]

    day = r"  \d{4}-\d\d-\d\d"
    asked = chat(store, "Where does she live?", "/ask her town", "/search town", "/history #1", "/undo", "/memories")
    oslo = rf"#1 Ann lives in Oslo{day}"
    expected = [
        r"> Where does she live\?",
        "Ann lives in Oslo",
        f"  from {oslo}",
        "> /ask her town",
        "Ann lives in Oslo",
        f"  from {oslo}",
        "> /search town",
        rf"{oslo}  -?\d\.\d\d",
        "> /history #1",
        r"\S{16} ADD    Ann lives in \[red\]Rome  because Ann said: lives in \[red\]Rome",
        r"\S{16} UPDATE Ann lives in \[red\]Rome -> Ann lives in Oslo  because Ann said: lives in Oslo",
        "> /undo",
        r"\+ #2 Ann eats figs",
        "> /memories",
        oslo,
        rf"#2 Ann eats figs{day}",
    ]
    assert len(asked) == len(expected)
    assert [line for line, pattern in zip(asked, expected, strict=True) if not re.fullmatch(pattern, line)] == []


def test_an_error_ends_its_line_alone(tmp_path: Path) -> None:
    told = chat(tmp_path / "memory.db", "/history 7", "/undo", "/ask", "/forget", "eats figs", "/forget 1", "/memories")
    assert told[1] == "error: me has no memory #7: memory-r1 list shows the numbers"
    assert told[3] == "error: nothing is left to undo"
    assert told[5] == "error: nothing is asked: write /ask QUESTION"
    assert told[7].startswith("error: no memory is called ''")
    assert told[8:] == ["> eats figs", "+ #1 Ann eats figs", "> /forget 1", "erased for good", "> /memories"]


def test_a_pipe_in_another_encoding_stops_nothing(tmp_path: Path) -> None:
    arguments = ["chat", "--store", str(tmp_path / "memory.db"), "--manager", "base", "--answer", "base"]
    told = CliRunner().invoke(app, arguments, input=b"visits a caf\xe9\x1b[2J\n", catch_exceptions=False).stdout
    assert "+ #1 User visits a caf\ufffd" in told and "\x1b" not in told


def test_question_marks_of_other_scripts_ask_too(tmp_path: Path) -> None:
    told = chat(tmp_path / "memory.db", "eats figs", "\u5979\u5403\u4ec0\u4e48\uff1f", "\u0645\u0627\u0630\u0627\u061f")
    assert [line for line in told if line.startswith("Ann eats figs")] == ["Ann eats figs"] * 2


def test_a_number_names_its_memory_in_later_chats_too(tmp_path: Path) -> None:
    chat(tmp_path / "memory.db", "eats figs", "never mind")
    told = chat(tmp_path / "memory.db", "/history 1", "/forget #1", "/history 1")
    assert "ADD    Ann eats figs  because Ann said: eats figs" in told[1] and "DELETE Ann eats figs" in told[2]
    assert told[4] == "erased for good" and not any("figs" in line for line in told[5:])


class Terminal:
    """A chat in a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self.screen = screen

    def type(self, text: str, until: str) -> str:
        """Type and return what the terminal shows until a pattern."""
        os.write(self.screen, text.encode())
        shown, end = "", time.monotonic() + 60
        while not re.search(until, shown):
            assert time.monotonic() < end, f"no {until!r} in {shown!r}"
            if select.select([self.screen], [], [], 1)[0]:
                shown += os.read(self.screen, 4096).decode()
        return shown


@contextmanager
def terminal(store: Path) -> Iterator[Terminal]:
    screen, inside = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "--store", store],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
    ) as process:
        os.close(inside)
        try:
            yield Terminal(process, screen)
        finally:
            process.send_signal(signal.SIGKILL)
            os.close(screen)


def test_ctrl_c_stops_the_model_and_ctrl_d_leaves(tmp_path: Path) -> None:
    store = tmp_path / "memory.db"
    with terminal(store) as chatting:
        assert f"in {store}" in chatting.type("", "> $")
        assert "+ #1 User eats figs" in chatting.type("eats figs\n", "figs\x1b.*\n(.|\n)*> $")
        assert "seconds" in chatting.type("What?\n", "seconds(.|\n)*> $")
        chatting.type("slow\n", "working")
        assert "interrupted" in chatting.type("\x03", "interrupted(.|\n)*> $")
        assert "slow" not in chatting.type("/memories\n", r"\d{4}-\d\d-\d\d(.|\n)*> $")
        os.write(chatting.screen, b"\x04")
        assert chatting.process.wait(30) == 0
    with terminal(store) as chatting:
        assert "1 memories" in chatting.type("", "> $")
        time.sleep(1)  # readline misses a Ctrl-C between its prompt and its first read
        chatting.type("\x03", "interrupted")
        assert chatting.process.wait(30) == 130
