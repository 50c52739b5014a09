"""Gold entries as quotes of the turn that states them."""

from __future__ import annotations

from data.banks import gold_banks
from data.quotes import quote, with_quotes
from data.sources import Source
from data.synthetic.generator import generate_split
from memory_r1.types import Turn


def said(text: str) -> Turn:
    return Turn("s1:1", "Ann", text, "s1", "2023-05-01T10:00:00")


def test_a_quote_is_the_sentence_that_shares_most_words_with_the_entry() -> None:
    turn = said("What a day! I left Oslo and live in Rome now. My cat is called Momo.")
    assert quote(turn, "Ann lives in Rome") == "Ann: I left Oslo and live in Rome now."
    assert quote(turn, "Ann has a cat called Momo") == "Ann: My cat is called Momo."
    assert quote(said("Rome, since May"), "Ann lives in Rome") == "Ann: Rome, since May"


def test_quoted_operations_replay_and_hold_every_answer_that_a_turn_says() -> None:
    labelled = generate_split("train", 6, 0)
    for source in with_quotes([Source(item.dialogue, item.gold) for item in labelled]):
        assert source.gold is not None
        turns = {turn.turn_id: turn for turn in source.dialogue.turns()}
        for turn_id, operations in source.gold.items():
            texts = [operation.text for operation in operations if operation.text is not None]
            assert all(text.removeprefix(f"{turns[turn_id].speaker}: ") in turns[turn_id].text for text in texts)
            assert len(set(texts)) == len(texts)  # two facts of a turn are two sentences
        bank = " ".join(entry.text.lower() for entry in gold_banks(source.dialogue, source.gold).final)
        asked = [question for question in source.dialogue.questions if question.category in ("recall", "update")]
        assert asked and all(question.answer.lower() in bank for question in asked)


def test_dialogues_without_gold_stay_as_they_are() -> None:
    source = Source(generate_split("train", 1, 0)[0].dialogue)
    assert with_quotes([source]) == [source]
