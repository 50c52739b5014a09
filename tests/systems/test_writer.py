"""What a model writes counts if it parses; otherwise the rules write, and both are counted."""

from __future__ import annotations

import json

import pytest

from memory_r1.inference.language_model import Messages
from memory_r1.systems.hipporag import FACT_FILTER
from memory_r1.systems.insights import INSIGHTS
from memory_r1.systems.mem1 import STATE
from memory_r1.systems.memagent import MEMORY
from memory_r1.systems.memgpt import FUNCTION_CALLS, PAGING, SUMMARY
from memory_r1.systems.memorybank import DAY_SUMMARY, PORTRAIT
from memory_r1.systems.profile import FACTS
from memory_r1.systems.rules import statements
from memory_r1.systems.temporal_graph_facts import CONTRADICTIONS, ENTITY_MERGE
from memory_r1.systems.triples import TRIPLES
from memory_r1.systems.writer import Writer, conforms, count_writings, joined, read, shown_name
from tests.fakes import ScriptedLanguageModel

RULES = {"facts": ["by rules"]}


def scripted(*replies: str, window: int | None = None) -> ScriptedLanguageModel:
    left = iter(replies)

    def script(prompt: Messages, adapter: str | None) -> str:
        return next(left)

    return ScriptedLanguageModel(script, window=window)


@pytest.mark.parametrize(
    "task",
    [
        FACTS,
        DAY_SUMMARY,
        PORTRAIT,
        MEMORY,
        STATE,
        FUNCTION_CALLS,
        PAGING,
        SUMMARY,
        INSIGHTS,
        TRIPLES,
        FACT_FILTER,
        ENTITY_MERGE,
        CONTRADICTIONS,
    ],
)
def test_the_examples_in_an_instruction_conform_to_its_schema(task) -> None:  # type: ignore[no-untyped-def]
    examples = task.instructions.split("JSON only: ")[1].removesuffix(".").split(" or ")
    assert all(conforms(json.loads(example), task.schema) for example in examples)


@pytest.mark.parametrize(
    "reply",
    ['{"facts": ["Kim left"]}', ' {"facts": ["Kim left"]}\n', '```json\n{"facts": ["Kim left"]}\n```'],
)
def test_a_reply_of_the_schema_is_read(reply: str) -> None:
    assert read(reply, FACTS.schema) == {"facts": ["Kim left"]}


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Kim left",
        '["Kim left"]',
        '{"facts": "Kim left"}',
        '{"facts": [7]}',
        '{"facts": [" "]}',
        '{"facts": ["1", "2", "3", "4", "5"]}',
        '{"facts": [], "more": 1}',
        "{}",
        json.dumps({"facts": ["x" * 301]}),
        '{"facts": [], "facts": []}',
        '{"facts": ["cut sho',
        '{"facts": ["\\u0000"]}',
        '{"facts": ["\\ud83d"]}',
        "[" * 100_000,
    ],
)
def test_any_other_reply_is_none(reply: str) -> None:
    assert read(reply, FACTS.schema) is None


def test_rules_stand_in_for_what_does_not_parse_and_the_log_tells() -> None:
    writer = Writer(scripted('{"facts": ["Kim left"]}', "I shall remember", "no"))
    written = writer.write(FACTS, [["Kim: I left"], ["Lou: hm"], ["Lou: oh"]], [RULES] * 3)
    assert [writing.value for writing in written] == [{"facts": ["Kim left"]}, RULES, RULES]
    record = joined(written)
    counts = count_writings([record])
    assert counts == {"written_by_model": 1, "written_by_rules": 2}
    assert (record.model_calls, record.completion) == (3, '{"facts": ["Kim left"]}\nI shall remember\nno')
    assert record.completion_tokens == 7  # words
    assert shown_name("profile", counts) == "profile (rules)"
    assert (
        shown_name("profile", {"written_by_model": 1, "written_by_rules": 1}) == "profile"
    )  # half is not more than half
    assert shown_name("rag", count_writings([])) == "rag"


def test_without_a_model_the_rules_write_at_no_cost() -> None:
    (writing,) = Writer().write(FACTS, [["Kim: I left"]], [RULES])
    assert (writing.value, writing.record.model_calls) == (RULES, 0)
    assert count_writings([writing.record]) == {"written_by_model": 0, "written_by_rules": 1}


def test_a_text_too_long_for_the_window_loses_its_first_lines_then_the_end_of_the_last() -> None:
    instructions = len(FACTS.instructions.split())
    model = scripted(*['{"facts": []}'] * 3, window=instructions + FACTS.max_new_tokens + 4)
    written = Writer(model).write(FACTS, [["a b", "c d"], ["a b", "c d", "e f"], ["a b c d e f"]], [RULES] * 3)
    assert model.prompts[:2] == ["a b\nc d", "c d\ne f"]
    assert "a b c d e f".startswith(model.prompts[2]) and model.prompts[2]
    assert [writing.record.cut for writing in written] == [0, 1, 1]


def test_rules_keep_what_a_speaker_says_of_themselves() -> None:
    told = "Hi Ben! I moved to Rome last week. Do I miss it? My cat came along. Rome is warm. My cat came along."
    assert statements(told) == ["I moved to Rome last week.", "My cat came along."]
    assert statements("I " + "very " * 100 + "long") == statements("") == []
