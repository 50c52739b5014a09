"""MEM1: one carried state; what was read before it is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Messages
from memory_r1.memory.record import Record
from memory_r1.systems.mem1 import LONGEST, Mem1
from memory_r1.systems.writer import Writer, count_writings
from memory_r1.types import Turn
from tests.fakes import ScriptedLanguageModel

DAY = "[Monday 8 May 2023]"


def numbered() -> ScriptedLanguageModel:
    """Write S1, S2, ... as states."""
    model = ScriptedLanguageModel(lambda prompt, _: json.dumps({"state": f"S{len(model.prompts)}"}))
    return model


def told(system: Mem1, *texts: str, first: int = 1) -> Mem1:
    for number, text in enumerate(texts, first):
        system.observe(Turn(f"D1:{number}", ("Ben", "Ann")[number % 2], text, "s1", "2023-05-08T10:00:00"), "a")
    return system


def held(system: Mem1) -> list[str]:
    return [entry.text for entry in system.entries("a")]


def test_the_model_reads_the_last_state_and_the_turns_since_and_nothing_earlier() -> None:
    model = numbered()
    system = told(Mem1(Writer(model), block_turns=2), "a", "b", "c", "d", "e")
    assert model.prompts == [
        f"{DAY}\nAnn: a\nBen: b\nState: nothing yet",
        f"{DAY}\nAnn: c\nBen: d\nState: S1",
    ]
    assert held(system) == ["S2", "e"]
    assert [entry.text for entry in system.recall("anything", "a").items] == ["S2", "e"]
    assert system.state("a").state.source_turn_ids == ("D1:1", "D1:2", "D1:3", "D1:4")  # type: ignore[union-attr]
    system.end_session("a", "2023-05-08T11:00:00")
    assert model.prompts[2] == f"{DAY}\nAnn: e\nState: S2"
    assert held(system) == ["S3"]
    system.end_session("a", "2023-05-08T11:00:00")
    assert len(model.prompts) == 3
    assert count_writings(system.records("a")) == {"written_by_model": 3, "written_by_rules": 0}


def test_with_blocks_of_one_turn_every_turn_rewrites_the_state() -> None:
    system = told(Mem1(Writer(numbered()), block_turns=1), "a", "b", " ", "c")
    assert held(system) == ["S3"]
    assert [record.model_calls for record in system.records("a")] == [1, 1, 0, 1]


def test_the_state_may_drop_everything() -> None:
    replies = iter(['{"state": "S1"}', '{"state": ""}', '{"state": "S3"}'])
    system = told(Mem1(Writer(ScriptedLanguageModel(lambda *_: next(replies))), block_turns=1), "a", "b")
    assert held(system) == []
    assert held(told(system, "c", first=3)) == ["S3"]
    assert [entry.entry_id for entry in system.entries("a")] == [2]


def test_rules_keep_the_newest_statements_within_the_bound() -> None:
    system = told(Mem1(block_turns=2), "I like fish. How are you?", "Nice day", "My cat sleeps", "I like fish.")
    assert held(system) == ["Ann: I like fish. Ann: My cat sleeps. Ben: I like fish."]
    told(system, *(f"I own boat number {number}" for number in range(100)), first=5)
    (state,) = held(system)
    assert LONGEST - 40 < len(state) <= LONGEST
    assert state.endswith("Ann: I own boat number 98. Ben: I own boat number 99.")
    assert "fish" not in state


def test_a_budget_drops_the_oldest_turn_first_and_the_state_last() -> None:
    system = Mem1(Writer(numbered()), block_turns=3, count_tokens=lambda text: len(text.split()))
    told(system, "a", "b", "c", "d", "e")
    # Each has a number, a word, and a date of four words.
    kept = {budget: [entry.text for entry in system.recall("x", "a", budget_tokens=budget).items] for budget in (6, 12)}
    assert kept == {6: ["S1"], 12: ["S1", "e"]}


def test_a_forgotten_turn_takes_the_state_along_and_a_forgotten_state_its_turns(tmp_path: Path) -> None:
    def saved(*erased: int) -> bytes:
        system = told(Mem1(Writer(ScriptedLanguageModel()), block_turns=2), "secretcats", "b", "plays chess")
        assert system.forget("a", erased) == 1
        assert held(system) == ["plays chess"]
        system.save(tmp_path / "memory")
        told(system, "paints boats", first=4)
        assert held(system) == [f"{DAY} Ann: plays chess Ben: paints boats State: nothing yet"]
        return (tmp_path / "memory").read_bytes()

    for erased in (1, 2):  # the turn, of which only a tombstone is left, and the state
        content = saved(erased)
        assert (b"secretcats" in content, b"plays chess" in content) == (False, True)


def test_what_another_thread_writes_from_a_turn_that_is_being_forgotten_goes_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = told(Mem1(Writer(ScriptedLanguageModel()), block_turns=2), "secretcats")
    read, writing = system.log.records, Thread(target=lambda: told(system, "b", first=2))

    def reading(scope: str, since: int = 0) -> tuple[Record, ...]:
        records = read(scope, since)
        if writing.ident is None and not since:
            writing.start()
            writing.join(0.5)  # until the state is written, or waits for the erasure
        return records

    monkeypatch.setattr(system.log, "records", reading)
    system.forget("a", {1})
    writing.join()
    assert held(system) == ["b"]
    assert "secretcats" not in str(system.records("a"))


def test_a_turn_is_kept_when_another_writer_rewrites_the_state_meanwhile(tmp_path: Path) -> None:
    first = told(Mem1(Writer(ScriptedLanguageModel()), block_turns=2), "a", "b", "c")
    first.save(tmp_path / "memory")
    first.load(tmp_path / "memory")

    def interrupted(prompt: Messages, adapter: str | None) -> str:
        told(first, "e", first=5)  # while the other writer's model thinks
        return '{"state": "of c and d"}'

    second = Mem1(Writer(ScriptedLanguageModel(interrupted)), block_turns=2)
    second.load(tmp_path / "memory")
    told(second, "d", first=4)
    state, turn = held(second)
    assert ("Ann: c Ann: e" in state, turn) == (True, "d")


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="block_turns is 0"):
        Mem1(block_turns=0)
