"""A profile is read out whole, grows across chats, and no later turn changes it."""

from __future__ import annotations

import pytest

from memory_r1.memory.bank import MemoryBank
from memory_r1.systems.base import Capability
from memory_r1.systems.profile import Profile
from memory_r1.systems.writer import Writer
from memory_r1.types import Turn
from tests.fakes import ScriptedLanguageModel


def told(system: Profile) -> Profile:
    for number, (session, text) in enumerate(
        [("s1", "I live in Rome. Nice day!"), ("s1", "Lovely weather"), ("s2", "I live in Oslo. I live in Rome.")], 1
    ):
        system.observe(Turn(f"D{number}", "Ann", text, session), "a")
    return system


def test_facts_survive_the_chat_in_which_they_were_told_and_are_noted_once() -> None:
    system = told(Profile())
    notes = [(entry.text, entry.source_turn_ids) for entry in system.entries("a")]
    assert notes == [("I live in Rome.", ("D1",)), ("I live in Oslo.", ("D3",))]  # the outdated one stays


def test_every_question_gets_the_whole_notebook_and_a_budget_cuts_the_oldest() -> None:
    system = told(Profile(count_tokens=lambda text: len(text.split())))
    assert system.recall("chess", "a").items == system.recall("where is Rome", "a").items == system.entries("a")
    assert [entry.text for entry in system.recall("chess", "a", budget_tokens=5).items] == ["I live in Oslo."]


def test_a_model_that_writes_is_told_the_turns_before_and_what_it_breaks_the_rules_mend() -> None:
    model = ScriptedLanguageModel(
        lambda prompt, _: "noise" if "Oslo" in prompt[-1]["content"] else '{"facts": ["Ann lives in Rome"]}'
    )
    system = told(Profile(Writer(model)))
    assert Capability.MODEL_WRITES in system.capabilities
    assert model.prompts[1] == "Ann: I live in Rome. Nice day!\nAnn: Lovely weather"
    texts = [entry.text for entry in system.entries("a")]
    assert texts == ["Ann lives in Rome", "I live in Oslo.", "I live in Rome."]


def test_noting_does_not_read_the_notebook_and_what_was_undone_is_noted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    system, read = told(Profile()), []
    monkeypatch.setattr(MemoryBank, "entries", lambda bank: read.append(bank) or ())
    system.observe(Turn("D4", "Ann", "I live in Oslo. I live in Bonn.", "s3"), "a")
    system.log.undo("a")
    system.observe(Turn("D5", "Ann", "I live in Bonn.", "s3"), "a")
    system.observe(Turn("D6", "Ben", "I live in Bonn.", "s3"), "a")
    system.forget("a", [1])
    system.observe(Turn("D7", "Ann", "I live in Rome. I live in Bonn.", "s3"), "a")
    assert not read, "each turn would cost as much as there are notes"
    monkeypatch.undo()
    notes = [(entry.speaker, entry.text, entry.source_turn_ids) for entry in system.entries("a")]
    assert notes == [
        ("Ann", "I live in Oslo.", ("D3",)),
        ("Ann", "I live in Bonn.", ("D5",)),
        ("Ben", "I live in Bonn.", ("D6",)),
        ("Ann", "I live in Rome.", ("D7",)),
    ]
