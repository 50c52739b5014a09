"""Evaluations of two small dialogues with a scripted model, shared by several tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.evaluation.records import RunInfo
from memory_r1.evaluation.runner import evaluate
from memory_r1.memory.forms import FORMS
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import MemorySystem
from memory_r1.systems.table import SYSTEMS, build_system
from memory_r1.systems.writer import Writer
from memory_r1.types import Dialogue, Question, Session, Turn
from tests.fakes import FakeEmbedder, FakeWeaver, KeepNewest, ScriptedLanguageModel

RUN = RunInfo(
    benchmark="dialogues",
    split="test",
    system="memory-r1",
    model="scripted",
    config={"recall_per_speaker": 2},
    category_names={"1": {"locomo": "multi-hop", "mem0": "single-hop"}},
)
TURNS, QUESTIONS = 8, 4


def session(number: int, *said: tuple[str, str]) -> Session:
    time = f"2023-05-0{number}T10:00:00"
    turns = (
        Turn(f"D{number}:{place}", speaker, text, f"s{number}", time)
        for place, (speaker, text) in enumerate(said, start=1)
    )
    return Session(f"s{number}", time, tuple(turns))


def dialogues() -> list[Dialogue]:
    return [
        Dialogue(
            "a",
            ("Ann", "Ben"),
            (
                session(1, ("Ann", "lives in Rome"), ("Ben", "owns two dogs"), ("Ann", "hm")),
                session(2, ("Ann", "lives in Oslo"), ("Ben", "noise"), ("Ben", "ghost")),
            ),
            (
                Question("q1", "Where does Ann lives in?", "Ann lives in Oslo", "1", ("D1:1", "D2:1")),
                Question("q2", "Who owns two dogs?", "Ben owns two dogs", "2", ("D1:2",), "2023-06-01T00:00:00"),
                Question("q3", "Who flew to the moon?", "unknown", "2"),
            ),
        ),
        Dialogue(
            "c",
            ("Cleo", "Dan"),
            (session(1, ("Cleo", "paints boats")), session(2, ("Dan", "plays chess"))),
            (Question("q1", "Who plays chess?", "Dan plays chess", "1", ("D2:1",)),),
        ),
    ]


def run_it(
    folder: Path, model: ScriptedLanguageModel | None = None, system: MemorySystem | None = None, **options: Any
) -> dict[str, Any]:
    model = model or ScriptedLanguageModel()
    arguments = {"run": RUN, "batch_size": 2, "progress": False, **options}
    played = arguments.pop("dialogues", dialogues())
    return evaluate(system or build("memory-r1", model), AnswerAgent(model), played, folder, **arguments)


def build(name: str, model: ScriptedLanguageModel) -> MemorySystem:
    retriever = Retriever(FakeEmbedder())
    manager = MemoryManager(model, retriever, recall_per_speaker=1, form=FORMS[SYSTEMS[name].operations])
    return build_system(
        name,
        retriever=retriever,
        manager=manager,
        writer=Writer(model),
        weaver=FakeWeaver(),
        recall_per_speaker=2,
        count_tokens=model.count_tokens,
        slot_policy=KeepNewest(),
    )


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def comparable(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without times, the revision and the batch size."""
    cost = {name: value for name, value in results["cost"].items() if "seconds" not in name}
    config = {name: value for name, value in results["config"].items() if name != "batch_size"}
    return {**results, "cost": cost, "config": config, "git_revision": None}
