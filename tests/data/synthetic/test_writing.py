"""Gold texts for a writer, against a dialogue whose facts are few enough to tell by hand."""

from __future__ import annotations

import re

from data.labelled import LabelledDialogue
from data.synthetic.generator import generate_split
from data.synthetic.writing import Known, facts_of, told
from memory_r1.types import Dialogue, Operation, OperationKind, Question, Session, Turn
from tests.data.synthetic.test_generator import all_values, grams, pool_grams, sentence_words

ADD, UPDATE, DELETE = OperationKind.ADD, OperationKind.UPDATE, OperationKind.DELETE


def labelled() -> LabelledDialogue:
    """Ann has a poodle, which gets a name. Ben's trip is put off, and he leaves the chess club."""
    said = {
        "s1": (
            ("Ann", "I adopted a poodle. I live in Porto."),
            ("Ben", "I fly to Malta on 3 May."),
            ("Ben", "I joined the chess club."),
        ),
        "s2": (
            ("Ann", "Small update, my poodle is called Momo."),
            ("Ben", "They moved my Malta flight to 9 June."),
            ("Ben", "I left the chess club."),
            ("Ann", "Nice!"),
        ),
    }
    sessions = tuple(
        Session(name, day, tuple(Turn(f"{name}:{n}", who, text, name, day) for n, (who, text) in enumerate(turns, 1)))
        for (name, turns), day in zip(said.items(), ("2023-05-01T09:00:00", "2023-05-08T09:00:00"), strict=True)
    )
    gold = {
        "s1:1": (Operation(ADD, "Ann adopted a poodle"), Operation(ADD, "Ann lives in Porto")),
        "s1:2": (Operation(ADD, "Ben flies to Malta on 3 May"),),
        "s1:3": (Operation(ADD, "Ben joined the chess club"),),
        "s2:1": (Operation(UPDATE, "Ann adopted a poodle called Momo", 1),),
        "s2:2": (Operation(UPDATE, "Ben flies to Malta on 9 June", 3),),
        "s2:3": (Operation(DELETE, entry_id=4),),
        "s2:4": (Operation(OperationKind.NOOP),),
    }
    questions = (
        Question("q1", "What is the poodle called?", "Momo", "recall", ("s2:1",)),
        Question("q2", "Where does Ben live?", "unknown", "unanswerable"),
    )
    return LabelledDialogue(Dialogue("d1", ("Ann", "Ben"), sessions, questions), gold)


def known() -> Known:
    item = labelled()
    return Known(item.dialogue, item.gold)


def repeated(again: str = "I live in Porto") -> Known:
    """Ann says twice where she lives."""
    sessions = tuple(
        Session(name, "", (Turn(f"{name}:1", "Ann", text, name),))
        for name, text in (("s1", "I live in Porto."), ("s2", f"As I said, {again}."))
    )
    gold = {"s1:1": (Operation(ADD, "Ann lives in Porto"),), "s2:1": (Operation(OperationKind.NOOP),)}
    return Known(Dialogue("d2", ("Ann", "Ben"), sessions), gold)


def test_a_turn_states_only_what_it_says_itself() -> None:
    facts = known()
    stated = {turn.turn_id: [text for _, text in facts.stated(turn)] for turn in facts.dialogue.turns()}
    assert stated == {
        "s1:1": ["Ann adopted a poodle", "Ann lives in Porto"],
        "s1:2": ["Ben flies to Malta on 3 May"],
        "s1:3": ["Ben joined the chess club"],
        "s2:1": ["Ann's poodle is called Momo"],  # that it was adopted was said a week before
        "s2:2": ["Ben flies to Malta on 9 June"],
        "s2:3": [],
        "s2:4": [],
    }


def test_facts_change_and_end() -> None:
    facts = known()
    first, *_, last = facts.dialogue.turns()
    named = facts.after(last)[0]
    assert facts.versions(named, first) == ["Ann adopted a poodle"]
    assert facts.versions(named, last) == ["Ann adopted a poodle", "Ann adopted a poodle called Momo"]
    assert [entry.text for entry in facts.withdrawn(last)] == ["Ben joined the chess club"]
    assert facts.withdrawn(first) == []


