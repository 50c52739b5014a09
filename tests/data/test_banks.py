"""Banks along a dialogue, from gold operations, a manager, and noted observations."""

from __future__ import annotations

import pytest

from data.banks import Observation, gold_banks, observation_banks, turn_banks, with_inferred_evidence
from memory_r1.errors import DataError
from memory_r1.types import Dialogue, MemoryEntry, Operation, OperationKind, Question, Session, Turn

ADD, UPDATE, DELETE = OperationKind.ADD, OperationKind.UPDATE, OperationKind.DELETE
DAY = {"s1": "2023-05-08T10:00:00", "s2": "2023-05-09T10:00:00"}


def _turn(turn_id: str, speaker: str = "Ann") -> Turn:
    session_id = turn_id.split(":")[0]
    return Turn(turn_id, speaker, f"text of {turn_id}", session_id, DAY[session_id])


DIALOGUE = Dialogue(
    "d1",
    ("Ann", "Ben"),
    (
        Session("s1", DAY["s1"], (_turn("s1:1"), _turn("s1:2", "Ben"), _turn("s1:3"), _turn("s1:4", "Ben"))),
        Session("s2", DAY["s2"], (_turn("s2:1"),)),
    ),
)
GOLD = {
    "s1:1": (Operation(ADD, "Ann lives in Oslo"),),
    "s1:2": (Operation(ADD, "Ben has a cat"), Operation(ADD, "Ben paints")),
    "s1:4": (Operation(DELETE, entry_id=3),),
    "s2:1": (Operation(UPDATE, "Ann lives in Bergen", 1), Operation(ADD, "Ann sails")),
}
OSLO = MemoryEntry(1, "Ann lives in Oslo", "Ann", DAY["s1"], ("s1:1",))
CAT = MemoryEntry(2, "Ben has a cat", "Ben", DAY["s1"], ("s1:2",))
PAINTS = MemoryEntry(3, "Ben paints", "Ben", DAY["s1"], ("s1:2",))


def test_previous_turns_are_two_of_the_same_session() -> None:
    previous = DIALOGUE.previous_turns()

    assert previous["s1:1"] == ()
    assert previous["s1:2"] == (_turn("s1:1"),)
    assert previous["s1:4"] == (_turn("s1:2", "Ben"), _turn("s1:3"))
    assert previous["s2:1"] == ()


def test_gold_banks_hold_what_was_said_before_each_turn() -> None:
    banks = gold_banks(DIALOGUE, GOLD)

    assert dict(banks) == {
        "s1:1": (),
        "s1:2": (OSLO,),
        "s1:3": (OSLO, CAT, PAINTS),
        "s1:4": (OSLO, CAT, PAINTS),
        "s2:1": (OSLO, CAT),
    }
    # the update keeps id and place; id 3 was deleted and is not reused
    assert banks.final == (
        MemoryEntry(1, "Ann lives in Bergen", "Ann", DAY["s2"], ("s1:1", "s2:1")),
        CAT,
        MemoryEntry(4, "Ann sails", "Ann", DAY["s2"], ("s2:1",)),
    )


def test_gold_that_does_not_fit_is_refused_by_turn() -> None:
    with pytest.raises(DataError, match="turn s1:1 of dialogue d1: no live entry has id 9"):
        gold_banks(DIALOGUE, {"s1:1": (Operation(DELETE, entry_id=9),)})
    with pytest.raises(DataError, match="gold operations: found turn s9:1, allowed: the turns of dialogue d1"):
        gold_banks(DIALOGUE, {"s9:1": ()})


OBSERVATIONS = [
    Observation("Ben", "Ben is back", ("s1:4",)),
    Observation("Ann", "Ann moved", ("s1:1", "s1:3")),
    Observation("Ann", "from nowhere", ()),
    Observation("Ann", "Ann is early", ("s1:1",)),
]


def test_observations_enter_the_bank_after_their_last_turn() -> None:
    banks = observation_banks(DIALOGUE, OBSERVATIONS)

    early = MemoryEntry(1, "Ann is early", "Ann", DAY["s1"], ("s1:1",))
    moved = MemoryEntry(2, "Ann moved", "Ann", DAY["s1"], ("s1:1", "s1:3"))
    back = MemoryEntry(3, "Ben is back", "Ben", DAY["s1"], ("s1:4",))
    assert dict(banks) == {
        "s1:1": (),
        "s1:2": (early,),
        "s1:3": (early,),
        "s1:4": (early, moved),
        "s2:1": (early, moved, back),
    }
    assert banks.final == (early, moved, back)


def test_an_observation_of_another_dialogue_is_refused() -> None:
    with pytest.raises(DataError, match="an observation: found turn D1:1"):
        observation_banks(DIALOGUE, [Observation("Ann", "elsewhere", ("D1:1",))])


def test_evidence_is_inferred_from_the_turn_after_which_the_answer_stands_in_the_bank() -> None:
    turns = tuple(Turn(f"t{n}", "Ann", text) for n, text in enumerate(("hm", "I moved to Rome", "Rome is hot"), 1))
    questions = (
        Question("q1", "Where does Ann live?", "rome", "recall"),
        Question("q2", "Where did Ann go?", "Rome", "recall", ("t3",)),
        Question("q3", "Who is Ann's cat?", "unknown", "unanswerable"),
    )
    dialogue = Dialogue("d", ("Ann",), (Session("s1", "", turns),), questions)
    gold = {"t2": (Operation(OperationKind.ADD, "Ann lives in Rome"),)}
    inferred = with_inferred_evidence(dialogue, gold_banks(dialogue, gold))
    assert [question.evidence for question in inferred.questions] == [("t2",), ("t3",), ()]
    assert with_inferred_evidence(dialogue, gold_banks(dialogue, {})).questions == questions


def test_plain_turns_are_entries_as_they_were_said() -> None:
    banks = turn_banks(DIALOGUE)
    turns = DIALOGUE.turns()
    assert [entry.text for entry in banks.final] == [turn.text for turn in turns]
    assert [len(banks[turn.turn_id]) for turn in turns] == list(range(len(turns)))
    assert [entry.source_turn_ids for entry in banks.final] == [(turn.turn_id,) for turn in turns]
