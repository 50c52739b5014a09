"""Store files for the inspector's tests, written by the scripted agents of `tests/fakes.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.inspector.server import InspectorServer
from memory_r1.inspector.store import Inspected
from memory_r1.memory.record import Event, Record
from memory_r1.memory.retriever import Retriever
from memory_r1.memory.sqlite_log import SqliteLog
from memory_r1.systems.manager import ManagedMemory
from memory_r1.systems.state import ScopeState
from memory_r1.types import Turn
from tests.fakes import ScriptedLanguageModel

# As markup, this would load an image and rename the page.
HOSTILE = """</script><img src=x onerror="document.title='owned'"><script>document.title='owned'</script>"""
SAID = ("lives in Rome", "hm", "lives in Oslo", "noise", "ghost", "has a cat", f"keeps {HOSTILE}", "never mind")
"""One turn each: adds 1, nothing, updates 1, not understood, refused, adds 2, adds 3, deletes an entry."""


def open_system(path: Path) -> ManagedMemory:
    retriever = Retriever(None, "bm25")
    manager = MemoryManager(ScriptedLanguageModel(), retriever, recall_per_speaker=5)
    system = ManagedMemory(manager, retriever, recall_per_speaker=5)
    system.load(path, create=True)
    return system


def turns(*texts: str, speaker: str = "Ann") -> list[Turn]:
    return [
        Turn(f"s1:{n}", speaker, text, "s1", f"2023-05-08T{n // 60:02}:{n % 60:02}:00")
        for n, text in enumerate(texts, start=1)
    ]


def write_store(path: Path, *texts: str, scope: str = "ann") -> Path:
    """Let the system read one turn for each text."""
    system = open_system(path)
    for turn in turns(*texts):
        system.observe(turn, scope)
    system.log.close()
    return path


def write_long_store(path: Path, records: int) -> Path:
    """Add an entry in every record, and update it in every tenth."""
    with SqliteLog(path, ScopeState(), system="rag") as log:
        log.extend(
            "long",
            (_record(number, Turn(f"t{number}", "Ann", f"I own lamp{number}")) for number in range(1, records + 1)),
        )
    return path


def _record(number: int, turn: Turn) -> Record:
    kind, item = ("UPDATE", number - 1) if number % 10 == 0 else ("ADD", number)
    version = {"text": turn.text, "speaker": turn.speaker, "timestamp": "", "turn_ids": [turn.turn_id]}
    return Record(turn, (Event(kind, item, version, number=number),))


def answer_agent() -> AnswerAgent:
    return AnswerAgent(ScriptedLanguageModel())


@contextmanager
def serving(store: Inspected) -> Iterator[InspectorServer]:
    """Serve the page of a memory in a thread."""
    with InspectorServer(store) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
