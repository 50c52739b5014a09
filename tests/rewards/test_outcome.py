"""The Memory Manager's reward: what can be answered from the bank that its operations leave."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from data.banks import gold_banks
from data.synthetic import generate_split
from data.tuples import manager_tuples
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.language_model import Messages
from memory_r1.memory.bank import entries_to_json
from memory_r1.memory.operations import render_operations
from memory_r1.memory.retriever import RetrievalRequest, Retriever
from memory_r1.metrics import exact_match, f1_squad
from memory_r1.training.answering import FrozenAnswering
from memory_r1.training.rows import Row, manager_rows, reachable_operations
from memory_r1.types import ManagerTuple, MemoryEntry, Operation, OperationKind, Question, Turn
from rewards.answers import GivenAnswer, one_by_one
from rewards.outcome import OutcomeReward
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

ADD, UPDATE, DELETE, NOOP = OperationKind
TOP_K = 2
COST = 0.01

ROME = MemoryEntry(4, "Ann lives in Rome", "Ann", "", ("t1",))
TEA = MemoryEntry(2, "Ben likes tea", "Ben", "", ("t2",))
MOVED = Turn("t9", "Ann", "I moved to Oslo.")
WHERE = Question("q1", "Where does Ann live?", "Ann lives in Oslo", "update", ("t9",))
DRINK = Question("q2", "What does Ben like?", "Ben likes tea", "recall", ("t2",))
HOME = Question("q3", "Where is Ann at home?", "Ann lives in Rome", "recall", ("t1",))


def make_row(
    linked: tuple[Question, ...] = (WHERE,),
    retention: tuple[Question, ...] = (DRINK,),
    bank: tuple[MemoryEntry, ...] = (ROME, TEA),
) -> Row:
    item = ManagerTuple("d/t9", "d", MOVED, (), ("Ann", "Ben"), bank, linked, retention)
    return manager_rows([item], Retriever(FakeEmbedder()), TOP_K)[0]


def repeat_the_best(prompt: Messages, adapter: str | None) -> str:
    """Repeats the memory shown that shares most words with the question, the first of several; else "unknown"."""
    lines = prompt[-1]["content"].splitlines()
    asked = set(_words(lines[-1].split(": ", 1)[1]))
    shown = [match.groups() for line in lines if (match := re.fullmatch(r"(\d+)\. (.*?)(?: \[[^]]*\])?", line))]
    if not shown:
        return "Memories: none\n**Answer:** unknown"
    number, text = max(shown, key=lambda memory: len(asked & set(_words(memory[1]))))
    return f"Memories: {number}\n**Answer:** {text}"


def outcome(
    model: ScriptedLanguageModel | None = None,
    retriever: Retriever | None = None,
    cost: float = COST,
    score: Any = None,
) -> OutcomeReward:
    agent = AnswerAgent(model or ScriptedLanguageModel(repeat_the_best))
    frozen = FrozenAnswering(agent, retriever or Retriever(FakeEmbedder()), TOP_K)
    return OutcomeReward("answer_exact_match", one_by_one(score or exact_match), frozen, cost)


def pay(reward: OutcomeReward, *completions: str, rows: Iterable[Row], **extra: Any) -> list[float | None]:
    rows = list(rows)
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    chats = [[{"role": "assistant", "content": text}] for text in completions]
    return reward(completions=chats, prompts=[row["prompt"] for row in rows], **columns, **extra)


def number_of(row: Row, entry: MemoryEntry) -> int:
    return row["recalled_ids"].index(entry.entry_id) + 1


def update(row: Row) -> str:
    return f'[{{"op": "UPDATE", "id": {number_of(row, ROME)}, "text": "Ann lives in Oslo"}}]'


def test_every_question_weighs_the_same_and_entries_cost() -> None:
    row = make_row()
    delete_tea = f'[{{"op": "DELETE", "id": {number_of(row, TEA)}}}]'
    rewards = pay(
        outcome(),
        update(row),
        '[{"op": "NOOP"}]',
        '[{"op": "ADD", "text": "Ann lives in Oslo"}]',
        delete_tea,
        "[]",
        rows=[row] * 5,
    )
    assert rewards == pytest.approx(
        [
            1.0 - 2 * COST,  # both answered, two entries
            0.5 - 2 * COST,  # the linked one is answered with Rome
            0.5 - 3 * COST,  # Rome, recalled first, outranks Oslo, and there is an entry more
            0.0 - 1 * COST,  # neither, but one entry only
            0.5 - 2 * COST,  # an empty array parses: it leaves the bank as it is
        ]
    )


def test_one_linked_question_weighs_no_more_than_one_of_many_retained() -> None:
    row = make_row(linked=(WHERE,), retention=(DRINK, HOME))
    # Updated: the linked one right, of the two retained ones Rome is gone.
    assert pay(outcome(), update(row), rows=[row]) == pytest.approx([2 / 3 - 2 * COST])


@pytest.mark.parametrize(
    ("linked", "retention", "expected"),
    [((WHERE,), (), 0.0), ((), (DRINK,), 1.0), ((WHERE, WHERE), (DRINK,), 1 / 3)],
)
def test_either_side_may_be_without_questions(
    linked: tuple[Question, ...], retention: tuple[Question, ...], expected: float
) -> None:
    row = make_row(linked, retention)
    assert pay(outcome(), '[{"op": "NOOP"}]', rows=[row]) == pytest.approx([expected - 2 * COST])


def test_no_question_is_no_reward() -> None:
    row = make_row((), ())
    assert pay(outcome(), '[{"op": "NOOP"}]', rows=[row]) == [None]


@pytest.mark.parametrize("completion", ["", "  ", "NOOP", "I moved to Oslo.", '{"op": "NOOP"}', "[" * 5000, '[{"op": '])
def test_a_completion_that_does_not_parse_is_no_noop(completion: str) -> None:
    model = ScriptedLanguageModel(repeat_the_best)
    row = make_row()
    failure, noop = pay(outcome(model), completion, '[{"op": "NOOP"}]', rows=[row] * 2)
    assert failure is not None
    assert noop is not None
    assert failure == pytest.approx(-2 * COST)  # what the unchanged bank costs, and nothing for it
    assert failure < noop
    assert len(model.prompts) == 2  # only the NOOP's two questions were asked


def test_a_parse_failure_never_pays_more_than_a_noop_that_answers_nothing() -> None:
    row = make_row(bank=())  # nothing is known, so nothing is answered
    failure, noop = pay(outcome(), "", '[{"op": "NOOP"}]', rows=[row] * 2)
    assert failure is not None
    assert noop is not None
    assert failure <= noop


def test_a_refused_operation_changes_nothing_and_the_others_apply() -> None:
    row = make_row()
    with_refused = update(row)[:-1] + ', {"op": "DELETE", "id": 99}]'
    assert pay(outcome(), with_refused, rows=[row]) == pay(outcome(), update(row), rows=[row])


@pytest.mark.parametrize(
    "broken",
    [{"bank": "not json"}, {"turn": "{}"}, {"linked": "[{}]"}, {"retention": "null"}, {"recalled_ids": [777, 778]}],
)
def test_a_row_that_fails_costs_no_other_row_anything(broken: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    row = make_row()
    logged: dict[str, float] = {}
    completions = [update(row), '[{"op": "DELETE", "id": 1}]', '[{"op": "NOOP"}]']
    rewards = pay(
        outcome(),
        *completions,
        rows=[row, {**row, **broken}, row],
        log_metric=lambda key, value: logged.update({key: value}),
    )
    assert rewards == [pytest.approx(1.0 - 2 * COST), None, pytest.approx(0.5 - 2 * COST)]
    assert logged == {"outcome/failed_rows": pytest.approx(1 / 3)}
    assert "a row was left out" in caplog.text


class Brittle(Retriever):
    """Cannot search a bank with a certain word in it."""

    def retrieve_many(self, requests: Sequence[RetrievalRequest]) -> list[tuple[MemoryEntry, ...]]:
        if any("unsearchable" in entry.text for request in requests for entry in request.entries):
            raise ValueError("not a vector")
        return super().retrieve_many(requests)


@pytest.mark.parametrize(
    "bank",
    [
        (ROME, MemoryEntry(2, "Ben is unsearchable", "Ben", "", ("t2",))),  # retrieval fails
        (ROME, MemoryEntry(2, "Ben likes tea", "Ben", "last Tuesday", ("t2",))),  # the prompt cannot be built
    ],
)
def test_a_bank_that_cannot_be_searched_or_shown_costs_its_row_alone(
    bank: tuple[MemoryEntry, ...], caplog: pytest.LogCaptureFixture
) -> None:
    row, logged = make_row(), {}
    broken = {**row, "bank": entries_to_json(bank)}
    rewards = pay(
        outcome(retriever=Brittle(FakeEmbedder())),
        update(row),
        '[{"op": "NOOP"}]',
        '[{"op": "NOOP"}]',
        rows=[row, broken, row],
        log_metric=lambda key, value: logged.update({key: value}),
    )
    assert rewards == [pytest.approx(1.0 - 2 * COST), None, pytest.approx(0.5 - 2 * COST)]
    assert logged == {"outcome/failed_rows": pytest.approx(1 / 3)}
    assert "a row was left out" in caplog.text


def test_a_fault_of_the_run_is_not_taken_for_a_row() -> None:
    def broken(prompt: Messages, adapter: str | None) -> str:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        pay(outcome(ScriptedLanguageModel(broken)), '[{"op": "NOOP"}]', rows=[make_row()])


def test_a_prompt_that_does_not_fit_the_window_costs_its_row_alone() -> None:
    row = make_row()
    long = {**row, "bank": entries_to_json((ROME, MemoryEntry(2, "tea " * 500, "Ben", "", ("t2",))))}
    rewards = pay(
        outcome(ScriptedLanguageModel(repeat_the_best, window=300)), update(row), '[{"op": "NOOP"}]', rows=[row, long]
    )
    assert rewards == [pytest.approx(1.0 - 2 * COST), None]


def test_completions_of_one_row_share_no_bank() -> None:
    row = make_row()
    delete_all = '[{"op": "DELETE", "id": 1}, {"op": "DELETE", "id": 2}]'
    before = row["bank"]
    assert pay(outcome(), delete_all, update(row), rows=[row] * 2) == pytest.approx([0.0, 1.0 - 2 * COST])
    assert row["bank"] == before


def test_all_questions_of_all_completions_are_one_batch_of_distinct_prompts() -> None:
    model = ScriptedLanguageModel(repeat_the_best)
    row = make_row()
    pay(outcome(model), update(row), update(row), '[{"op": "NOOP"}]', "[]", rows=[row] * 4)
    # Updated or not makes two banks; "who is asked about Ann" sees another memory in each, and so does Ben's question,
    # whose prompt shows Ann's memories too: four prompts for eight questions.
    assert [len(batch) for batch in model.batches] == [4]


def test_nothing_that_parses_asks_nothing() -> None:
    model = ScriptedLanguageModel(repeat_the_best)
    assert pay(outcome(model), "", rows=[make_row()]) == pytest.approx([-2 * COST])
    assert model.prompts == []


def test_a_row_with_an_answer_that_could_not_be_scored_is_left_out() -> None:
    asked: list[GivenAnswer] = []

    def scorer(answers: Sequence[GivenAnswer], log_metric: Any) -> list[float | None]:
        asked.extend(answers)
        return [None if answer.prediction == "Ann lives in Oslo" else 1.0 for answer in answers]

    logged: dict[str, float] = {}
    frozen = FrozenAnswering(AnswerAgent(ScriptedLanguageModel(repeat_the_best)), Retriever(FakeEmbedder()), TOP_K)
    reward = OutcomeReward("llm_judge", scorer, frozen, COST)
    row = make_row()
    rewards = pay(
        reward,
        update(row),
        '[{"op": "NOOP"}]',
        rows=[row] * 2,
        log_metric=lambda name, value: logged.update({name: value}),
    )
    assert rewards == [None, pytest.approx(1.0 - 2 * COST)]
    assert logged == {"outcome/failed_rows": 0.5}
    assert asked[0] == GivenAnswer(WHERE.question, WHERE.answer, "Ann lives in Oslo")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


SMALL_WORDS = {*_words("a an the is was of to in on at by for with what which who where when does do did still now")}


def extract(prompt: Messages, adapter: str | None) -> str:
    """An honest reader that knows nothing but its prompt: the words that its best memory adds to the question."""
    number, text = re.match(r"Memories: (\S+)\n\*\*Answer:\*\* (.*)", repeat_the_best(prompt, adapter)).groups()  # type: ignore[union-attr]
    if number == "none":
        return f"Memories: none\n**Answer:** {text}"
    asked = set(_words(prompt[-1]["content"].splitlines()[-1]))
    left = [word for word in _words(text) if word not in asked | SMALL_WORDS]
    return f"Memories: {number}\n**Answer:** {' '.join(left)}"


def policies(item: ManagerTuple, row: Row) -> dict[str, tuple[Operation, ...]]:
    """What each policy does with a turn; all name only what the prompt showed."""
    shown = row["recalled_ids"]
    gold = item.gold or ()
    return {
        "gold": reachable_operations(gold, shown),
        "add the turn": (Operation(ADD, item.turn.text),),
        "add gold texts only": tuple(Operation(ADD, o.text) for o in gold if o.text) or (Operation(NOOP),),
        "noop": (Operation(NOOP),),
        "delete all": tuple(Operation(DELETE, entry_id=entry_id) for entry_id in shown) or (Operation(NOOP),),
    }


@pytest.fixture(scope="module", params=["dense and lexical", "bm25"])
def earned(request: pytest.FixtureRequest) -> dict[str, dict[str, list[float]]]:
    """Policy to gold kind of the turn to rewards, over the tuples of 16 generated training dialogues."""
    retriever = Retriever(None, "bm25") if request.param == "bm25" else Retriever(FakeEmbedder())
    items = [
        item
        for seed in (1, 2)
        for example in generate_split("train", 8, seed)
        for item in manager_tuples(example.dialogue, gold_banks(example.dialogue, example.gold), gold=example.gold)
        if item.linked or item.retention
    ]
    rows = manager_rows(items, retriever, TOP_K)
    reward = outcome(ScriptedLanguageModel(extract), retriever, score=f1_squad)
    played = [policies(item, row) for item, row in zip(items, rows, strict=True)]
    result: dict[str, dict[str, list[float]]] = {}
    for name in played[0]:
        completions = [
            render_operations(chosen[name], row["recalled_ids"]) for chosen, row in zip(played, rows, strict=True)
        ]
        result[name] = {}
        for item, value in zip(items, pay(reward, *completions, rows=rows), strict=True):
            assert value is not None
            kinds = {operation.kind for operation in item.gold or ()}
            kind = next(kind for kind in (DELETE, UPDATE, ADD, NOOP) if kind in kinds)
            result[name].setdefault(kind, []).append(value)
    return result


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("policy", ["add the turn", "add gold texts only", "noop", "delete all"])
def test_gold_operations_earn_more_than_any_policy_that_does_one_thing(
    earned: dict[str, dict[str, list[float]]], policy: str
) -> None:
    everything = {name: [value for values in kinds.values() for value in values] for name, kinds in earned.items()}
    assert len(everything["gold"]) > 120
    assert sum(everything["gold"]) > sum(everything[policy])
    assert mean(everything["gold"]) > mean(everything[policy]) + 0.02
    # And so on the turns at which a fact changes: the claim for UPDATE and DELETE.
    for kind in (UPDATE, DELETE):
        assert len(earned["gold"][kind]) > 10
        assert mean(earned["gold"][kind]) > mean(earned[policy][kind])


def test_each_gold_operation_pays_where_it_belongs(earned: dict[str, dict[str, list[float]]]) -> None:
    gold = {kind: mean(values) for kind, values in earned["gold"].items()}
    assert gold[ADD] > mean(earned["noop"][ADD])
    assert gold[UPDATE] > mean(earned["add gold texts only"][UPDATE])  # beside the stale fact it is worth less
    assert gold[DELETE] > mean(earned["noop"][DELETE])  # NOOP keeps what no longer holds
    assert gold[NOOP] > mean(earned["add the turn"][NOOP])  # small talk in the bank costs, and may be recalled
    assert gold[NOOP] > mean(earned["delete all"][NOOP])
