"""The command that opens the page."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from memory_r1.cli.inspect import inspect
from memory_r1.errors import StoreError
from tests.inspector.stores import write_store

# A shell that starts the tests in the background makes them ignore Ctrl-C, and their children too.
COMMAND = (
    "import signal, sys; from pathlib import Path; from memory_r1.cli.inspect import inspect; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); inspect(Path(sys.argv[1]), browser=False)"
)


def test_the_page_is_served_until_ctrl_c(tmp_path: Path) -> None:
    path = write_store(tmp_path / "memory.db", "lives in Rome")
    command = [sys.executable, "-c", COMMAND, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        try:
            address = re.fullmatch(r"memory\.db: (http://127\.0\.0\.1:\d+/[\w-]{20,}/)\n", running.stdout.readline())
            assert address, running.stderr.read()
            with urllib.request.urlopen(address[1], timeout=60) as page:
                assert b"<title>memory-r1 inspect</title>" in page.read()
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0 and running.stderr.read() == ""
        finally:
            running.kill()


def test_a_missing_store_is_one_line_and_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file; give the path of a memory store"):
        inspect(tmp_path / "memory.db", browser=False)
    assert not list(tmp_path.iterdir())
