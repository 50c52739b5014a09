from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError, StoreError
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import MemorySystem, RecallRequest
from memory_r1.systems.baselines import FullContext, NoMemory, Oracle, SlidingWindow
from memory_r1.systems.retrieval import Rag
from memory_r1.systems.table import build_system
from memory_r1.types import Turn
from tests.fakes import FakeEmbedder

TURNS = [
    Turn("D1:1", "Ann", "I moved to Rome"),
    Turn("D1:2", "Ben", "nice, I moved to Rome too"),
    Turn("D1:3", "Ann", "my cat likes fish"),
    Turn("D1:4", "Ben", "fish is fine"),
    Turn("D1:5", "Ann", "the cat sleeps"),
]


def words(text: str) -> int:
    return len(text.split())


def tell(system: Any) -> Any:
    for turn in TURNS:
        system.observe(turn, "a")
    return system


def recalled(system: MemorySystem, query: str, budget_tokens: int | None = None) -> list[str]:
    return [entry.source_turn_ids[0] for entry in system.recall(query, "a", "", budget_tokens).items]


def test_none_remembers_nothing() -> None:
    system = tell(NoMemory())
    assert (system.entries("a"), system.recall("Rome", "a").items) == ((), ())
    assert system.recall("Rome", "a").usage == {"tokens": 0, "cut": 0}


def test_full_context_recalls_all_turns_in_order_and_cuts_the_oldest() -> None:
    system = tell(FullContext(count_tokens=words))
    assert recalled(system, "anything") == ["D1:1", "D1:2", "D1:3", "D1:4", "D1:5"]
    # In words, with the number in the prompt: 5, 7, 5, 4 and 4. The two newest fit in 12; the third would make 13.
    assert recalled(system, "anything", 12) == ["D1:4", "D1:5"]
    assert system.recall("anything", "a", "", 12).usage == {"tokens": 8, "cut": 3}
    assert recalled(system, "anything", 13) == ["D1:3", "D1:4", "D1:5"]


def test_a_sliding_window_holds_what_fits_and_what_falls_out_is_gone() -> None:
    # In words, with the number in the prompt: 5, 7, 5, 4 and 4, so the last three take 13.
    system = tell(SlidingWindow(window_tokens=13, count_tokens=words))
    assert recalled(system, "anything") == ["D1:3", "D1:4", "D1:5"]
    assert [entry.entry_id for entry in system.entries("a")] == [3, 4, 5]
    narrower = tell(SlidingWindow(window_tokens=12, count_tokens=words))
    assert recalled(narrower, "anything") == ["D1:4", "D1:5"]
    assert [[event.kind for event in record.events] for record in narrower.records("a")] == [
        ["ADD"],
        ["ADD"],  # 5 + 7 = 12
        ["ADD", "DELETE"],
        ["ADD", "DELETE"],
        ["ADD", "DELETE"],
    ]
    narrower.observe(Turn("D1:6", "Ann", "a turn of more words than the whole window can hold is not held"), "a")
    assert narrower.entries("a") == ()


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="window_tokens is 0: give the window's size in tokens, at least 1"):
        SlidingWindow(window_tokens=0)


def test_bm25_finds_words_and_embeds_nothing() -> None:
    system = tell(build_system("bm25", recall_per_speaker=1))
    assert sorted(recalled(system, "Rome")) == ["D1:1", "D1:2"]
    assert recalled(system, "sleeps")[0] == "D1:5"


def test_the_budget_counts_an_entry_as_it_stands_in_the_prompt() -> None:
    system = FullContext(count_tokens=words)
    system.observe(Turn("D1:1", "Ann", "hello", timestamp="2023-05-08T10:00:00"), "a")
    assert system.recall("", "a").usage["tokens"] == 6  # "1. hello [Monday 8 May 2023]"


def test_the_oracle_recalls_the_revealed_evidence_and_nothing_else() -> None:
    system = tell(Oracle())
    assert recalled(system, "where?") == []
    system.reveal("a", {"where?": ["D1:4", "D1:1"], "who?": []})
    assert recalled(system, "where?") == ["D1:1", "D1:4"]
    assert recalled(system, "who?") == []
    assert recalled(system, "where did she move?") == []
    assert system.recall("where?", "b").items == ()


def test_the_oracle_keeps_both_evidences_of_a_question_asked_twice() -> None:
    system = tell(Oracle())
    system.reveal("a", {"where?": ["D1:4"]})
    system.reveal("a", {"where?": ["D1:1"]})
    assert recalled(system, "where?") == ["D1:1", "D1:4"]


