"""Training tuples: linking, retention, the share of turns without questions, and the held-out guard."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.banks import Banks, gold_banks
from data.tuples import answer_tuples, branch_points, check_disjoint, manager_tuples, session_tuples
from memory_r1.errors import DataError
from memory_r1.types import Dialogue, ManagerTuple, MemoryEntry, Operation, OperationKind, Question, Session, Turn

ADD, UPDATE, DELETE = OperationKind.ADD, OperationKind.UPDATE, OperationKind.DELETE
TEXTS = (
    "I live in Oslo.",  # 1
    "Lovely weather.",  # 2
    "I have a cat named Momo.",  # 3
    "How nice.",  # 4
    "I moved to Bergen.",  # 5
    "Momo is two now.",  # 6
    "Good night.",  # 7
    "Momo ran away.",  # 8
    "Oh no.",  # 9
)
LIVES = Question("lives", "Where does Ann live now?", "Bergen", "update", ("t5", "t1"))
LIVED = Question("lived", "Where does Ann live?", "Oslo", "single", ("t1",), "2023-05-04T12:00:00")
CAT = Question("cat", "What is the cat's name?", "Momo", "single", ("t3",))
PET = Question("pet", "What pet does Ann have?", "cat", "single", ("t3",))
NEVER = Question("never", "What is Ben's job?", "not mentioned", "unanswerable")
GOLD = {
    "t1": (Operation(ADD, "Ann lives in Oslo"),),
    "t3": (Operation(ADD, "Ann has a cat named Momo"),),
    "t5": (Operation(UPDATE, "Ann lives in Bergen", 1),),
    "t6": (Operation(UPDATE, "Ann has Momo, who is two", 2),),
    "t8": (Operation(DELETE, entry_id=2),),
}


def _dialogue(*questions: Question, texts: tuple[str, ...] = TEXTS) -> Dialogue:
    """Build a session in which turn n is on day n and Ann and Ben alternate."""
    turns = tuple(
        Turn(f"t{number}", "Ann" if number % 2 else "Ben", text, "s", f"2023-05-{number:02}T10:00:00")
        for number, text in enumerate(texts, start=1)
    )
    return Dialogue("d1", ("Ann", "Ben"), (Session("s", "2023-05-01T10:00:00", turns),), questions)


def _by_turn(tuples: list[ManagerTuple]) -> dict[str, ManagerTuple]:
    return {item.turn.turn_id: item for item in tuples}


def _ids(questions: tuple[Question, ...]) -> list[str]:
    return [question.question_id for question in questions]


def _gold_tuples(dialogue: Dialogue, **options: object) -> dict[str, ManagerTuple]:
    banks = gold_banks(dialogue, GOLD)
    return _by_turn(manager_tuples(dialogue, banks, gold=GOLD, every_turn=True, **options))  # type: ignore[arg-type]


def test_a_question_is_linked_to_its_last_evidence_turn_and_to_no_other() -> None:
    tuples = _gold_tuples(_dialogue(LIVES, CAT, PET, NEVER))

    # LIVES cites t5 before t1, but t5 is the later turn
    linked = {turn_id: _ids(item.linked) for turn_id, item in tuples.items() if item.linked}
    assert linked == {"t5": ["lives"], "t3": ["cat", "pet"]}


def test_a_tuple_carries_turn_context_bank_and_gold() -> None:
    item = _gold_tuples(_dialogue(LIVES))["t5"]

    assert item.tuple_id == "d1/t5"
    assert item.dialogue_id == "d1"
    assert item.turn.text == "I moved to Bergen."
    assert [turn.turn_id for turn in item.previous] == ["t3", "t4"]
    assert item.speakers == ("Ann", "Ben")
    assert [entry.text for entry in item.bank] == ["Ann lives in Oslo", "Ann has a cat named Momo"]
    assert item.gold == (Operation(UPDATE, "Ann lives in Bergen", 1),)
    assert [turn.turn_id for turn in item.sources] == ["t1", "t3"]  # of Oslo and of the cat


def test_gold_is_none_without_and_empty_where_it_has_nothing() -> None:
    dialogue = _dialogue(LIVES)

    without = manager_tuples(dialogue, gold_banks(dialogue, GOLD), every_turn=True)

    assert {item.gold for item in without} == {None}
    assert _gold_tuples(dialogue)["t2"].gold == ()


def test_retention_questions_are_those_the_bank_answers_already() -> None:
    tuples = _gold_tuples(_dialogue(LIVES, CAT, NEVER))

    assert {turn_id: _ids(item.retention) for turn_id, item in tuples.items()} == {
        "t1": [],
        "t2": [],  # one of LIVES's turns is still to come
        "t3": [],  # CAT is linked here, not retained
        "t4": ["cat"],
        "t5": ["cat"],
        "t6": ["cat", "lives"],
        "t7": ["cat", "lives"],  # "Ann has Momo, who is two" keeps the name
        "t8": ["lives"],  # the cat's entry is deleted here, so its question is dropped
        "t9": ["lives"],
    }


def test_a_fact_overwritten_by_gold_is_retained_no_more() -> None:
    # PET's answer "cat" is not among the words of t6's update; CAT's "Momo" is
    tuples = _gold_tuples(_dialogue(CAT, PET))

    assert _ids(tuples["t5"].retention) == ["cat", "pet"]
    assert _ids(tuples["t6"].retention) == ["cat"]
    assert _ids(tuples["t7"].retention) == ["cat"]


def test_a_question_asked_before_the_turn_is_retained_no_more() -> None:
    # LIVED is asked on day 4 at noon: the bank of day 5 (t5) need not answer it, even without gold
    dialogue = _dialogue(LIVED)

    tuples = _by_turn(manager_tuples(dialogue, gold_banks(dialogue, GOLD), every_turn=True))

    assert [turn_id for turn_id, item in tuples.items() if item.retention] == ["t2", "t3", "t4"]


def test_what_the_bank_lost_is_not_asked_for() -> None:
    # this bank never stores t3, so CAT cannot be retained
    dialogue = _dialogue(LIVES, CAT)
    gold = {"t1": GOLD["t1"], "t5": GOLD["t5"]}

    tuples = _by_turn(manager_tuples(dialogue, gold_banks(dialogue, gold), every_turn=True))

    assert _ids(tuples["t9"].retention) == ["lives"]


def test_retention_is_capped_and_sampled_by_seed() -> None:
    questions = [replace(CAT, question_id=f"cat{number}") for number in range(12)]
    dialogue = _dialogue(*questions)

    first = _gold_tuples(dialogue, retention_questions=3, seed=1)
    again = _gold_tuples(dialogue, retention_questions=3, seed=1)
    other = _gold_tuples(dialogue, retention_questions=3, seed=2)

    assert first == again
    assert {len(first[turn_id].retention) for turn_id in ("t4", "t5", "t6", "t7", "t8")} <= {0, 3}
    assert len(first["t4"].retention) == 3
    assert len({_ids(first[turn_id].retention)[0] for turn_id in ("t4", "t5", "t6", "t7")}) > 1  # not always the same
    assert first["t4"].retention != other["t4"].retention or first["t5"].retention != other["t5"].retention
    assert all(not item.retention for item in _gold_tuples(dialogue, retention_questions=0).values())


def test_all_linked_turns_are_kept_and_the_fewest_others_make_the_share() -> None:
    dialogue = _dialogue(LIVES, CAT)
    banks = gold_banks(dialogue, GOLD)

    # 2 linked turns (t3, t5); 1 of 3 is a share of 0.33, 2 of 4 one of 0.5
    assert len(manager_tuples(dialogue, banks, min_unlinked_share=0.3)) == 3
    assert len(manager_tuples(dialogue, banks, min_unlinked_share=0.5)) == 4
    assert [item.turn.turn_id for item in manager_tuples(dialogue, banks, min_unlinked_share=0.0)] == ["t3", "t5"]


def test_unlinked_turns_are_no_evidence_at_all_and_rather_those_that_something_scores() -> None:
    dialogue = _dialogue(LIVES, CAT)
    banks = gold_banks(dialogue, GOLD)

    for seed in range(20):
        tuples = manager_tuples(dialogue, banks, min_unlinked_share=0.6, seed=seed)
        unlinked = [item for item in tuples if not item.linked]
        # t1 is LIVES's first evidence; t2's bank answers nothing yet; t4 and t6 to t9 have retention questions
        assert len(unlinked) == 3
        assert {item.turn.turn_id for item in unlinked} <= {"t4", "t6", "t7", "t8", "t9"}
        order = [int(item.turn.turn_id[1:]) for item in tuples]
        assert order == sorted(order)


def test_the_share_holds_where_few_turns_answer_nothing(caplog: pytest.LogCaptureFixture) -> None:
    # only t9 is free, and at most two linked turns leave it a share of 30% (1 of 3)
    questions = [Question(f"q{n}", "?", "x", "single", (f"t{n}",)) for n in range(1, 9)]
    dialogue = _dialogue(*questions)

    with caplog.at_level(logging.WARNING):
        tuples = manager_tuples(dialogue, gold_banks(dialogue, GOLD))

    assert [bool(item.linked) for item in tuples] == [True, True, False]
    assert "6 of its 8 turns with questions are left out" in caplog.text


@given(
    cited=st.lists(st.lists(st.integers(1, 30), min_size=0, max_size=3), max_size=25),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_the_share_always_holds(cited: list[list[int]], share: float, seed: int) -> None:
    texts = tuple("x" for _ in range(30))
    questions = [
        Question(f"q{number}", "?", "x", "single", tuple({f"t{turn}" for turn in turns}))
        for number, turns in enumerate(cited)
    ]
    dialogue = _dialogue(*questions, texts=texts)

    tuples = manager_tuples(dialogue, gold_banks(dialogue, {}), min_unlinked_share=share, seed=seed)

    unlinked = sum(not item.linked for item in tuples)
    assert unlinked >= share * len(tuples)
    evidence = {turn_id for question in questions for turn_id in question.evidence}
    assert all(item.linked or item.turn.turn_id not in evidence for item in tuples)


def test_what_does_not_fit_the_dialogue_is_refused() -> None:
    dialogue = _dialogue(LIVES)
    banks = gold_banks(dialogue, GOLD)

    with pytest.raises(DataError, match="the evidence of question cat: found turn t99"):
        manager_tuples(_dialogue(replace(CAT, evidence=("t99",))), banks)
    with pytest.raises(DataError, match="dialogue d1 has no bank for turn t1"):
        manager_tuples(dialogue, Banks({}, ()))
    with pytest.raises(DataError, match="turn t5 of dialogue d1: no live entry has id 1"):
        manager_tuples(dialogue, gold_banks(dialogue, {}), gold=GOLD)
    with pytest.raises(DataError, match="gold operations: found turn t99"):
        manager_tuples(dialogue, banks, gold={"t99": ()})
    for options in ({"min_unlinked_share": 1.0}, {"retention_questions": -1}):
        with pytest.raises(ValueError, match="min_unlinked_share must be in"):
            manager_tuples(dialogue, banks, **options)


def test_answer_tuples_have_every_question_and_the_bank_given() -> None:
    dialogue = _dialogue(LIVES, NEVER)
    bank = [MemoryEntry(7, "Ann lives in Bergen", "Ann", "2023-05-05T10:00:00", ("t5",))]

    tuples = answer_tuples(dialogue, bank)

    assert [(item.tuple_id, item.question, item.bank) for item in tuples] == [
        ("d1/lives", LIVES, tuple(bank)),
        ("d1/never", NEVER, tuple(bank)),
    ]
    assert {(item.dialogue_id, item.speakers) for item in tuples} == {("d1", ("Ann", "Ben"))}


def test_of_banks_a_question_gets_the_one_at_the_time_it_is_asked() -> None:
    dialogue = _dialogue(LIVES, LIVED)
    banks = gold_banks(dialogue, GOLD)

    lives, lived = answer_tuples(dialogue, banks)

    assert lives.bank == banks.final
    # asked on day 4 at noon, after t4: the bank before t5
    assert lived.bank == banks["t5"]
    assert lived.bank[0].text == "Ann lives in Oslo"


def test_a_dialogue_on_both_sides_is_refused() -> None:
    dialogue = _dialogue(LIVES)
    tuples = manager_tuples(dialogue, gold_banks(dialogue, GOLD))
    other = replace(dialogue, dialogue_id="d2")

    check_disjoint(tuples, [other])
    check_disjoint([], [dialogue])
    with pytest.raises(DataError, match=r"both in training and held out \(d1\)"):
        check_disjoint(tuples, [other, dialogue])
    with pytest.raises(DataError, match=r"\(d2\)"):
        check_disjoint([other], answer_tuples(other, ()))


def _in_sessions(*questions: Question) -> Dialogue:
    """Split the turns into three sessions: t1 to t3, t4 to t6, t7 to t9."""
    flat = _dialogue(*questions)
    turns = flat.turns()
    sessions = tuple(Session(f"s{n}", turns[3 * n].timestamp, turns[3 * n : 3 * n + 3]) for n in range(3))
    return replace(flat, sessions=sessions)


def test_a_session_is_linked_to_the_questions_whose_last_evidence_it_holds() -> None:
    dialogue = _in_sessions(LIVES, CAT, PET, NEVER)
    tuples = session_tuples(dialogue, gold_banks(dialogue, GOLD))

    assert [item.tuple_id for item in tuples] == ["d1/s0", "d1/s1", "d1/s2"]
    assert [_ids(item.linked) for item in tuples] == [["cat", "pet"], ["lives"], []]
    # Before s1 the bank has the cat, before s2 also Bergen; without gold, nothing counts as overwritten.
    assert [set(_ids(item.retention)) <= {"cat", "pet", "lives"} for item in tuples] == [True] * 3
    assert [len(item.retention) for item in tuples] == [0, 2, 2]
    assert [entry.text for entry in tuples[1].bank] == ["Ann lives in Oslo", "Ann has a cat named Momo"]
    assert [turn.turn_id for turn in tuples[1].sources] == ["t1", "t3"]
    assert session_tuples(dialogue, gold_banks(dialogue, GOLD)) == tuples


def test_a_session_without_any_question_is_no_tuple_and_an_earlier_question_is_left_out() -> None:
    # LIVED is asked on day 4, in the middle of s1: the bank of s0 (days 1 to 3) must answer it, later ones need not.
    dialogue = _in_sessions(LIVED)
    tuples = session_tuples(dialogue, gold_banks(dialogue, GOLD))
    assert [(item.tuple_id, _ids(item.linked), _ids(item.retention)) for item in tuples] == [("d1/s0", ["lived"], [])]


def test_a_group_may_branch_wherever_a_question_can_score_the_end_of_the_session() -> None:
    points = branch_points(_in_sessions(LIVES, CAT, LIVED))
    found = {
        point.dialogue.sessions[point.session].turns[point.turn].turn_id: (_ids(point.linked), _ids(point.earlier))
        for point in points
    }
    assert found == {
        "t1": (["lived", "cat"], []),
        "t2": (["cat"], ["lived"]),
        "t3": (["cat"], ["lived"]),
        "t4": (["lives"], ["cat"]),
        "t5": (["lives"], ["cat"]),
        "t6": ([], ["cat", "lives"]),
        "t7": ([], ["cat", "lives"]),
        "t8": ([], ["cat", "lives"]),
        "t9": ([], ["cat", "lives"]),
    }


def test_where_nothing_scores_no_group_branches() -> None:
    assert branch_points(_in_sessions(NEVER)) == []
    late = branch_points(_in_sessions(Question("oh", "?", "no", "single", ("t9",))))
    assert [(point.session, point.turn) for point in late] == [(2, 0), (2, 1), (2, 2)]
