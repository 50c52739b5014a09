"""What a writer is taught: the prompts that the systems send, and gold derived by hand."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from data.sources import Source
from data.synthetic.generator import generate_split
from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Messages
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import RecallRequest
from memory_r1.systems.hipporag import FACT_FILTER
from memory_r1.systems.insights import HEADER, INSIGHTS
from memory_r1.systems.memgpt import FUNCTION_CALLS
from memory_r1.systems.player import Episode, play
from memory_r1.systems.table import build_system
from memory_r1.systems.temporal_graph_facts import CONTRADICTIONS, ENTITY_MERGE
from memory_r1.systems.triples import TRIPLES
from memory_r1.systems.writer import Writer, WritingTask, read
from recipes.writer_gold import GOLD, Moment
from recipes.writer_rows import PLAYED, ROWS_PER_TASK, WriterRow, writer_rows
from tests.data.synthetic.test_writing import known, labelled, repeated
from tests.fakes import FakeEmbedder, ScriptedLanguageModel


def generated(split: Any = "train", count: int = 1) -> list[Source]:
    return [Source(item.dialogue, item.gold) for item in generate_split(split, count, 0)]


def all_rows(monkeypatch: pytest.MonkeyPatch, sources: list[Source]) -> list[WriterRow]:
    monkeypatch.setattr("recipes.writer_rows.ROWS_PER_TASK", 1000)
    return writer_rows(sources, Retriever(FakeEmbedder()), 2)


def test_rows_are_the_prompts_that_the_systems_send_in_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = generated()
    rows = all_rows(monkeypatch, [source])
    gold = {json.dumps(row.prompt): row.completion for row in rows}
    sent: set[str] = set()

    def reply(prompt: Messages, adapter: str | None) -> str:
        assert adapter == "writer"
        sent.add(json.dumps(prompt))
        return gold[json.dumps(prompt)]

    for name, settings in PLAYED:
        model = ScriptedLanguageModel(reply)
        writer = Writer(model, adapter="writer")
        retriever = Retriever(FakeEmbedder())
        system = build_system(name, retriever=retriever, writer=writer, recall_per_speaker=2, settings=settings)
        play(system, [Episode.of(source.dialogue)])
        asked = [RecallRequest(asked.question, source.dialogue.dialogue_id) for asked in source.dialogue.questions]
        system.recall_many(asked)
        assert model.batches
    assert sent == gold.keys()


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_gold_is_a_reply_that_counts(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = all_rows(monkeypatch, generated(split, 2))
    assert {row.task.name for row in rows} == GOLD.keys()
    for row in rows:
        assert read(row.completion, row.task.schema) == row.gold


def test_no_task_has_more_rows_of_a_dialogue_than_it_may() -> None:
    rows = writer_rows(generated(count=2), Retriever(FakeEmbedder()), 2)
    counts = Counter((row.task.name, row.dialogue_id) for row in rows)
    assert max(counts.values()) == ROWS_PER_TASK
    assert len(counts) == 2 * len(GOLD)


def of_task(rows: list[WriterRow], name: str) -> list[Any]:
    return [next(iter(row.gold.values())) for row in rows if row.task.name == name]


def test_gold_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    item = labelled()
    rows = all_rows(monkeypatch, [Source(item.dialogue, item.gold)])
    assert of_task(rows, "facts")[0] == ["Ann adopted a poodle", "Ann lives in Porto"]
    assert of_task(rows, "facts")[-4:] == [["Ann's poodle is called Momo"], ["Ben flies to Malta on 9 June"], [], []]
    assert of_task(rows, "day summary") == [
        "Ann adopted a poodle; lives in Porto. Ben flies to Malta on 3 May; joined the chess club.",
        "Ann's poodle is called Momo. Ben flies to Malta on 9 June.",
    ]
    assert of_task(rows, "portrait") == [
        "Ann adopted a poodle; lives in Porto.",
        "Ben flies to Malta on 3 May; joined the chess club.",
        "Ann adopted a poodle called Momo; lives in Porto.",
        "Ben flies to Malta on 9 June.",
    ]
    assert (
        of_task(rows, "state")[-1] == "Ann adopted a poodle called Momo; lives in Porto. Ben flies to Malta on 9 June."
    )
    first = ["Ann adopted a poodle", "Ann lives in Porto", "Ben flies to Malta on 3 May", "Ben joined the chess club"]
    assert of_task(rows, "insights") == [
        [{"operation": "ADD", "text": text} for text in first],
        [
            {"operation": "EDIT", "insight": "1", "text": "Ann adopted a poodle called Momo"},
            {"operation": "EDIT", "insight": "3", "text": "Ben flies to Malta on 9 June"},
            {"operation": "REMOVE", "insight": "4"},
        ],
    ]
    assert set(of_task(rows, "memory")) == {"Ann adopted a poodle called Momo.", ""}


def test_gold_of_graphs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    item = labelled()
    rows = all_rows(monkeypatch, [Source(item.dialogue, item.gold)])

    def replies(task: WritingTask) -> dict[str, Any]:
        return {row.prompt[1]["content"]: row.gold for row in rows if row.task is task}

    triples = replies(TRIPLES)
    flight = {"subject": "Ben", "relation": "flies to", "object": "Malta", "time": "2023-06-09"}
    assert triples["Today is 2023-05-08.\nBen: They moved my Malta flight to 9 June."] == {"triples": [flight]}
    assert triples["Today is 2023-05-08.\nAnn: Nice!"] == {"triples": []}
    assert all(prompt.splitlines()[0].startswith("Today is ") for prompt in triples)
    assert any(len(prompt.splitlines()) > 2 for prompt in triples)  # the temporal graph reads the turns before too

    def about(task: WritingTask, last: str) -> list[str]:
        """Return the lines that the gold chooses from a prompt with this last line, by key."""
        ((prompt, gold),) = ((prompt, gold) for prompt, gold in replies(task).items() if prompt.endswith(last))
        texts = dict(line.split(". ", 1) for line in prompt.splitlines()[:-1])
        return [f"{key}: {texts[number]}" for key, numbers in gold.items() for number in numbers]

    assert about(CONTRADICTIONS, "New: Ben joined chess club") == []
    assert about(CONTRADICTIONS, "New: Ben flies to Malta (since 2023-06-09)") == [
        "ended: Ben flies to Malta (since 2023-05-03)"
    ]
    assert about(CONTRADICTIONS, "New: Ben is no longer in chess club") == ["ended: Ben joined chess club"]
    assert about(CONTRADICTIONS, "New: Ann's poodle is called Momo") == []  # which changes nothing
    assert about(ENTITY_MERGE, "New: Ann's poodle (Ann's poodle is called Momo)") == [
        "same: poodle (Ann adopted poodle)"
    ]
    assert about(FACT_FILTER, "Question: What is the poodle called?") == ["numbers: Ann's poodle is called Momo"]
    assert about(FACT_FILTER, "Question: Where does Ben live?") == []


def test_a_repeated_fact_is_the_same_and_other_names_are_not() -> None:
    facts = repeated("I rent a studio in Porto")
    moment = Moment(facts, facts.dialogue.turns()[-1])
    shown = ["1. Ann lives in Porto", "New: Ann rents a studio in Porto"]
    assert GOLD[CONTRADICTIONS.name](moment, shown) == {"same": ["1"], "ended": []}
    names = ["1. Ann (Ann lives in Porto)", "2. Porto (Ann lives in Porto)", "New: Turin (Ben lives in Turin)"]
    assert GOLD[ENTITY_MERGE.name](moment, names) == {"same": []}


def test_insights_are_agreed_with_where_a_fact_is_repeated_and_changed_only_where_that_is_told() -> None:
    facts = known()
    turns = facts.dialogue.turns()
    second = [f"{turn.speaker}: {turn.text}" for turn in turns[3:]]

    def operations(moment: Moment, said: list[str], *shown: str) -> list[dict[str, str]]:
        numbered = [f"{number}. {text}" for number, text in enumerate(shown, 1)]
        return GOLD[INSIGHTS.name](moment, [*said, HEADER, *(numbered or ["none"])])["operations"]

    last = Moment(facts, turns[-1])
    assert operations(last, second) == []  # what changed is not in view
    assert operations(last, second, "Ben joined the chess club") == [{"operation": "REMOVE", "insight": "1"}]
    assert operations(last, second[2:], "Ann adopted a poodle") == []  # its name is no longer in view
    assert operations(last, second, "Ann adopted a poodle called Momo", "Ann lives in Porto") == []
    repeating = Moment(repeated(), repeated().dialogue.turns()[-1])
    said = ["Ann: As I said, I live in Porto."]
    assert operations(repeating, said, "Ann lives in Porto") == [{"operation": "AGREE", "insight": "1"}]
    assert operations(repeating, said) == []


def test_core_blocks_are_appended_to_then_edited() -> None:
    facts = known()
    turns = facts.dialogue.turns()
    spoken = [f"{turn.speaker}: {turn.text}" for turn in turns]
    blocks = ["Ann: Ann adopted a poodle. Ann lives in Porto.", "Ben: Ben joined the chess club."]

    def calls(moment: Moment, lines: list[str]) -> list[dict[str, str]]:
        return GOLD[FUNCTION_CALLS.name](moment, lines)["calls"]

    append, replace = "core_memory_append", "core_memory_replace"
    assert calls(Moment(facts, turns[2]), spoken[1:3]) == [  # what Ann said is no longer in view
        {"function": append, "block": "Ben", "text": "Ben flies to Malta on 3 May. Ben joined the chess club."}
    ]
    assert calls(Moment(facts, turns[-1]), [*blocks, *spoken[3:]]) == [
        {"function": append, "block": "Ben", "text": "Ben flies to Malta on 9 June."},
        {
            **{"function": replace, "block": "Ann"},
            **{"old": "Ann adopted a poodle.", "text": "Ann adopted a poodle called Momo."},
        },
        {
            **{"function": replace, "block": "Ben"},
            "old": "Ben joined the chess club.",
            "text": "No longer: Ben joined the chess club.",
        },
    ]
    done = [
        "Ann: Ann adopted a poodle called Momo. Ann lives in Porto.",
        "Ben: No longer: Ben joined the chess club. Ben flies to Malta on 9 June.",
    ]
    assert calls(Moment(facts, turns[-1]), [*done, *spoken]) == []


def test_dialogues_without_gold_are_refused() -> None:
    (source,) = generated()
    with pytest.raises(ConfigurationError, match="has no gold operations; use dataset: synthetic"):
        writer_rows([Source(source.dialogue)], Retriever(FakeEmbedder()), 2)
