"""Each check of a drafted question rejects what it should, and nothing else."""

from __future__ import annotations

import pytest

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.drafting import checks
from memory_r1.drafting.checks import Checker
from memory_r1.drafting.drafts import Draft
from memory_r1.types import Dialogue
from tests.drafting.chats import chat, reply, scripted, session
from tests.fakes import FakeEmbedder, ScriptedLanguageModel


def flags(*drafts: Draft, answerer: AnswerAgent | None = None, dialogue: Dialogue | None = None) -> list[tuple]:
    checked = Checker(FakeEmbedder(), answerer).check(dialogue or chat(), drafts)
    assert [item.question for item in checked] == [item.question for item in drafts]
    return [item.flags for item in checked]


def draft(question: str = "Where does Ann live?", answer: str = "Rome", *evidence: str) -> Draft:
    return Draft(question, answer, "recall", evidence or ("s1:1",))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (draft(), ()),
        (draft("Who owns two dogs besides Ann?", "Ben", "s1:3"), ()),  # the speaker's name is no word of the turn
        (Draft("Where does Ann live?", "Rome", "recall", ()), (checks.NO_EVIDENCE,)),
        (draft(answer="Paris"), (checks.NOT_SAID,)),
        (draft(answer="Rome", question="Does Ann live in Rome?"), (checks.TOLD,)),
        (draft("Where does she live?"), (checks.NOBODY,)),
        (draft("Where is Ann's flat?"), ()),
        (draft(answer="I live in Rome " * 3), (checks.LONG_ANSWER,)),
        (draft("Where does she live?", "Paris"), (checks.NOT_SAID, checks.NOBODY)),
    ],
)
def test_words(item: Draft, expected: tuple[str, ...]) -> None:
    assert flags(item) == [expected]


def test_a_question_is_asked_once_and_its_latest_answer_stays() -> None:
    again = draft("where does Ann live")
    other = draft("Where does Ben live?", "Rome")
    later = draft("Where does Ann live?", "Oslo", "s2:1")
    assert flags(draft(), again, other) == [(), (checks.DUPLICATE,), ()]
    assert flags(draft(), again, later) == [(checks.OUTDATED,), (checks.DUPLICATE,), ()]
    # A rejected draft makes no other one a duplicate.
    assert flags(draft(answer="Paris"), draft()) == [(checks.NOT_SAID,), ()]


def test_the_same_question_about_another_speaker_is_another_question() -> None:
    drafts = [draft(), draft("Where does Ben live?")]
    loose = Checker(FakeEmbedder(), same=0.7)  # three of four words
    assert [item.flags for item in loose.check(chat(), drafts)] == [(), ()]
    assert [item.flags for item in loose.check(chat(), [draft(), draft("Where did Ann live?")])][1]


def test_a_question_must_need_its_evidence_and_no_more() -> None:
    agent = AnswerAgent(scripted())
    assert flags(draft(), answerer=agent) == [()]
    assert flags(draft("Where is Ann?", "live"), answerer=agent) == [(checks.UNANSWERED,)]
    guessing = AnswerAgent(ScriptedLanguageModel(lambda prompt, adapter: "Memories: none\n**Answer:** Rome"))
    assert flags(draft(), answerer=guessing) == [(checks.GUESSED,)]


def test_evidence_that_exceeds_the_models_window_is_an_unanswered_question_and_no_error() -> None:
    long = Dialogue("d", ("Ann", "Ben"), (session(1, ("Ann", "I live in Rome. " + "Well, " * 500)),))
    model = ScriptedLanguageModel(reply, window=200)
    assert flags(draft(), answerer=AnswerAgent(model), dialogue=long) == [(checks.UNANSWERED,)]


def test_rejected_drafts_are_not_put_to_the_answer_agent() -> None:
    model = scripted()
    flags(draft(answer="Paris"), draft(), draft(), answerer=AnswerAgent(model))
    assert len(model.prompts) == 2  # with evidence and without


def test_speakers_of_a_chat_log_count_as_names() -> None:
    dialogue = Dialogue("d", ("user", "assistant"), (session(1, ("user", "I live in Rome."), ("assistant", "Nice.")),))
    assert flags(draft("Where does the user live?"), dialogue=dialogue) == [()]