def test_what_was_revealed_goes_with_the_scope_and_is_not_saved(tmp_path: Path) -> None:
    system = tell(Oracle())
    system.reveal("a", {"the secret question?": ["D1:1"]})
    system.save(tmp_path / "memory")
    assert b"secret" not in (tmp_path / "memory").read_bytes()
    fresh = Oracle()
    fresh.load(tmp_path / "memory")
    assert recalled(fresh, "the secret question?") == []


def test_rag_recalls_the_best_turns_of_each_speaker_best_first() -> None:
    system = tell(Rag(Retriever(FakeEmbedder()), recall_per_speaker=1))
    # Only Ann's first turn and Ben's first turn mention moving to Rome.
    assert sorted(recalled(system, "moved to Rome")) == ["D1:1", "D1:2"]
    assert sorted(recalled(system, "cat likes fish")) == ["D1:3", "D1:4"]
    assert recalled(system, "cat likes fish")[0] == "D1:3"
    assert len(recalled(tell(Rag(Retriever(FakeEmbedder()), recall_per_speaker=2)), "cat")) == 4


def test_rag_embeds_the_turns_once_for_a_batch_of_questions() -> None:
    embedder = FakeEmbedder()
    system = tell(Rag(Retriever(embedder), recall_per_speaker=1))
    assert embedder.calls == []
    system.recall_many([RecallRequest("Rome", "a"), RecallRequest("fish", "a")])
    assert [len(texts) for texts in embedder.calls] == [7]


def test_forgetting_clears_the_caches_of_the_search() -> None:
    embedder = FakeEmbedder()
    system = tell(Rag(Retriever(embedder), recall_per_speaker=1))
    system.forget("a", {1})
    assert embedder.clears == 1


def test_a_forgotten_entry_is_embedded_anew_though_the_file_was_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_r1.memory.sqlite_log._BUSY_SECONDS", 0.1)
    embedder = FakeEmbedder()
    system = Rag(Retriever(embedder), recall_per_speaker=1)
    system.load(tmp_path / "memory.db", create=True)
    recalled(tell(system), "cat likes fish")
    with closing(sqlite3.connect(tmp_path / "memory.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM records").fetchall()
        with pytest.raises(StoreError, match="forget again"):
            system.forget("a", {1})
    assert embedder.clears == 1
    assert "I moved to Rome" not in str(vars(system))
    embedder.calls.clear()
    recalled(system, "cat likes fish")
    assert embedder.calls[0] == ["cat likes fish"]  # the file kept the other turns' embeddings


def test_another_file_brings_its_own_embeddings(tmp_path: Path) -> None:
    first = Rag(Retriever(FakeEmbedder()), recall_per_speaker=1)
    first.load(tmp_path / "first.db", create=True)
    expected = recalled(tell(first), "cat likes fish")
    embedder = FakeEmbedder()
    system = Rag(Retriever(embedder), recall_per_speaker=1)
    system.load(tmp_path / "second.db", create=True)
    system.observe(Turn("D1:1", "Ann", "something else"), "a")
    recalled(system, "cat likes fish")
    embedder.calls.clear()
    system.load(tmp_path / "first.db")
    assert recalled(system, "cat likes fish") == expected
    assert not any(text.endswith("likes fish") for texts in embedder.calls for text in texts if ": " in text)


def test_a_reopened_store_embeds_nothing_again(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    system = Rag(Retriever(embedder), recall_per_speaker=1)
    system.load(tmp_path / "memory.db", create=True)
    expected = recalled(tell(system), "cat likes fish")

    def reopened(other: FakeEmbedder) -> Rag:
        again = Rag(Retriever(other), recall_per_speaker=1)
        again.load(tmp_path / "memory.db")
        return again

    second = FakeEmbedder()
    again = reopened(second)
    assert recalled(again, "cat likes fish") == expected
    assert second.calls[0] == ["cat likes fish"]
    # A new turn is embedded once and stored too.
    again.observe(Turn("D1:6", "Ann", "my dog likes bones"), "a")
    assert recalled(again, "dog likes bones")[0] == "D1:6"
    third = FakeEmbedder()
    assert recalled(reopened(third), "dog likes bones")[0] == "D1:6"
    assert third.calls[0] == ["dog likes bones"]
    # Another model's vectors are not used.
    other = FakeEmbedder()
    other.identity = "other words"
    recalled(reopened(other), "cat likes fish")
    assert len(other.calls[0]) == 1 + len(TURNS) + 1
