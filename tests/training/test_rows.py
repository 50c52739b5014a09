"""Training tuples become rows: the policy's prompt, its target, and columns that only rewards may see."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.banks import gold_banks
from data.labelled import LabelledDialogue
from data.synthetic.generator import generate_split
from data.tuples import answer_tuples, manager_tuples
from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
from memory_r1.agents.memory_manager import ManageRequest, MemoryManager
from memory_r1.inference.language_model import Messages
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.operations import check_completion
from memory_r1.memory.retriever import Retriever
from memory_r1.training.rows import (
    Row,
    answer_rows,
    answer_sft_rows,
    bank_from_row,
    is_answerable,
    manager_rows,
    manager_sft_rows,
    questions_from_json,
    questions_to_json,
    reachable_operations,
    turn_from_json,
)
from memory_r1.types import (
    AnswerTuple,
    Dialogue,
    ManagerTuple,
    MemoryEntry,
    Operation,
    OperationKind,
    Question,
    Recall,
    Turn,
)
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind
RECALL_PER_SPEAKER = 2

ROME = MemoryEntry(4, "Ann lives in Rome", "Ann", "2023-05-08T13:56:00", ("t1",))
BIKE = MemoryEntry(2, "Ben sold his bicycle", "Ben", "2023-05-08T13:56:00", ("t2",))
DOG = MemoryEntry(7, "Ann has a dog", "Ann", "2023-05-08T13:56:00", ("t3", "t5"))
MOVED = Turn("t9", "Ann", "I no longer live in Rome, I live in Oslo.", "s2", "2023-06-01T10:00:00")
WHERE = Question("q1", "Where does Ann live?", "Oslo", "update", ("t9",), "2023-07-01T00:00:00")
PET = Question("q2", "What pet does Ann have?", "a dog", "recall", ("t3",))


def retriever() -> Retriever:
    return Retriever(FakeEmbedder())


def manager_tuple(gold: tuple[Operation, ...] | None = None) -> ManagerTuple:
    return ManagerTuple("d/t9", "d", MOVED, (), ("Ann", "Ben"), (BIKE, ROME, DOG), (WHERE,), (PET,), gold)


def prompt_text(row: Row) -> str:
    return "\n".join(message["content"] for message in row["prompt"])


def target(row: Row) -> str:
    (message,) = row["completion"]
    assert message["role"] == "assistant"
    return message["content"]


def test_a_managers_row_says_all_that_its_reward_needs() -> None:
    (row,) = manager_rows([manager_tuple()], retriever(), RECALL_PER_SPEAKER)
    assert turn_from_json(row["turn"]) == MOVED
    assert bank_from_row(row["bank"]).entries() == (BIKE, ROME, DOG)
    assert questions_from_json(row["linked"]) == (WHERE,)
    assert questions_from_json(row["retention"]) == (PET,)
    assert (row["speakers"], row["tuple_id"]) == (["Ann", "Ben"], "d/t9")
    by_id = {entry.entry_id: entry for entry in (ROME, BIKE, DOG)}
    for number, entry_id in enumerate(row["recalled_ids"], start=1):
        assert f"{number}. {by_id[entry_id].text} [Monday 8 May 2023]" in prompt_text(row)


def test_a_managers_row_counts_the_words_of_what_its_bank_comes_from() -> None:
    said = (Turn("t1", "Ann", "I live in  Rome now."), Turn("t3", "Ann", ""))
    (row,) = manager_rows([replace(manager_tuple(), sources=said)], retriever(), RECALL_PER_SPEAKER)
    assert json.loads(row["source_words"]) == {"t1": 5, "t3": 0}


def test_a_managers_row_is_the_prompt_that_it_will_read_in_use() -> None:
    model = ScriptedLanguageModel(lambda prompt, adapter: "[]")
    item = manager_tuple()
    MemoryManager(model, retriever(), recall_per_speaker=1).manage(
        [ManageRequest(item.turn, item.previous, MemoryBank(item.bank), item.speakers)]
    )
    (row,) = manager_rows([item], retriever(), 1)
    assert [row["prompt"][-1]["content"]] == model.prompts


def test_banks_of_two_rows_are_apart() -> None:
    (row,) = manager_rows([manager_tuple()], retriever(), RECALL_PER_SPEAKER)
    bank_from_row(row["bank"]).apply([Operation(DELETE, entry_id=4)], MOVED)
    assert len(bank_from_row(row["bank"])) == 3


@given(st.lists(st.builds(Question, st.text(), st.text(), st.text(), st.text(), st.lists(st.text()).map(tuple))))
def test_questions_travel_unchanged(questions: list[Question]) -> None:
    assert questions_from_json(questions_to_json(questions)) == tuple(questions)


@pytest.fixture(scope="module")
def synthetic() -> list[LabelledDialogue]:
    return generate_split("train", 3, seed=11)


@pytest.mark.parametrize("every_turn", [True, False])
def test_no_question_and_no_gold_answer_is_in_a_managers_prompt(
    synthetic: list[LabelledDialogue], every_turn: bool
) -> None:
    for example in synthetic:
        banks = gold_banks(example.dialogue, example.gold)
        tuples = manager_tuples(example.dialogue, banks, every_turn=every_turn, gold=example.gold)
        spoken = {turn.turn_id: place for place, turn in enumerate(example.dialogue.turns())}
        rows = [
            *manager_rows(tuples, retriever(), RECALL_PER_SPEAKER),
            *manager_sft_rows(tuples, retriever(), RECALL_PER_SPEAKER),
        ]
        assert len(rows) == 2 * len(tuples) > 10
        for row, item in zip(rows, [*tuples, *tuples], strict=True):
            text = prompt_text(row)
            said = [turn.text for turn in example.dialogue.turns()[: spoken[item.turn.turn_id] + 1]]
            known = " ".join([*said, *(entry.text for entry in item.bank)])
            for question in example.dialogue.questions:
                assert question.question not in text
                # An answer may be in the prompt only if somebody has said it by then ("unknown" is never said).
                if question.answer in text:
                    assert question.answer in known
            assert not any(turn.text in text for turn in example.dialogue.turns() if turn.text not in said)


@settings(max_examples=25, deadline=None)
@given(
    question=st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=12, max_size=30),
    answer=st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=12, max_size=30),
)
def test_whatever_is_asked_the_prompt_is_the_same(question: str, answer: str) -> None:
    asked = Question("q", question, answer, "recall", ("t9",))
    other = ManagerTuple("d/t9", "d", MOVED, (), ("Ann", "Ben"), (ROME, BIKE, DOG), (asked,), (asked,))
    rows = manager_rows([manager_tuple(), other], Retriever(None, "bm25"), RECALL_PER_SPEAKER)
    assert rows[0]["prompt"] == rows[1]["prompt"]
    assert question not in prompt_text(rows[1])
    assert answer not in prompt_text(rows[1])


@pytest.mark.parametrize(
    ("gold", "recalled", "reachable"),
    [
        ((Operation(UPDATE, "x", 4),), [4, 2], (Operation(UPDATE, "x", 4),)),
        ((Operation(UPDATE, "x", 4),), [2], (Operation(ADD, "x"),)),  # an entry that was not recalled has no number
        ((Operation(DELETE, entry_id=4),), [4], (Operation(DELETE, entry_id=4),)),
        ((Operation(DELETE, entry_id=4),), [2], (Operation(NOOP),)),
        ((Operation(DELETE, entry_id=4), Operation(ADD, "x")), [2], (Operation(ADD, "x"),)),
        ((Operation(ADD, "x"), Operation(UPDATE, "y", 2)), [2], (Operation(ADD, "x"), Operation(UPDATE, "y", 2))),
        ((Operation(NOOP),), [], (Operation(NOOP),)),
        ((), [2], (Operation(NOOP),)),  # a turn with nothing to store
    ],
)
def test_gold_is_taught_as_far_as_the_prompt_reaches(
    gold: tuple[Operation, ...], recalled: list[int], reachable: tuple[Operation, ...]
) -> None:
    assert reachable_operations(gold, recalled) == reachable


def test_a_manager_is_taught_the_number_of_the_entry_in_its_prompt() -> None:
    tuples = [manager_tuple((Operation(UPDATE, "Ann lives in Oslo", 4),)), manager_tuple(None)]
    (row,) = manager_sft_rows(tuples, retriever(), RECALL_PER_SPEAKER)  # without gold there is nothing to teach
    assert row.keys() == {"prompt", "completion"}
    (operation,) = json.loads(target(row))
    assert (operation["op"], operation["text"]) == ("UPDATE", "Ann lives in Oslo")
    assert f"{operation['id']}. Ann lives in Rome" in prompt_text(row)


def test_every_target_of_the_generated_dialogues_is_accepted_whole(synthetic: list[LabelledDialogue]) -> None:
    kinds = set()
    for example in synthetic:
        banks = gold_banks(example.dialogue, example.gold)
        tuples = manager_tuples(example.dialogue, banks, every_turn=True, gold=example.gold)
        columns = manager_rows(tuples, retriever(), RECALL_PER_SPEAKER)
        for item, column, row in zip(
            tuples, columns, manager_sft_rows(tuples, retriever(), RECALL_PER_SPEAKER), strict=True
        ):
            checked = check_completion(target(row), column["recalled_ids"])
            assert checked.failure is None
            assert checked.accepted == reachable_operations(item.gold or (), column["recalled_ids"])
            assert all(operation.accepted for operation in checked.operations)
            kinds |= {operation.kind for operation in checked.accepted}
    assert kinds == {ADD, UPDATE, DELETE, NOOP}  # otherwise the assertions above prove little


def answer_tuple(question: Question, bank: tuple[MemoryEntry, ...] = (ROME, BIKE, DOG)) -> AnswerTuple:
    return AnswerTuple(f"d/{question.question_id}", "d", question, ("Ann", "Ben"), bank)


def test_an_answer_row_numbers_the_evidence_as_its_prompt_does() -> None:
    # Recalled are Rome, the bicycle and the dog; Ann's block comes first, so the dog, recalled third, is memory 2.
    question = Question("q2", "Ann lives in Rome, and who sold his bicycle?", "a dog", "recall", ("t3",))
    recalled = retriever().retrieve(question.question, (DOG, BIKE, ROME), RECALL_PER_SPEAKER, ("Ann", "Ben"))
    assert recalled == (ROME, BIKE, DOG)
    (row,) = answer_rows([answer_tuple(question, (DOG, BIKE, ROME))], retriever(), RECALL_PER_SPEAKER)
    assert (row["answer"], row["category"], row["tuple_id"]) == ("a dog", "recall", "d/q2")
    assert row["numbered"] == [4, 7, 2]
    assert row["evidence_numbers"] == [2]
    assert "2. Ann has a dog" in prompt_text(row)
    # Rewards on distillation read the source turns of each memory, in the prompt's order.
    assert (row["question"], row["evidence"]) == (question.question, ["t3"])
    assert row["sources"] == [["t1"], ["t3", "t5"], ["t2"]]
    assert (row["texts"], row["answer_style"]) == ([ROME.text, DOG.text, BIKE.text], "ids")


@pytest.mark.parametrize("style", ["ids", "quotes"])
def test_an_answer_row_is_the_prompt_that_the_agent_reads_in_use(style: str) -> None:
    seen: list[Messages] = []

    def note(prompt: Messages, adapter: str | None) -> str:
        seen.append(prompt)
        return ""

    (row,) = answer_rows([answer_tuple(WHERE)], retriever(), RECALL_PER_SPEAKER, style)
    recalled = retriever().retrieve(WHERE.question, (ROME, BIKE, DOG), RECALL_PER_SPEAKER, ("Ann", "Ben"))
    request = AnswerRequest(WHERE.question, Recall(recalled), WHERE.asked_at)
    AnswerAgent(ScriptedLanguageModel(note), style=style).answer([request])
    assert seen == [row["prompt"]]


@pytest.mark.parametrize(
    ("question", "bank", "answer", "names_evidence"),
    [
        (PET, (ROME, BIKE, DOG), "a dog", True),
        (PET, (ROME, BIKE), "unknown", False),  # retrieval found no evidence, and guessing is not taught
        (PET, (), "unknown", False),
        (Question("q", "What is Ben's job?", "unknown", "unanswerable"), (ROME, BIKE, DOG), "unknown", False),
    ],
)
def test_an_answer_is_taught_only_where_its_evidence_is_shown(
    question: Question, bank: tuple[MemoryEntry, ...], answer: str, names_evidence: bool
) -> None:
    (row,) = answer_sft_rows([answer_tuple(question, bank)], retriever(), RECALL_PER_SPEAKER)
    memories, final = target(row).splitlines()
    assert final == f"**Answer:** {answer}"
    assert (memories != "Memories: none") is names_evidence


def test_questions_whose_evidence_is_not_shown_can_be_left_out() -> None:
    nobody = Question("q", "What is Ben's job?", "unknown", "unanswerable")
    asked = [answer_tuple(PET, (ROME, BIKE)), answer_tuple(PET, (ROME, DOG)), answer_tuple(nobody, (ROME, BIKE))]
    rows = answer_sft_rows(asked, retriever(), RECALL_PER_SPEAKER, answerable_only=True)
    assert [target(row).splitlines()[-1] for row in rows] == ["**Answer:** a dog", "**Answer:** unknown"]


def test_an_answer_that_quotes_is_taught_the_words_of_its_evidence() -> None:
    (row,) = answer_sft_rows([answer_tuple(PET)], retriever(), RECALL_PER_SPEAKER, "quotes")
    assert target(row).splitlines() == ["Memories:", DOG.text, "**Answer:** a dog"]
    (row,) = answer_sft_rows([answer_tuple(PET, ())], retriever(), RECALL_PER_SPEAKER, "quotes")
    assert target(row).splitlines() == ["Memories:", "**Answer:** unknown"]


def test_the_gold_answer_is_not_in_an_answer_prompt_unless_a_memory_says_it(
    synthetic: list[LabelledDialogue],
) -> None:
    for example in synthetic:
        bank = gold_banks(example.dialogue, example.gold)
        rows = answer_rows(answer_tuples(example.dialogue, bank), retriever(), RECALL_PER_SPEAKER)
        for row, question in zip(rows, example.dialogue.questions, strict=True):
            shown = [entry.text for entry in bank.final if entry.entry_id in row["numbered"]]
            user = row["prompt"][-1]["content"]
            if question.answer.lower() in user.lower():
                sources = " ".join([*shown, question.question, user.rsplit("Question", 1)[1], *_dates(user)])
                assert question.answer.lower() in sources.lower()


def _dates(text: str) -> list[str]:
    """Return the dates behind the memories, which may answer a temporal question."""
    return [part.split("]")[0] for part in text.split("[")[1:]]


def test_no_dialogue_makes_no_row() -> None:
    assert manager_rows([], retriever(), RECALL_PER_SPEAKER) == answer_rows([], retriever(), RECALL_PER_SPEAKER) == []
    assert manager_tuples(Dialogue("d", ("Ann",), ()), {}) == []


@pytest.mark.parametrize(
    ("answer", "evidence", "expected"),
    [
        ("Rome", ["t1"], True),  # its evidence is recalled
        ("Rome", ["t1", "t9"], True),  # part of it, but the answer stands there
        ("14 June", ["t1"], True),  # a date that is only said relatively
        ("14 June", ["t1", "t9"], False),
        ("14 June", [], False),
        ("Unknown", [], True),
    ],
)
def test_a_row_is_answerable_if_its_memories_answer_it(answer: str, evidence: list[str], expected: bool) -> None:
    row = {"answer": answer, "evidence": evidence, "sources": [["t1"], ["t2"]], "texts": ["Ann lives in Rome", "tea"]}
    assert is_answerable(row) == expected