def test_a_fact_is_repeated_by_a_turn_that_names_its_value_and_changes_nothing() -> None:
    facts = repeated()
    assert [[entry.text for entry in facts.repeated(turn)] for turn in facts.dialogue.turns()] == [
        [],
        ["Ann lives in Porto"],
    ]
    assert not any(map(known().repeated, known().dialogue.turns()))


def test_a_turn_tells_triples_with_their_days() -> None:
    facts = known()
    told = {
        turn.turn_id: [(fact.subject, fact.relation, fact.object, fact.time, fact.kind) for fact in facts.triples(turn)]
        for turn in facts.dialogue.turns()
    }
    assert told == {
        "s1:1": [("Ann", "adopted", "poodle", "", ADD), ("Ann", "lives in", "Porto", "", ADD)],
        "s1:2": [("Ben", "flies to", "Malta", "2023-05-03", ADD)],
        "s1:3": [("Ben", "joined", "chess club", "", ADD)],
        "s2:1": [("Ann's poodle", "is called", "Momo", "", ADD)],  # a name ends nothing
        "s2:2": [("Ben", "flies to", "Malta", "2023-06-09", UPDATE)],
        "s2:3": [("Ben", "is no longer in", "chess club", "", DELETE)],
        "s2:4": [],
    }
    assert [[fact.entry_id for fact in facts.triples(turn)] for turn in facts.dialogue.turns()] == [
        *([1, 2], [3], [4]),
        *([1], [3], [4], []),
    ]


def test_a_fact_that_is_repeated_is_told_in_the_words_of_the_turn() -> None:
    for again, relation in (("I live in Porto", "lives in"), ("I rent a studio in Porto", "rents a studio in")):
        facts = repeated(again)
        (first,), (second,) = map(facts.triples, facts.dialogue.turns())
        assert (first.relation, first.kind) == ("lives in", ADD)
        assert (second.relation, second.kind, second.entry_id) == (relation, OperationKind.NOOP, first.entry_id)


def test_names_of_one_thing_mean_the_same() -> None:
    facts = known()
    assert facts.meant("Momo") == facts.meant("Ann's poodle") == facts.meant("poodle")
    assert facts.meant("chess club") == facts.meant("chess")
    assert len({frozenset(facts.meant(name)) for name in ("poodle", "Ann", "Ben", "chess", "Malta")}) == 5


def test_an_entry_supports_a_question_even_before_it_answers_it() -> None:
    facts = known()
    first, *_, last = facts.dialogue.turns()
    asked, unanswerable = facts.dialogue.questions
    assert [entry.text for entry in facts.supporting(asked, first)] == ["Ann adopted a poodle"]
    assert [entry.text for entry in facts.supporting(asked, last)] == ["Ann adopted a poodle called Momo"]
    assert facts.supporting(unanswerable, last) == []


def test_facts_are_told_by_person_and_the_oldest_go_first() -> None:
    facts = known()
    held = facts_of(facts.after(facts.dialogue.turns()[2]))
    whole = "Ann adopted a poodle; lives in Porto. Ben flies to Malta on 3 May; joined the chess club."
    assert told(held, len(whole)) == whole
    assert told(held, len(whole) - 1) == "Ann lives in Porto. Ben flies to Malta on 3 May; joined the chess club."
    assert told(held, 5) == told([], 5) == ""


def test_training_texts_hold_no_heldout_phrasing() -> None:
    values = sorted(all_values("train"), key=len, reverse=True)
    for item in generate_split("train", 6, 0):
        facts = Known(item.dialogue, item.gold)
        masked = re.compile(r"\b(" + "|".join(map(re.escape, [*values, *item.dialogue.speakers])) + r")\b")
        for turn in item.dialogue.turns():
            triples = [f"{fact.subject} {fact.relation} {fact.object}" for fact in facts.triples(turn)]
            for text in [*(text for _, text in facts.stated(turn)), *triples]:
                words = masked.sub("\0", text).lower().replace("\0", "MASK")
                assert not grams(sentence_words(words)) & pool_grams("heldout"), text
