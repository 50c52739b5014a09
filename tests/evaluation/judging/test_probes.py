"""Rule-made answers: reworded golds stay right, and answers meant to be wrong share nothing with the gold."""

from __future__ import annotations

import re

import pytest

from memory_r1.evaluation.judging.probes import PROBES, by_draw, make_probes, reword, topic, vague_wrong
from memory_r1.evaluation.judging.rubrics import PREFERENCE, JudgedAnswer


def item(number: int, question: str, gold: str, category: str = "4", dialogue: str = "d") -> JudgedAnswer:
    return JudgedAnswer(dialogue, f"q{number}", category, question, gold, "what the system said")


WHEN = item(1, "When did Ann go to the pottery workshop?", "7 May 2023")
WHERE = item(2, "Where does Ben live?", "Oslo")
LATER = item(3, "When did Ben sell his boat?", "in the winter of 2021")
SAME_YEAR = item(4, "When did Ann move?", "June 2023")


@pytest.mark.parametrize(
    ("gold", "inside"),
    [
        ("7 May 2023", "May 7, 2023"),
        ("19 January, 2023", "January 19, 2023"),
        ("May 7, 2023", "7 May 2023"),
        ("2023-05-07", "May 7, 2023"),
        ("the Friday before 15 July 2023", "the Friday before July 15, 2023"),
        ("8 days.", "eight days"),
        ("four", "4"),
        ("about 3 of them", "about three of them"),
        ("She has two cats.", "She has 2 cats"),
        # Golds that a rewording could make wrong or unreadable stay unchanged.
        ("2023-13-45", "2023-13-45"),
        ("45 minutes", "45 minutes"),
        ("the 3rd of May", "the 3rd of May"),
        ("at 7:30 for $8", "at 7:30 for $8"),
        ("iPhone 13 Pro", "iPhone 13 Pro"),
        ("Scale 1/48", "Scale 1/48"),
        ("Oslo", "Oslo"),
    ],
)
def test_a_gold_in_other_words_says_the_same(gold: str, inside: str) -> None:
    said = reword(gold, "d/q")
    assert re.search(rf"[:] {re.escape(inside)}\.$", said), said


def test_not_every_sentence_is_the_same() -> None:
    assert len({reword("Oslo", str(number)) for number in range(20)}) == 3
    assert reword("Oslo", "d/q1") == reword("Oslo", "d/q1")


def test_a_wrong_answer_names_the_topic_and_a_gold_of_the_same_sort() -> None:
    said = vague_wrong(WHEN, [WHEN, WHERE, LATER, SAME_YEAR])
    assert said is not None
    assert "Ann go pottery workshop" in said and "in the winter of 2021" in said
    # No other question begins with "Where", so any other gold will do.
    assert "winter" in str(vague_wrong(WHERE, [WHERE, LATER]))


@pytest.mark.parametrize(
    "other",
    [
        item(9, "When?", "in 2023"),  # a word of the gold
        item(9, "When?", "at the workshop"),  # a word of the question: an echo may be right
        item(9, "When?", "the"),  # says nothing
        item(9, "When?", "You did not say.", dialogue="d_abs"),  # such a refusal could be right
        WHEN,
    ],
)
def test_what_might_be_right_is_no_wrong_answer(other: JudgedAnswer) -> None:
    assert vague_wrong(WHEN, [other]) is None


def test_numbers_are_the_same_in_words_and_digits() -> None:
    assert vague_wrong(item(1, "How many?", "3"), [item(2, "How many?", "three dogs")]) is None
    assert "four" in str(vague_wrong(item(1, "How many?", "3"), [item(2, "How many?", "four dogs")]))


def test_topic_words_keep_their_order_and_there_is_always_one() -> None:
    assert topic("What did Mel and her kids make during Ann's long-term pottery workshop?") == (
        "Mel kids make Ann's long-term pottery"
    )
    assert topic("Why is that?") == "Why is that"


def test_a_question_gets_a_probe_of_each_kind_from_its_own_category() -> None:
    probes = make_probes([WHEN, LATER, item(5, "Where?", "Rome", category="1")])
    assert [(probe.kind, probe.answer.question_id) for probe in probes] == [
        ("gold", "q1"),
        ("reworded", "q1"),
        ("vague_wrong", "q1"),
        ("gold", "q3"),
        ("reworded", "q3"),
        ("vague_wrong", "q3"),
        ("gold", "q5"),
        ("reworded", "q5"),
    ]
    assert {probe.kind for probe in probes} == set(PROBES)
    assert probes[0].answer.prediction == "7 May 2023"
    assert "winter of 2021" in probes[2].answer.prediction


def test_questions_without_a_gold_answer_have_no_probes() -> None:
    assert make_probes([item(1, "Any tips?", "The user would like ...", PREFERENCE), item(2, "Where?", "")]) == []


def test_the_draw_depends_on_the_keys_alone() -> None:
    keys = [f"d/q{number}" for number in range(50)]
    assert by_draw(reversed(keys)) == by_draw(keys) != keys
