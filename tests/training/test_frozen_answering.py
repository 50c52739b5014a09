"""The frozen Answer Agent of a reward retrieves again, answers new questions and remembers the rest."""

from __future__ import annotations

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.memory.retriever import Retriever
from memory_r1.training.frozen_answering import BankQuestion, FrozenAnswering
from memory_r1.types import MemoryEntry, Question
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

ROME = MemoryEntry(1, "Ann lives in Rome", "Ann", "", ("t1",))
OSLO = MemoryEntry(1, "Ann lives in Oslo", "Ann", "", ("t1", "t2"))
TEA = MemoryEntry(2, "Ben likes tea", "Ben", "", ("t3",))
COFFEE = MemoryEntry(3, "Ben hates coffee", "Ben", "", ("t4",))
WHERE = Question("q1", "Where does Ann live?", "Rome", "recall", ("t1",))
DRINK = Question("q2", "What does Ben like?", "tea", "recall", ("t3",))


def asked(question: Question, *entries: MemoryEntry) -> BankQuestion:
    return BankQuestion(question, entries, ("Ann", "Ben"))


def answering(recall_per_speaker: int = 1, remembered: int = 100) -> tuple[FrozenAnswering, ScriptedLanguageModel]:
    """Make a frozen Answer Agent that repeats the first memory shown."""
    model = ScriptedLanguageModel()
    return FrozenAnswering(AnswerAgent(model), Retriever(FakeEmbedder()), recall_per_speaker, remembered), model


def test_equal_requests_are_answered_once_and_all_answers_keep_their_order() -> None:
    frozen, model = answering()
    batch = [asked(WHERE, ROME, TEA), asked(DRINK, ROME, TEA), asked(WHERE, ROME, TEA), asked(WHERE, OSLO, TEA)]
    assert [answer.text for answer in frozen.answer(batch)] == [
        "Ann lives in Rome",
        "Ben likes tea",
        "Ann lives in Rome",
        "Ann lives in Oslo",
    ]
    assert [len(prompts) for prompts in model.batches] == [3]
    assert (frozen.requested, frozen.generated) == (4, 3)


def test_what_differs_only_in_what_is_not_recalled_is_the_same_request() -> None:
    frozen, _ = answering(recall_per_speaker=1)
    frozen.answer([asked(DRINK, TEA), asked(DRINK, TEA, COFFEE)])  # one of Ben's is recalled: tea both times
    assert frozen.generated == 1


def test_answers_are_remembered_between_calls_and_counted() -> None:
    frozen, model = answering()
    first = frozen.answer([asked(WHERE, ROME)])
    assert frozen.answer([asked(WHERE, ROME)]) == first
    assert frozen.answer([asked(WHERE, OSLO), asked(WHERE, ROME)])[1:] == first
    assert [len(prompts) for prompts in model.batches] == [1, 1]
    assert (frozen.requested, frozen.generated) == (4, 2)


def test_when_a_question_is_asked_is_part_of_it() -> None:
    frozen, _ = answering()
    later = Question("q1", WHERE.question, "Oslo", "recall", ("t1",), "2023-06-01T00:00:00")
    frozen.answer([asked(WHERE, ROME), asked(later, ROME)])
    assert frozen.generated == 2


def test_the_gold_answer_decides_nothing() -> None:
    frozen, _ = answering()
    other = Question("q9", WHERE.question, "Paris", "update", ())
    first, second = frozen.answer([asked(WHERE, ROME), asked(other, ROME)])
    assert first == second
    assert frozen.generated == 1


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    frozen, _ = answering(remembered=1)
    frozen.answer([asked(WHERE, ROME)])
    frozen.answer([asked(DRINK, TEA)])
    frozen.answer([asked(DRINK, TEA)])
    assert frozen.generated == 2
    frozen.answer([asked(WHERE, ROME)])  # was pushed out
    assert frozen.generated == 3


def test_a_batch_larger_than_the_memory_is_answered_whole() -> None:
    frozen, _ = answering(remembered=1)
    batch = [asked(WHERE, ROME), asked(DRINK, TEA), asked(WHERE, OSLO)]
    assert [answer.text for answer in frozen.answer(batch)] == [ROME.text, TEA.text, OSLO.text]


def test_an_empty_bank_is_asked_too_and_no_question_costs_nothing() -> None:
    frozen, model = answering()
    assert [answer.text for answer in frozen.answer([asked(WHERE)])] == ["unknown"]
    assert frozen.answer([]) == []
    assert len(model.batches) == 1
