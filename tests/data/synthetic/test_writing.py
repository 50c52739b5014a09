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
    """Ann has a poodle, which gets a name. Ben's trip is put off, and he leaves Acme."""
    said = {
        "s1": (
            ("Ann", "I adopted a poodle. I live in Rome."),
            ("Ben", "I fly to Malta on 3 May."),
            ("Ben", "I work for Acme."),
        ),
        "s2": (
            ("Ann", "Small update, my poodle is called Momo."),
            ("Ben", "They moved my Malta flight to 9 June."),
            ("Ben", "I left Acme."),
            ("Ann", "Nice!"),
        ),
    }
    sessions = tuple(
        Session(name, day, tuple(Turn(f"{name}:{n}", who, text, name, day) for n, (who, text) in enumerate(turns, 1)))
        for (name, turns), day in zip(said.items(), ("2023-05-01T09:00:00", "2023-05-08T09:00:00"), strict=True)
    )
    gold = {
        "s1:1": (Operation(ADD, "Ann adopted a poodle"), Operation(ADD, "Ann lives in Rome")),
        "s1:2": (Operation(ADD, "Ben flies to Malta on 3 May"),),
        "s1:3": (Operation(ADD, "Ben works for Acme"),),
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


def repeated() -> Known:
    """Ann says twice where she lives."""
    sessions = tuple(
        Session(name, "", (Turn(f"{name}:1", "Ann", text, name),))
        for name, text in (("s1", "I live in Porto."), ("s2", "As I said, I live in Porto."))
    )
    gold = {"s1:1": (Operation(ADD, "Ann lives in Porto"),), "s2:1": (Operation(OperationKind.NOOP),)}
    return Known(Dialogue("d2", ("Ann", "Ben"), sessions), gold)


def test_a_turn_states_only_what_it_says_itself() -> None:
    facts = known()
    stated = {turn.turn_id: [text for _, text in facts.stated(turn)] for turn in facts.dialogue.turns()}
    assert stated == {
        "s1:1": ["Ann adopted a poodle", "Ann lives in Rome"],
        "s1:2": ["Ben flies to Malta on 3 May"],
        "s1:3": ["Ben works for Acme"],
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
    assert [entry.text for entry in facts.withdrawn(last)] == ["Ben works for Acme"]
    assert facts.withdrawn(first) == []


def test_a_fact_is_repeated_by_a_turn_that_names_its_value_and_changes_nothing() -> None:
    facts = repeated()
    assert [[entry.text for entry in facts.repeated(turn)] for turn in facts.dialogue.turns()] == [
        [],
        ["Ann lives in Porto"],
    ]
    assert not any(map(known().repeated, known().dialogue.turns()))


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
    whole = "Ann adopted a poodle; lives in Rome. Ben flies to Malta on 3 May; works for Acme."
    assert told(held, len(whole)) == whole
    assert told(held, len(whole) - 1) == "Ann lives in Rome. Ben flies to Malta on 3 May; works for Acme."
    assert told(held, 5) == told([], 5) == ""


def test_training_texts_hold_no_heldout_phrasing() -> None:
    values = sorted(all_values("train"), key=len, reverse=True)
    for item in generate_split("train", 6, 0):
        facts = Known(item.dialogue, item.gold)
        masked = re.compile(r"\b(" + "|".join(map(re.escape, [*values, *item.dialogue.speakers])) + r")\b")
        for turn in item.dialogue.turns():
            for _, text in facts.stated(turn):
                words = masked.sub("\0", text).lower().replace("\0", "MASK")
                assert not grams(sentence_words(words)) & pool_grams("heldout"), text
