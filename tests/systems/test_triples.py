"""Open triples: what the rules find in a turn, what a model reads, and a triple's way through the log."""

from __future__ import annotations

import json

import pytest

from memory_r1.systems.triples import MAX_TRIPLES, TRIPLES, Triple, triples_by_rules, triples_prompt
from memory_r1.systems.writer import conforms
from memory_r1.types import Turn


def turn(text: str, timestamp: str = "") -> Turn:
    return Turn("D1:1", "Ann", text, "s1", timestamp)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("I live in Rome.", ("live in", "Rome")),
        ("I'm really moving to Oslo next week, honestly.", ("is moving to", "Oslo next week")),
        ("We have been to Paris", ("have been to", "Paris")),
        ("I have a dog", ("have", "dog")),
        ("I work at Northdale now.", ("work at", "Northdale")),
        ("My job is gardening these days, mostly.", ("job is", "gardening")),
        ("I know now", ("know", "now")),
        ("I am not a fan of fish!", ("is not", "fan of fish")),
        ("Hi Ben! My cat is called Momo.", ("cat is called", "Momo")),
        ("Our sister Anna works at the harbour.", ("sister Anna works at", "harbour")),
    ],
)
def test_rules_find_what_a_speaker_says_of_themselves(said: str, expected: tuple[str, str]) -> None:
    assert triples_by_rules(turn(said)) == [Triple("Ann", *expected)]


@pytest.mark.parametrize("said", ["", "hm", "Do I like fish?", "You took my bike", "Rome is warm.", "I"])
def test_rules_find_nothing_where_nothing_is_told(said: str) -> None:
    assert triples_by_rules(turn(said)) == []


def test_what_rules_find_conforms_to_the_task() -> None:
    found = triples_by_rules(turn(" ".join(f"I saw {'x' * 150} {number}." for number in range(9))))
    assert len(found) == MAX_TRIPLES
    assert conforms({"triples": [triple.payload for triple in found]}, TRIPLES.schema)


def test_a_triple_reads_what_it_writes_without_spaces_at_its_ends() -> None:
    triple = Triple("Ann", "lives in", "Rome", "2023-05-01")
    assert Triple.read(json.loads(json.dumps(triple.payload))) == triple
    assert Triple.read({**triple.payload, "object": " Rome\n"}) == triple
    assert triple.text == "Ann lives in Rome"


def test_a_model_reads_the_day_and_the_turns_before() -> None:
    before = Turn("D1:0", "Ben", "Where is she?", "s1")
    assert triples_prompt(turn("In Rome", "2023-05-01T10:00:00"), [before]) == [
        "Today is 2023-05-01.",
        "Ben: Where is she?",
        "Ann: In Rome",
    ]
    assert triples_prompt(turn("In Rome"), ()) == ["Ann: In Rome"]
