"""MemGPT: a warning before the context is full, an overflow that flushes the queue, paging, and core blocks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Messages
from memory_r1.memory.record import WRITTEN
from memory_r1.systems.base import RecallRequest
from memory_r1.systems.memgpt import MemGPT
from memory_r1.systems.memgpt_context import (
    APPEND,
    ARCHIVE,
    BLOCK_CHARACTERS,
    CONVERSATION,
    INSERT,
    REPLACE,
    MemGPTState,
)
from memory_r1.systems.writer import Writer
from memory_r1.types import Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel


def system(
    *calls: list[dict[str, str]], searches: Iterable[list[dict[str, str]]] = (), context: int = 20, **options: Any
) -> MemGPT:
    """Make a system whose model makes these calls, one list a warning, and repeats the messages as a summary.

    For questions it makes `searches`, one list a call, and then replies what does not parse. A token is a word. A turn
    of four words takes five with its number in the prompt.
    """
    left, searching = iter(calls), iter(searches)

    def script(prompt: Messages, adapter: str | None) -> str:
        if "Summarise" in prompt[0]["content"]:
            return json.dumps({"summary": prompt[-1]["content"].replace("\n", " / ")})
        if "Question: " in prompt[-1]["content"]:
            found = next(searching, None)
            return "noise" if found is None else json.dumps({"calls": found})
        return json.dumps({"calls": next(left, [])})

    return MemGPT(
        FakeEmbedder(),
        Writer(options.pop("model", None) or ScriptedLanguageModel(script)),
        recall_per_speaker=1,
        context_tokens=context,
        count_tokens=lambda text: len(text.split()),
        **options,
    )


def tell(memory: MemGPT, *texts: str, first: int = 1) -> MemGPT:
    for number, text in enumerate(texts, first):
        memory.observe(Turn(f"D:{number}", "Ann", text), "a")
    return memory


def state(memory: MemGPT) -> MemGPTState:
    found = memory.embedded_state("a")
    assert isinstance(found, MemGPTState)
    return found


def tasks(memory: MemGPT) -> list[list[str]]:
    """Return the tasks of each turn."""
    return [
        [event.payload["task"] for event in record.events if event.kind == WRITTEN] for record in memory.records("a")
    ]


FOUR = [f"the fact number {number}" for number in range(1, 9)]


def test_the_model_is_warned_above_three_quarters_and_an_overflow_flushes_three_quarters_of_the_queue() -> None:
    memory = tell(system(), *FOUR[:3])
    assert tasks(memory) == [[], [], []]  # 15 of 20 tokens: not above 0.75
    tell(memory, FOUR[3], first=4)
    assert tasks(memory)[3] == ["function calls"]  # 20 of 20: full, and no overflow
    assert (state(memory).queue, state(memory).warned, state(memory).summary) == ((1, 2, 3, 4), True, 0)
    tell(memory, FOUR[4], first=5)
    # 25 of 20. Three quarters of the queue are 18.75 tokens, so four turns, but the last three stay.
    assert tasks(memory)[4] == ["recursive summary"]
    assert (state(memory).queue, state(memory).warned) == ((3, 4, 5), False)
    (summary,) = state(memory).live([state(memory).summary])
    assert summary.text == "Ann: the fact number 1 / Ann: the fact number 2"
    assert summary.source_turn_ids == ("D:1", "D:2")


def test_the_summary_is_recursive_and_an_overflow_by_long_queues_leaves_more_than_three() -> None:
    memory = tell(system(context=40), *FOUR)
    assert state(memory).queue == (1, 2, 3, 4, 5, 6, 7, 8)  # 40 of 40
    tell(memory, "the fact number 9", first=9)
    # 45 tokens: 33.75 of them are seven turns, but the last three of nine stay.
    assert state(memory).queue == (7, 8, 9)
    # The summary takes 36 words and its number, so the next turn overflows again: 37 + 4 * 5 = 57.
    tell(memory, "the fact number 10", first=10)
    assert state(memory).queue == (8, 9, 11)  # the summary is entry 10
    (summary,) = state(memory).live([state(memory).summary])
    assert summary.text.endswith("Ann: the fact number 6 / Ann: the fact number 7")
    assert summary.text.startswith("Ann: the fact number 1 / ")


def search(query: str, function: str = CONVERSATION) -> dict[str, str]:
    return {"function": function, "query": query}


def test_the_model_pages_in_by_searches_reads_what_they_find_and_may_search_on() -> None:
    searches = [[search("cats fish"), search("cats fish", ARCHIVE)], [search("the fact number 2")], [search("never")]]
    memory = tell(system(searches=searches), "cats like fish much", *FOUR[:7])
    assert state(memory).queue == (7, 8, 9)
    before, model = memory.records("a"), memory._writer.model
    assert isinstance(model, ScriptedLanguageModel)
    asked = len(model.prompts)
    recall = memory.recall("what do cats like", "a")
    first, second = model.prompts[asked:]  # one heartbeat: the third search is never made
    context = [entry.text for entry in state(memory).core()] + [f"Ann: {text}" for text in FOUR[4:7]]
    assert first.splitlines() == [*context, "Question: what do cats like"]
    found = ["conversation_search cats fish:", "Ann: cats like fish much", "archival_memory_search cats fish:"]
    assert second.splitlines() == [*context, *found, "nothing new", "Question: what do cats like"]
    assert {entry.text for entry in recall.items} >= {"cats like fish much", FOUR[1], *FOUR[4:7]}
    assert (recall.usage["model_calls"], recall.usage["written_by_model"]) == (2, 2)
    assert memory.records("a") == before


def test_each_search_finds_only_what_its_storage_holds() -> None:
    insert = [{"function": INSERT, "text": "The harbour freezes in May."}]
    searches = [[search("the fact number 1", ARCHIVE), search("harbour freezes in May")], []]
    memory = tell(system(insert, searches=searches), *FOUR)
    model = memory._writer.model
    assert isinstance(model, ScriptedLanguageModel)
    memory.recall("anything", "a")
    read = model.prompts[-1].splitlines()
    archive, conversation = (
        read.index("archival_memory_search the fact number 1:"),
        read.index("Question: anything") - 2,
    )
    assert read[archive + 1] == "Ann: The harbour freezes in May."
    assert read[conversation] == "conversation_search harbour freezes in May:"
    assert read[conversation + 1].startswith("Ann: the fact number ")


@pytest.mark.parametrize(("heartbeats", "calls"), [(0, 1), (3, 4)])
def test_heartbeats_bound_the_searches(heartbeats: int, calls: int) -> None:
    memory = tell(system(searches=[[search("fact")]] * 9, heartbeats=heartbeats), *FOUR)
    assert memory.recall("fact", "a").usage["model_calls"] == calls


def test_a_model_that_needs_no_search_makes_none_and_one_that_can_find_nothing_new_is_not_asked() -> None:
    memory = tell(system(searches=[[]]), "cats like fish much", *FOUR[:7])
    recall = memory.recall("cats like fish", "a")
    assert recall.usage["model_calls"] == 1
    assert "cats like fish much" not in [entry.text for entry in recall.items]
    in_view = tell(system(), "cats like fish much", *FOUR[:2])
    tight = in_view.recall("cats like fish", "a", budget_tokens=5)
    assert ([entry.text for entry in tight.items], tight.usage["model_calls"]) == (["cats like fish much"], 0)


def test_questions_search_together_and_each_once() -> None:
    memory = tell(system(), *FOUR)
    model = memory._writer.model
    assert isinstance(model, ScriptedLanguageModel)
    asked = len(model.batches)
    requests = [RecallRequest(query, "a") for query in ("number 1", "number 2", "number 1")]
    recalls = memory.recall_many(requests)
    assert [len(batch) for batch in model.batches[asked:]] == [2, 2]
    assert recalls[0] == recalls[2] == memory.recall("number 1", "a")


def test_where_a_reply_does_not_parse_rules_search_with_the_question() -> None:
    memory = tell(system(), "cats like fish much", *FOUR[:7])
    assert memory.recall("cats like fish", "a").usage["written_by_rules"] == 2
    found = [entry.text for entry in memory.recall("cats like fish", "a").items]
    assert "cats like fish much" in found
    assert len(found) == 1 + 1 + len(state(memory).queue)  # the turn, the summary, the queue
    assert "the fact number 1" not in found


def test_function_calls_edit_core_blocks_and_insert_into_archival_storage() -> None:
    calls = [
        {"function": APPEND, "block": "Ann", "text": "Ann has a goat."},
        {"function": APPEND, "block": "Ann", "text": "Ann is kind."},
        {"function": REPLACE, "block": "Ann", "old": "goat", "text": "cow"},
        {"function": INSERT, "text": "The harbour freezes in May."},
    ]
    memory = tell(system(calls), *FOUR[:4])
    block, *_ = state(memory).core()
    assert (block.text, block.speaker) == ("Ann has a cow. Ann is kind.", "Ann")
    assert block.source_turn_ids == ("D:1", "D:2", "D:3", "D:4")
    archived = next(entry for entry in memory.entries("a") if "harbour" in entry.text)
    assert archived.entry_id not in state(memory).queue
    assert archived in memory.recall("when freezes the harbour", "a").items
    assert block in memory.recall("anything else", "a").items


@pytest.mark.parametrize(
    "call",
    [
        {"function": APPEND, "block": "Nobody", "text": "Ann has a goat."},
        {"function": APPEND, "text": "Ann has a goat."},
        {"function": REPLACE, "block": "Ann", "old": "sheep", "text": "cow"},
        {"function": REPLACE, "block": "Ann", "text": "cow"},
    ],
)
def test_a_call_that_cannot_be_carried_out_is_refused_and_counted(call: dict[str, str]) -> None:
    memory = tell(system([call, {"function": APPEND, "block": "Ann", "text": "Ann is kind."}]), *FOUR[:4])
    assert [entry.text for entry in state(memory).core()] == ["Ann is kind."]
    (event,) = [event for event in memory.records("a")[3].events if event.kind == WRITTEN]
    assert event.payload == {"task": "function calls", "by": "model", "refused": 1}


def test_a_block_has_a_bound() -> None:
    memory = system(*([{"function": APPEND, "block": "Ann", "text": "x" * 300}] * 4 for _ in range(9)))
    tell(memory, *(f"the fact number {number}" for number in range(30)))
    (block, *_) = state(memory).core()
    assert BLOCK_CHARACTERS - 301 < len(block.text) <= BLOCK_CHARACTERS


def test_without_a_model_rules_save_statements_and_keep_the_end_of_what_was_flushed() -> None:
    memory = MemGPT(
        FakeEmbedder(), recall_per_speaker=1, context_tokens=20, count_tokens=lambda text: len(text.split())
    )
    tell(memory, "I like red tea", "what a day today", *FOUR[:3])
    block, summary = state(memory).core()
    assert (block.text, summary.text) == ("I like red tea", "Ann: I like red tea Ann: what a day today")


def test_rules_archive_what_a_full_block_has_no_room_for() -> None:
    memory = MemGPT(FakeEmbedder(), recall_per_speaker=1, context_tokens=600)
    tell(memory, *(f"I own the boat {number} {'x' * 200}" for number in range(12)))
    (block,) = state(memory).live([*state(memory).blocks.values()])
    archived = [entry.text for entry in state(memory).live(sorted(state(memory).archival))]
    assert len(block.text) <= BLOCK_CHARACTERS
    assert archived and all(text not in block.text for text in archived)


def test_a_forgotten_turn_takes_along_block_and_summary(tmp_path: Path) -> None:
    memory = system([{"function": APPEND, "block": "Ann", "text": "Ann owns secretcats."}])
    tell(memory, "I own two secretcats", *FOUR[:4])
    memory.forget("a", {1})
    memory.save(tmp_path / "memory")
    assert b"secretcats" not in (tmp_path / "memory").read_bytes()
    assert state(tell(memory, "and it goes on", first=6)).queue[-1] == max(state(memory).queue)


def test_a_context_without_room_and_less_than_no_heartbeat_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="heartbeats is -1: give how often the model may search on"):
        system(heartbeats=-1)
    with pytest.raises(ConfigurationError, match="context_tokens is 0: give the context's size, at least 1"):
        system(context=0)
