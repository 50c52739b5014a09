"""The everyday chats pass their checks, and the checks find what they are for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date

import pytest

from data.everyday import SPLITS, load_everyday
from data.everyday.checks import complaints, masked_grams, proper_names, shared_between
from data.everyday.relative_dates import named_dates
from data.floors import floors
from data.labelled import LabelledDialogue
from data.sources import training_sources
from memory_r1.types import Operation, OperationKind

CHATS = {split: load_everyday(split) for split in SPLITS}


def test_every_chat_passes() -> None:
    found = [f"{c.dialogue.dialogue_id}: {what}" for chats in CHATS.values() for c in chats for what in complaints(c)]
    assert found == []


def test_splits_share_no_name_no_answer_and_hardly_a_masked_5_gram() -> None:
    assert list(shared_between(CHATS)) == []
    train = masked_grams(CHATS["train"])
    for split in ("validation", "test"):
        grams = masked_grams(CHATS[split])
        assert len(grams & train) / len(grams) < 0.02


def test_little_can_be_answered_without_memory() -> None:
    train = [chat.dialogue for chat in CHATS["train"]]
    for split in ("validation", "test"):
        worth = floors([chat.dialogue for chat in CHATS[split]], train)
        assert max(worth["none"], worth["most_frequent"], worth["newest_turn_f1"]) < 0.17


def test_reinforcement_learning_never_sees_the_gold_operations() -> None:
    train, validation = training_sources("everyday", seed=0, first=1, count=2, validation=3)
    assert [len(train), len(validation)] == [2, 3]
    assert all(source.gold is None for source in (*train, *validation))
    assert train[0].dialogue == CHATS["train"][1].dialogue
    labelled, _ = training_sources("everyday-labelled", seed=0, first=0, count=1, validation=1)
    assert labelled[0].gold == CHATS["train"][0].gold


def with_question(chat: LabelledDialogue, **changes: object) -> LabelledDialogue:
    first, *others = chat.dialogue.questions
    return replace(chat, dialogue=replace(chat.dialogue, questions=(replace(first, **changes), *others)))  # type: ignore[arg-type]


def with_turn(chat: LabelledDialogue, text: str) -> LabelledDialogue:
    session, *others = chat.dialogue.sessions
    turns = (replace(session.turns[0], text=text), *session.turns[1:])
    return replace(chat, dialogue=replace(chat.dialogue, sessions=(replace(session, turns=turns), *others)))


def with_gold(chat: LabelledDialogue, *operations: Operation) -> LabelledDialogue:
    first = chat.dialogue.turns()[0].turn_id
    return replace(chat, gold={**chat.gold, first: operations})


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda chat: with_question(chat, answer="a zeppelin"), "no evidence turn holds a zeppelin"),
        (lambda chat: with_question(chat, evidence=()), "no evidence turn holds"),
        (lambda chat: with_question(chat, answer="unknown", category="recall"), "the answer is 'unknown', but"),
        (lambda chat: with_question(chat, question="x " + chat.dialogue.questions[0].answer), "holds the answer"),
        (lambda chat: replace(chat, dialogue=replace(chat.dialogue, questions=())), "found 0 questions"),
        (lambda chat: with_turn(chat, "On Monday 1 January we met."), "is not that day of the week"),
        (lambda chat: with_gold(chat, Operation(OperationKind.DELETE, None, 77)), "77"),
        (lambda chat: with_gold(chat, Operation(OperationKind.ADD, "someone moved")), "names neither speaker"),
        (
            lambda chat: with_gold(chat, Operation(OperationKind.ADD, f"{chat.dialogue.speakers[0]} leaves tomorrow")),
            "has a relative date",
        ),
        (
            lambda chat: replace(chat, gold=dict.fromkeys(chat.gold, (Operation(OperationKind.NOOP),))),
            "no live memory from its evidence turns holds",
        ),
    ],
)
def test_a_spoilt_chat_is_complained_about(
    spoil: Callable[[LabelledDialogue], LabelledDialogue], complaint: str
) -> None:
    chat = next(c for c in CHATS["train"] if c.dialogue.questions[0].answer != "unknown")
    assert any(complaint in found for found in complaints(spoil(chat)))


def test_a_leap_day_of_another_year_is_only_complained_about() -> None:
    found = list(complaints(with_turn(CHATS["train"][0], "On Monday 29 February we met.")))
    assert any("29 February is not that day of the week" in complaint for complaint in found)


def test_a_name_or_answer_in_two_splits_is_complained_about() -> None:
    train, test = CHATS["train"][:1], CHATS["test"][:1]
    borrowed = with_question(test[0], answer=train[0].dialogue.questions[0].answer)
    assert any("is in train and test" in found for found in shared_between({"train": train, "test": [borrowed]}))
    twin = replace(test[0], dialogue=replace(test[0].dialogue, speakers=train[0].dialogue.speakers))
    assert any("is in train and test" in found for found in shared_between({"train": train, "test": [twin]}))


def test_names_are_what_is_capitalised_inside_sentences() -> None:
    chat = with_turn(CHATS["train"][0], "Well, I'd never met Quillon's aunt in Zedburg on Friday. Perhaps later.")
    names = proper_names(chat.dialogue)
    assert {"Quillon", "Zedburg", *chat.dialogue.speakers} <= names
    assert not names & {"Friday", "Perhaps", "Well", "I", "I'd"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see you on Friday", date(2024, 5, 10)),
        ("see you this Friday", date(2024, 5, 10)),
        ("see you next Friday", date(2024, 5, 17)),
        ("it was last Friday", date(2024, 5, 3)),
        ("a week on Friday then", date(2024, 5, 17)),
        ("on Wednesday", date(2024, 5, 15)),  # said on a Wednesday: the next one
        ("last Wednesday", date(2024, 5, 1)),
        ("tomorrow", date(2024, 5, 9)),
        ("the day after tomorrow", date(2024, 5, 10)),
        ("yesterday", date(2024, 5, 7)),
        ("in two weeks", date(2024, 5, 22)),
        ("three days ago", date(2024, 5, 5)),
        ("a week from today", date(2024, 5, 15)),
        ("on the 3rd", date(2024, 6, 3)),
        ("on the 8th", date(2024, 5, 8)),
    ],
)
def test_a_relative_date_counts_from_the_day_it_is_said(text: str, expected: date) -> None:
    assert expected in set(named_dates(text, date(2024, 5, 8)))


def test_habits_and_numbers_name_no_date() -> None:
    assert list(named_dates("Fridays are busy, she won 3 weeks of holidays on 5 May", date(2024, 5, 8))) == []
