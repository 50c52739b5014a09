"""A process that adds is killed at random moments: what it acknowledged is there, and no add is half applied."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.assistant.memories import scripted_memory, texts
from tests.fixtures.adding_process import PARTS

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("MEMORY_R1_KILLS", "3"))


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path) -> None:
    path, moments, acknowledged, first = tmp_path / "memory.db", random.Random(0), set[int](), 0
    for kill in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fixtures.adding_process", str(path), str(first)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        # Wait until it works and, on a machine however slow, for one add that is acknowledged.
        lines = [process.stdout.readline() for _ in range(1 if kill else 2)]
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
        acknowledged |= {int(line.split()[0]) for line in lines if line.endswith("done\n")}
        begun = max(int(line.split()[0]) for line in lines if line.endswith("begun\n"))
        first = begun + 1
        with scripted_memory(path) as memory:
            stored = texts(memory, "ann")
        parts = {number: [f"User add{number}{part} was said" for part in PARTS] for number in range(first)}
        whole = {number for number, said in parts.items() if set(said) <= set(stored)}
        assert acknowledged <= whole
        assert sorted(stored) == sorted(text for number in whole for text in parts[number])
        assert acknowledged
