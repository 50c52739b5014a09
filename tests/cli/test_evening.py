"""An evening's use of `memory-r1 chat` in tmux: ten things told, three changed, one taken back; then ten questions.

It needs trained adapters: those that come with the package, or `MEMORY_R1_EVENING="manager=FOLDER,answer=FOLDER"`. What
they write and answer is not tested. `MEMORY_R1_EVENING_TRANSCRIPT=FILE` keeps it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from memory_r1.assistant.stored import open_log
from memory_r1.packaged_adapters import has_packaged_pair

NAMED = os.environ.get("MEMORY_R1_EVENING", "")
TOLD = (
    "I moved to Oslo in March.",
    "I work as a nurse.",
    "My sister is called Greta.",
    "I have a dog named Bruno.",
    "I play the cello on Tuesdays.",
    "My favourite food is ramen.",
    "I am allergic to peanuts.",
    "I drive an old green Volvo.",
    "I am learning Portuguese.",
    "My birthday is on 4 July.",
)
CHANGED = (
    "I moved again, from Oslo to Bergen.",
    "I don't work as a nurse any more, I am a teacher now.",
    "My favourite food is no longer ramen, it is lasagne.",
)
TAKEN_BACK = "I no longer have the old green Volvo, I sold it."
ASKED = (
    "Where does Ann live?",
    "What is Ann's job?",
    "What is the name of Ann's sister?",
    "What is the name of Ann's dog?",
    "Which instrument does Ann play?",
    "What is Ann's favourite food?",
    "What is Ann allergic to?",
    "Which car does Ann drive?",
    "Which language is Ann learning?",
    "When is Ann's birthday?",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
    pytest.mark.skipif(not (NAMED or has_packaged_pair()), reason="needs trained adapters: set MEMORY_R1_EVENING"),
]


class Pane:
    """A terminal in tmux with a chat in it."""

    def __init__(self, server: str) -> None:
        self.server = server

    def tmux(self, *words: str) -> str:
        return subprocess.run(["tmux", "-L", self.server, *words], capture_output=True, text=True, check=True).stdout

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p", "-J", "-S", "-")

    def wait(self, pattern: str, seconds: float) -> str:
        end = time.monotonic() + seconds
        while not re.search(pattern, screen := self.screen().rstrip()):
            assert time.monotonic() < end, f"no {pattern!r} after {seconds} seconds:\n{screen}"
            time.sleep(0.2)
        return screen

    def say(self, line: str) -> list[str]:
        """Type a line; return what the chat shows until its next prompt."""
        self.tmux("send-keys", "-l", line)
        self.tmux("send-keys", "Enter")
        screen = self.wait(rf"(?s)\n> {re.escape(line)}\n.*\n>$", 240)
        return screen[screen.rindex(f"\n> {line}\n") :].strip().splitlines()[1:-1]


@contextmanager
def chat(store: Path) -> Iterator[Pane]:
    agents = [f"--{agent}={folder}" for agent, folder in (pair.split("=", 1) for pair in NAMED.split(",") if pair)]
    command = [sys.executable, "-m", "memory_r1", "chat", "--speaker", "Ann", "--store", str(store), *agents]
    pane = Pane(f"evening-{time.monotonic_ns()}")  # a name of its own: the server before may still be ending
    pane.tmux("new-session", "-d", "-x", "160", "-y", "50", f"{shlex.join(command)}; echo ended with $?; sleep 600")
    try:
        pane.wait(r"/help lists the commands\.\n>$", 600)
        yield pane
        pane.tmux("send-keys", "/quit", "Enter")
        pane.wait("ended with 0", 60)
    finally:
        pane.tmux("kill-server")


def test_an_evening(tmp_path: Path) -> None:
    store = tmp_path / "memory.db"
    transcript = [f"$ memory-r1 chat --speaker Ann --store {store.name}"]

    def say(pane: Pane, line: str) -> list[str]:
        shown = pane.say(line)
        transcript.extend([f"> {line}", *shown])
        return shown

    with chat(store) as pane:
        for line in (*TOLD, *CHANGED, TAKEN_BACK):
            assert re.match(r"[+~-] #\d+ |nothing to store", say(pane, line)[0])
        taken = say(pane, "/undo")
        assert re.match(r"[+~-] #\d+ ", taken[0]) or taken == ["error: nothing is left to undo"]
    transcript += ["> /quit", "", transcript[0]]
    with chat(store) as pane:
        memories = say(pane, "/memories")
        for question in ASKED:
            answer, *sources, seconds = say(pane, question)
            assert answer.strip() and sources and seconds.endswith("seconds")
    with closing(open_log(store)) as log:
        assert sum(record.turn is not None for record in log.records("me")) == len(TOLD) + len(CHANGED) + 1
        assert len(log.state("me").bank) == len(memories)
    if path := os.environ.get("MEMORY_R1_EVENING_TRANSCRIPT"):
        Path(path).write_text("\n".join(transcript) + "\n", encoding="utf-8")
