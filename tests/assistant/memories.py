"""Memories with a scripted model, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memory_r1 import Memory
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.assistant.loading import Agents
from memory_r1.inference.language_model import LanguageModel
from memory_r1.memory.retriever import Retriever
from tests.fakes import FakeEmbedder, ScriptedLanguageModel


def scripted_agents(model: LanguageModel | None = None) -> Agents:
    model = model or ScriptedLanguageModel()
    return Agents(MemoryManager(model, Retriever(FakeEmbedder())), AnswerAgent(model), 5)


def scripted_memory(store: Path | str = ":memory:", model: LanguageModel | None = None, **options: Any) -> Memory:
    """Open a memory whose agents follow `keeping_script`, or another model."""
    return Memory(store, agents=scripted_agents(model), **options)


def texts(memory: Memory, user_id: str) -> list[str]:
    return [item["memory"] for item in memory.get_all(user_id=user_id)["results"]]
