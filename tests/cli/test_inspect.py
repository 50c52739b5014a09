"""The command that opens the page."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memory_r1.assistant.loading import Agents
from memory_r1.cli.inspect import inspect
from memory_r1.errors import StoreError
from memory_r1.inference.language_model import Messages
from memory_r1.inspector.store import StoreFile
from tests.assistant.memories import scripted_agents
from tests.fakes import ScriptedLanguageModel, keeping_script
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


def test_named_agents_answer_from_the_memories_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_store(tmp_path / "memory.db", "lives in Rome")
    written, shown = path.read_bytes(), list[StoreFile]()
    monkeypatch.setattr("memory_r1.inspector.server.inspect", lambda opened, **_: shown.append(answers(opened)))
    monkeypatch.setattr("memory_r1.assistant.loading.load_agents", lambda *_: scripted_agents())

    def answers(opened: StoreFile) -> StoreFile:
        assert opened.answer is not None
        (scope,) = opened.scopes()
        said = opened.answer("Where does she live?", scope)
        assert [entry.text for entry in said.recalled] == [entry.text for entry in opened.state(scope).bank.entries()]
        assert said.recalled and {*said.distilled} <= {entry.entry_id for entry in said.recalled}
        return opened

    inspect(path, manager="base", answer="base")
    assert shown and path.read_bytes() == written
    monkeypatch.setattr("memory_r1.inspector.server.inspect", lambda opened, **_: shown.append(opened))
    monkeypatch.setattr("memory_r1.packaged_adapters.has_packaged_pair", lambda: False)
    inspect(path)
    assert shown[-1].answer is None


def test_questions_at_the_same_time_share_one_model_and_what_fits_its_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_store(tmp_path / "memory.db", *(f"owns{n} {'a red lamp ' * 9}" for n in range(9)))
    loaded, answering = list[int](), list[int]()

    def slowly(prompt: Messages, adapter: str | None) -> str:
        answering.append(1)
        time.sleep(0.05)
        assert len(answering) == 1, "two threads used the model at once"
        answering.pop()
        return keeping_script(prompt, adapter)

    model = ScriptedLanguageModel(slowly, window=150)

    def load(*_: object) -> Agents:
        loaded.append(1)
        time.sleep(0.05)
        return scripted_agents(model)

    def ask_three_times(opened: StoreFile, **_: object) -> None:
        assert opened.answer is not None
        with ThreadPoolExecutor(3) as pool:
            said = list(pool.map(opened.answer, ["Which lamp?", "What does Ann own?", "Whose?"], ["ann"] * 3))
        assert all(0 < len(each.recalled) < 5 for each in said)

    monkeypatch.setattr("memory_r1.assistant.loading.load_agents", load)
    monkeypatch.setattr("memory_r1.inspector.server.inspect", ask_three_times)
    inspect(path, manager="base", answer="base")
    assert len(loaded) == 1
    assert all(re.search(r"Question \[\w+ \d+ \w+ \d{4}\]: ", prompt) for prompt in model.prompts)  # as `ask` asks


def test_without_a_file_the_memory_of_the_other_commands_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = list[Path]()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("memory_r1.inspector.server.inspect", lambda opened, **_: shown.append(opened.path))
    (tmp_path / "memory_r1").mkdir()
    path = write_store(tmp_path / "memory_r1" / "memory.db", "lives in Rome")
    inspect()
    assert shown == [path]


def test_a_missing_store_is_one_line_and_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file; give the path of a memory store"):
        inspect(tmp_path / "memory.db", browser=False)
    assert not list(tmp_path.iterdir())
