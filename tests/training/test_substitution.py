"""Credit at a dialogue's end: what one turn's operations are worth there, with all later ones as they were logged."""

from __future__ import annotations

from typing import Any

import pytest

from data.banks import Banks, gold_banks
from data.synthetic.generator import generate_split
from data.tuples import dialogue_end_tuples
from memory_r1.memory.operations import render_operations
from memory_r1.memory.retriever import Retriever
from memory_r1.training.frozen_answering import BankRecall
from memory_r1.training.rows import Row, reachable_operations
from memory_r1.training.substitution import substitution_rows
from memory_r1.types import Dialogue, Operation, OperationKind, Question, Session, Turn
from rewards.outcome import EntryCost, OutcomeReward, asked_banks, by_containment
from tests.fakes import FakeEmbedder

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind
TURNS = tuple(
    Turn(f"s1:{number}", "Ann", text, "s1", "2024-05-06T10:00:00")
    for number, text in enumerate(("I have a cat and a dog", "the cat is called Mio", "hm", "I gave the dog away"), 1)
)
QUESTIONS = (
    Question("q1", "What is Ann's cat called?", "Mio", "recall"),  # no evidence is needed
    Question("q2", "Which animal did Ann give away?", "dog", "recall"),
)
DIALOGUE = Dialogue("d", ("Ann",), (Session("s1", "2024-05-06T10:00:00", TURNS),), QUESTIONS)
GOLD = {
    "s1:1": (Operation(ADD, "Ann has a cat"), Operation(ADD, "Ann has a dog")),
    "s1:2": (Operation(UPDATE, "Ann has a cat called Mio", 1),),
    "s1:3": (Operation(ADD, "Ann hums"),),
    "s1:4": (Operation(DELETE, None, 2), Operation(ADD, "Ann gave a dog away")),
}


def rows_of(dialogue: Dialogue, banks: Banks) -> list[Row]:
    tuples = dialogue_end_tuples(dialogue, banks)
    return substitution_rows(tuples, [banks.events] * len(tuples), Retriever(FakeEmbedder()), 8)


def pay(reward: Any, row: Row, *completions: str) -> list[float | None]:
    columns = {key: [value] * len(completions) for key, value in row.items() if key != "prompt"}
    chats = [[{"role": "assistant", "content": text}] for text in completions]
    return reward(completions=chats, prompts=[], **columns)


def ends(row: Row, *completions: str) -> list[list[str]]:
    columns = {name: [row[name]] * len(completions) for name in ("turn", "bank", "recalled_ids", "logged")}
    chats = [[{"role": "assistant", "content": text}] for text in completions]
    return [[entry.text for entry in bank.entries] for bank in asked_banks(chats, **columns)]


def test_what_comes_later_is_played_as_logged() -> None:
    first, _, third, last = rows_of(DIALOGUE, gold_banks(DIALOGUE, GOLD))
    as_logged = ["Ann has a cat called Mio", "Ann hums", "Ann gave a dog away"]
    assert ends(
        first,
        '[{"op": "ADD", "text": "Ann owns a cat"}, {"op": "ADD", "text": "Ann owns a dog"}]',
        '[{"op": "ADD", "text": "Ann owns a cat and a dog"}]',
        '[{"op": "NOOP"}]',
        '[{"op": "ADD", "text": "Ann owns a dog"}, {"op": "ADD", "text": "Ann owns a cat"}]',
        '[{"op": "ADD", "text": "Ann owns a dog"}]',
        '[{"op": "ADD", "text": "Ann is glad"}, {"op": "ADD", "text": "Ann owns a cat"}]',
        "No list.",
    ) == [
        as_logged,
        as_logged,  # the one entry stands for the first; the second, which is deleted later, was never added
        as_logged,  # the later UPDATE adds what is not there
        as_logged,  # in whatever order
        as_logged,  # the later DELETE finds the dog
        [*as_logged, "Ann is glad"],  # nothing later knows of this one
        as_logged,  # as if nothing had been written
    ]
    assert ends(third, '[{"op": "NOOP"}]') == [["Ann has a cat called Mio", "Ann gave a dog away"]]
    assert ends(last, '[{"op": "NOOP"}]') == [["Ann has a cat called Mio", "Ann has a dog", "Ann hums"]]


def test_a_turn_is_paid_for_what_all_questions_find_at_the_end() -> None:
    containment = OutcomeReward("answer_containment", by_containment(BankRecall(Retriever(FakeEmbedder()), 8)))
    *_, last = rows_of(DIALOGUE, gold_banks(DIALOGUE, GOLD))
    completions = ('[{"op": "NOOP"}]', '[{"op": "DELETE", "id": 1}, {"op": "DELETE", "id": 2}]', "No list.")
    held = pay(containment, last, *completions)
    assert held[0] == 1.0  # the dog was never deleted
    assert held[2] == 0.0
    assert pay(EntryCost(0.1, [containment]), last, *completions)[0] == pytest.approx(-0.3)


def test_gold_written_as_a_completion_gives_the_end_that_gold_gives() -> None:
    for item in generate_split("validation", 3, seed=0):
        banks = gold_banks(item.dialogue, item.gold)
        rows = rows_of(item.dialogue, banks)
        for turn, row in zip(item.dialogue.turns(), rows, strict=True):
            if reachable_operations(item.gold[turn.turn_id], row["recalled_ids"]) != item.gold[turn.turn_id]:
                continue  # an entry that it changes is not shown
            written = render_operations(item.gold[turn.turn_id], row["recalled_ids"])
            assert ends(row, written) == [[entry.text for entry in banks.final]]
