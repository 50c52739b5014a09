"""MemAgent: a bounded text that each section overwrites, for one question; all of it at recall."""

from __future__ import annotations

import json

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Messages
from memory_r1.systems.base import RecallRequest
from memory_r1.systems.memagent import LONGEST, MEMORY, MemAgent
from memory_r1.systems.writer import Writer
from memory_r1.types import Turn
from tests.fakes import ScriptedLanguageModel


def words(text: str) -> int:
    return len(text.split())


def told(system: MemAgent, *texts: str, scope: str = "a") -> MemAgent:
    for number, text in enumerate(texts, 1):
        system.observe(Turn(f"D1:{number}", "Ann", text, "s1", "2023-05-08T10:00:00"), scope)
    return system


def counting_script(prompt: Messages, adapter: str | None) -> str:
    """Write the number of the step, counted from the memory shown, and what it overwrote."""
    lines = prompt[-1]["content"].splitlines()
    memory, question = lines[-2].removeprefix("Memory: "), lines[-1].removeprefix("Question: ")
    return json.dumps({"memory": f"step {1 + memory.count('after')} on {question} after {memory[:40]}"})


def test_each_section_overwrites_the_memory_and_only_the_last_text_is_recalled() -> None:
    """A section of 6 words holds two turns of "Ann:" and two words; five turns make three sections."""
    model = ScriptedLanguageModel(lambda prompt, _: json.dumps({"memory": f"M{len(model.prompts)}"}))
    system = told(MemAgent(Writer(model), section_tokens=6, count_tokens=words), "a b", "c d", "e f", "g h", "i j")
    assert model.prompts == []  # nothing is written before a question comes
    recall = system.recall("where", "a")
    day = "[Monday 8 May 2023]"
    assert model.prompts == [
        f"{day}\nAnn: a b\nAnn: c d\nMemory: No previous memory\nQuestion: where",
        f"{day}\nAnn: e f\nAnn: g h\nMemory: M1\nQuestion: where",
        f"{day}\nAnn: i j\nMemory: M2\nQuestion: where",
    ]
    assert [(entry.text, entry.source_turn_ids) for entry in recall.items] == [
        ("M3", ("D1:1", "D1:2", "D1:3", "D1:4", "D1:5"))
    ]
    read = sum(words(MEMORY.instructions) + words(prompt) for prompt in model.prompts)
    assert recall.usage["model_calls"] == 3
    assert recall.usage["model_tokens"] == read + sum(words(f'{{"memory": "M{step}"}}') for step in (1, 2, 3))
    assert [record.model_calls for record in system.records("a")] == [0] * 5


def test_questions_and_scopes_are_read_together_and_each_question_once() -> None:
    model = ScriptedLanguageModel(counting_script)
    system = MemAgent(Writer(model), section_tokens=6, count_tokens=words)
    told(told(system, "a b", "c d", "e f"), "x y", scope="c")
    asked = [RecallRequest("where", "a"), RecallRequest("who", "a"), RecallRequest("where", "c")]
    recalls = system.recall_many([*asked, asked[0]])
    assert [len(batch) for batch in model.batches] == [3, 2]
    assert recalls[0] == recalls[3]
    assert recalls[0].items[0].text == "step 2 on where after step 1 on where after No previous memory"
    assert recalls[2].items[0].text == "step 1 on where after No previous memory"
    assert recalls[:3] == [system.recall(request.query, request.scope) for request in asked]


def test_a_memory_over_its_bound_or_a_reply_that_does_not_parse_is_written_by_rules() -> None:
    replies = {"Rome": json.dumps({"memory": "x" * (LONGEST + 1)}), "fish": "noise"}
    model = ScriptedLanguageModel(lambda prompt, _: next(replies[key] for key in replies if key in str(prompt)))
    system = told(MemAgent(Writer(model), section_tokens=6), "I live in Rome", "I eat fish. Do you?")
    recall = system.recall("Where does Ann live?", "a")
    assert recall.items[0].text == "Ann: I live in Rome. Ann: I eat fish."  # "Ann" is in both
    assert (recall.usage["written_by_model"], recall.usage["written_by_rules"]) == (0, 2)


def test_rules_keep_within_the_bound_what_shares_words_with_the_question() -> None:
    texts = [f"I bought boat number {number}" for number in range(60)]
    system = told(MemAgent(section_tokens=100), "I live in Rome", *texts, "Rain again")
    assert system.recall("who lives in Rome?", "a").items[0].text == "Ann: I live in Rome."
    memory = system.recall("boat", "a").items[0].text
    assert LONGEST - 40 < len(memory) <= LONGEST
    assert memory.startswith("Ann: I bought boat number 4") and memory.endswith("boat number 59.")
    assert system.recall("xylophone", "a").items == ()


def test_a_recall_that_the_memory_does_not_fit_is_empty_and_counts_it() -> None:
    system = told(MemAgent(count_tokens=words), "I live in Rome")
    assert system.recall("Rome", "a", budget_tokens=6).usage == {
        "tokens": 6,  # with its number
        "cut": 0,
        "model_calls": 0,
        "model_tokens": 0,
        "written_by_model": 0,
        "written_by_rules": 1,
    }
    short = system.recall("Rome", "a", budget_tokens=5)
    assert (short.items, short.usage["cut"]) == ((), 1)


def test_a_turn_longer_than_a_section_is_split_and_nothing_of_it_is_lost() -> None:
    model = ScriptedLanguageModel(lambda prompt, _: '{"memory": ""}')
    long = "".join(chr(ord("a") + place % 26) for place in range(1000))
    told(MemAgent(Writer(model), section_tokens=100), long).recall("where", "a")
    sections = [prompt.splitlines()[1].removeprefix("Ann: ") for prompt in model.prompts]
    assert "".join(sections) == long
    assert [len(section) for section in sections] == [400, 400, 200]


def test_a_section_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="section_tokens is 0"):
        MemAgent(section_tokens=0)
