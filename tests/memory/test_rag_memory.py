"""The RAG memory is bounded, and never gives more than it holds."""

from __future__ import annotations

import numpy as np
import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.memory.rag_memory import RagMemory
from tests.fakes import FakeEmbedder


class Line(FakeEmbedder):
    """Embeds a number as a point on a line, so that distances are plain."""

    dimension = 1

    def embed(self, texts):  # type: ignore[no-untyped-def]
        return np.array([[float(text)] for text in texts], dtype=np.float32)


def filled(capacity: int, *texts: str) -> RagMemory:
    memory = RagMemory(Line(), capacity)
    for text in texts:
        memory.add(text)
    return memory


def test_the_nearest_come_first_with_their_squared_distances() -> None:
    assert filled(9, "1", "5", "9").retrieve("4", 2) == [("5", 1.0), ("1", 9.0)]


@pytest.mark.parametrize("k", [4, 100])
def test_more_than_there_are_gives_each_once(k: int) -> None:
    """FAISS marks the missing places with -1, which as a Python index is the last text."""
    assert filled(9, "1", "5", "9").retrieve("4", k) == [("5", 1.0), ("1", 9.0), ("9", 25.0)]
    assert RagMemory(Line()).retrieve("4", k) == []
    assert filled(9, "1").retrieve("4", 0) == []


def test_one_more_than_the_capacity_pushes_the_oldest_out() -> None:
    memory = filled(2, "1", "5", "9")
    assert (memory.texts, len(memory)) == (("5", "9"), 2)
    assert memory.retrieve("1", 3) == [("5", 16.0), ("9", 64.0)]
    for text in ("13", "17", "21"):
        memory.add(text)
    assert memory.retrieve("0", 3) == [("17", 289.0), ("21", 441.0)]


def test_a_memory_without_room_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="capacity is 0: give the number of texts to keep, at least 1"):
        RagMemory(Line(), 0)
