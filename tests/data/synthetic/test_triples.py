"""Sentences of the generator taken apart into triples."""

from __future__ import annotations

import pytest

from data.synthetic.triples import edge_of, told_of
from data.synthetic.values import VALUES
from data.synthetic.wording import phrases, with_article
from memory_r1.errors import ConfigurationError
from memory_r1.types import Edge, OperationKind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann's flat is in Lyon", Edge("Ann", "'s flat is in", "Lyon")),
        ("Ann shares a sofa with a pug", Edge("Ann", "shares a sofa with", "a pug")),
        ("Ann bought a new phone, a Redmi", Edge("Ann", "bought a new phone,", "a Redmi")),
        ("Ann plays the cello in an orchestra", Edge("Ann", "plays", "the cello")),
        ("Lumitech pays Ann's salary", Edge("Ann", "is paid by", "Lumitech")),
        ("The chess club let Ann in", Edge("Ann", "was let into", "the chess club")),
        ("Ann flies to Norway on 8 May", Edge("Ann", "flies to", "Norway", "8 May")),
        ("Ann attends the Paganini recital, 3 October", Edge("Ann", "attends", "the Paganini recital", "3 October")),
        ("Ann's holiday in Malta starts on 8 May", Edge("Ann", "has a holiday in", "Malta", "8 May")),
        ("Ann's law exam is on 9 June", Edge("Ann", "has", "a law exam", "9 June")),
        ("Momo has a basket in the attic", Edge("Momo", "has a basket in", "the attic")),
    ],
)
def test_an_edge_is_the_entry_cut_in_parts(text: str, expected: Edge) -> None:
    assert edge_of(text, "Ann") == expected


def triple(text: str, today: str = "") -> tuple[str, str, str, str]:
    told = told_of(text, "Ann", today, 1, OperationKind.ADD)
    return told.subject, told.relation, told.object, told.time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann rents a studio in Porto", ("Ann", "rents a studio in", "Porto", "")),
        ("Ann drives a blue Honda", ("Ann", "drives", "blue Honda", "")),
        ("Ann's home is Porto", ("Ann", "home is", "Porto", "")),
        ("Ann's occupation: baker", ("Ann", "occupation is", "baker", "")),
        ("Ann plays the cello in an orchestra", ("Ann", "plays", "cello", "")),
        ("The chess club let Ann in", ("Ann", "was let into", "chess club", "")),
        ("Vertigo is Ann's favourite film", ("Ann", "favourite film is", "Vertigo", "")),
        ("Ann added a kettle to the wish list", ("Ann", "added to the wish list", "kettle", "")),
        ("Ann's law exam is on 9 June", ("Ann", "has", "law exam", "")),
        ("Ann's poodle is called Momo", ("Ann's poodle", "is called", "Momo", "")),
        ("Momo guards the sofa", ("Momo", "guards", "sofa", "")),
    ],
)
def test_triples_lead_from_whose_a_fact_is_to_its_value(text: str, expected: tuple[str, ...]) -> None:
    assert triple(text) == expected


def test_a_date_is_the_next_such_day() -> None:
    days = [
        triple("Ann visits Malta, 9 June", today)[-1] for today in ("2023-05-01", "2023-06-09T12:00:00", "2023-07-01")
    ]
    assert days == ["2023-06-09", "2023-06-09", "2024-06-09"]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_phrase_of_a_person_has_a_triple(split: str) -> None:
    entries = [
        phrase.entry.format(n="Ann", v=value, av=with_article(value), d="9 June")
        for attribute, kinds in phrases(split).items()
        for value in [VALUES[attribute][split][3]]
        for phrase in (phrase for kind in "suc" for phrase in kinds.get(kind, ()))
        if "{n}" in phrase.entry
    ]
    assert len(entries) > 90
    for entry in entries:
        subject, relation, thing, _ = triple(entry)
        assert subject == "Ann" and relation and thing, entry
        assert not relation.endswith((",", ":", " a", " an", " the")) and thing in entry, entry


def test_other_sentences_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"is no sentence of the generator.*use dataset: synthetic"):
        triple("Ann was tired")
