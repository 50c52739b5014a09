"""The Memory Manager's reward: what can be answered from the bank that its operations leave."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import pytest

from data.banks import gold_banks
from data.synthetic.generator import generate_split
from data.tuples import manager_tuples
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.errors import DataError, StoreError
from memory_r1.inference.language_model import Messages
from memory_r1.memory.bank import entries_to_json
from memory_r1.memory.operations import render_operations
from memory_r1.memory.retriever import Retriever
from memory_r1.metrics import exact_match, f1_squad
from memory_r1.training.frozen_answering import BankRecall, FrozenAnswering
from memory_r1.training.rows import Row, apply_completion, manager_rows, reachable_operations
from memory_r1.types import ManagerTuple, MemoryEntry, Operation, OperationKind, Question, Turn
from rewards.answers import GivenAnswer, one_by_one
from rewards.faithfulness import operation_faithfulness_reward
from rewards.length import compression_reward
from rewards.outcome import EntryCost, OutcomeReward, by_answer, by_containment, by_likelihood
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind
RECALL_PER_SPEAKER = 2
COST = 0.01

ROME = MemoryEntry(4, "Ann lives in Rome", "Ann", "", ("t1",))
TEA = MemoryEntry(2, "Ben likes tea", "Ben", "", ("t2",))
MOVED = Turn("t9", "Ann", "I moved to Oslo.")
WHERE = Question("q1", "Where does Ann live?", "Ann lives in Oslo", "update", ("t9",))
DRINK = Question("q2", "What does Ben like?", "Ben likes tea", "recall", ("t2",))
ROME_AGAIN = MemoryEntry(5, "Ann lives in Rome", "Ann", "", ("t1",))
HOME = Question("q3", "Where is Ann at home?", "Ann lives in Rome", "recall", ("t1",))


def make_row(
    linked: tuple[Question, ...] = (WHERE,),
    retention: tuple[Question, ...] = (DRINK,),
    bank: tuple[MemoryEntry, ...] = (ROME, TEA),
) -> Row:
    item = ManagerTuple("d/t9", "d", MOVED, (), ("Ann", "Ben"), bank, linked, retention)
    return manager_rows([item], Retriever(FakeEmbedder()), RECALL_PER_SPEAKER)[0]


def repeat_the_best(prompt: Messages, adapter: str | None) -> str:
    """Repeat the first memory shown that shares most words with the question; else "unknown"."""
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
    score: Any = None,
) -> OutcomeReward:
    frozen = frozen_answering(model, retriever)
    return OutcomeReward("answer_exact_match", by_answer(frozen, one_by_one(score or exact_match)))


def frozen_answering(model: ScriptedLanguageModel | None = None, retriever: Retriever | None = None) -> FrozenAnswering:
    agent = AnswerAgent(model or ScriptedLanguageModel(repeat_the_best))
    return FrozenAnswering(agent, retriever or Retriever(FakeEmbedder()), RECALL_PER_SPEAKER)


def pay(reward: Callable[..., Any], *completions: str, rows: Iterable[Row], **extra: Any) -> list[float | None]:
    rows = list(rows)
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    chats = [[{"role": "assistant", "content": text}] for text in completions]
    return reward(completions=chats, prompts=[row["prompt"] for row in rows], **columns, **extra)


def number_of(row: Row, entry: MemoryEntry) -> int:
    return row["recalled_ids"].index(entry.entry_id) + 1


def update(row: Row) -> str:
    return f'[{{"op": "UPDATE", "id": {number_of(row, ROME)}, "text": "Ann lives in Oslo"}}]'


def test_every_question_weighs_the_same_and_entries_cost() -> None:
    row, reward = make_row(), outcome()
    completions = [
        update(row),
        '[{"op": "NOOP"}]',
        '[{"op": "ADD", "text": "Ann lives in Oslo"}]',
        f'[{{"op": "DELETE", "id": {number_of(row, TEA)}}}]',
        "[]",
        "No list.",
    ]
    assert pay(reward, *completions, rows=[row] * 6) == [
        1.0,  # both answered
        0.5,  # the linked one is answered with Rome
        0.5,  # Rome, recalled first, outranks Oslo
        0.0,  # neither
        0.5,  # an empty array parses and leaves the bank unchanged
        0.0,  # nothing is asked if it does not parse
    ]
    # Entries left: one more, one less; a parse failure pays for the unchanged bank.
    costs = pay(EntryCost(COST, [reward]), *completions, rows=[row] * 6)
    assert costs == pytest.approx([-COST * entries for entries in (2, 2, 3, 1, 2, 2)])


def test_a_played_branch_pays_for_the_bank_at_its_end() -> None:
    ends = [entries_to_json((ROME,)), entries_to_json((ROME, TEA, ROME_AGAIN))]
    completions = ('[{"op": "NOOP"}]', "No list.")
    costs = pay(EntryCost(COST, [outcome()]), *completions, rows=[make_row()] * 2, bank_at_end=ends)
    assert costs == pytest.approx([-COST, -3 * COST])


def test_a_bank_that_nobody_asks_costs_nothing() -> None:
    """Or emptying it would pay: a row without questions, and one whose questions no reward could score."""
    cost = EntryCost(COST, [outcome()])
    assert pay(cost, '[{"op": "NOOP"}]', "No list.", rows=[make_row((), ())] * 2) == [None, None]

    def down(answers: Sequence[GivenAnswer], log_metric: Any) -> list[float | None]:
        return [None] * len(answers)

    judged = OutcomeReward("llm_judge", by_answer(frozen_answering(), down))
    row = make_row()
    assert pay(EntryCost(COST, [judged]), '[{"op": "NOOP"}]', rows=[row]) == [None]
    assert pay(EntryCost(COST, [judged, outcome()]), '[{"op": "NOOP"}]', rows=[row]) == pytest.approx([-2 * COST])


def test_the_cost_asks_nobody_again() -> None:
    model, row, logged = ScriptedLanguageModel(repeat_the_best), make_row(), []
    reward = outcome(model)
    chats = [[{"role": "assistant", "content": update(row)}]]
    columns = {key: [value] for key, value in row.items() if key != "prompt"}
    for function in (reward, EntryCost(COST, [reward])):
        function(completions=chats, prompts=[[]], log_metric=lambda name, value: logged.append(name), **columns)
    assert len(model.batches) == 1
    assert logged == ["outcome/failed_rows"]


def test_one_linked_question_weighs_no_more_than_one_of_many_retained() -> None:
    row = make_row(linked=(WHERE,), retention=(DRINK, HOME))
    # After the update, the linked question is right, and one of the two retained ones (Rome) is wrong.
    assert pay(outcome(), update(row), rows=[row]) == pytest.approx([2 / 3])


@pytest.mark.parametrize(
    ("linked", "retention", "expected"),
    [((WHERE,), (), 0.0), ((), (DRINK,), 1.0), ((WHERE, WHERE), (DRINK,), 1 / 3)],
)
def test_either_side_may_be_without_questions(
    linked: tuple[Question, ...], retention: tuple[Question, ...], expected: float
) -> None:
    row = make_row(linked, retention)
    assert pay(outcome(), '[{"op": "NOOP"}]', rows=[row]) == pytest.approx([expected])


def test_no_question_is_no_reward() -> None:
    row = make_row((), ())
    assert pay(outcome(), '[{"op": "NOOP"}]', "No list.", rows=[row] * 2) == [None, None]


@pytest.mark.parametrize("completion", ["", "  ", "NOOP", "I moved to Oslo.", '{"op": "NOOP"}', "[" * 5000, '[{"op": '])
def test_a_completion_that_does_not_parse_is_no_noop(completion: str) -> None:
    model = ScriptedLanguageModel(repeat_the_best)
    row = make_row()
    failure, noop = pay(outcome(model), completion, '[{"op": "NOOP"}]', rows=[row] * 2)
    assert (failure, noop) == (0.0, 0.5)
    assert len(model.prompts) == 2  # only the NOOP's two questions were asked


def test_a_parse_failure_never_pays_more_than_a_noop_that_answers_nothing() -> None:
    row = make_row(bank=())  # nothing is known, so nothing is answered
    assert pay(outcome(), "", '[{"op": "NOOP"}]', rows=[row] * 2) == [0.0, 0.0]


def test_a_refused_operation_changes_nothing_and_the_others_apply() -> None:
    row = make_row()
    with_refused = update(row)[:-1] + ', {"op": "DELETE", "id": 99}]'
    assert pay(outcome(), with_refused, rows=[row]) == pay(outcome(), update(row), rows=[row])


@pytest.mark.parametrize(
    "broken",
    [
        {"bank": "not json"},
        {"turn": "{}"},
        {"linked": "[{}]"},
        {"retention": "null"},
        {"recalled_ids": [777, 778]},
        {"bank": entries_to_json((MemoryEntry(2, "Ben likes tea", "Ben", "last Tuesday", ("t2",)),))},  # no such date
    ],
)
def test_a_row_that_cannot_be_used_is_a_fault_of_the_run(broken: dict[str, Any]) -> None:
    row = make_row()
    completions = [update(row), '[{"op": "UPDATE", "id": 1, "text": "x"}]']
    with pytest.raises((DataError, StoreError, KeyError, TypeError, ValueError)):
        pay(outcome(), *completions, rows=[row, {**row, **broken}])


def test_a_fault_of_the_model_ends_the_run() -> None:
    def broken(prompt: Messages, adapter: str | None) -> str:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        pay(outcome(ScriptedLanguageModel(broken)), '[{"op": "NOOP"}]', rows=[make_row()])


def test_a_prompt_that_does_not_fit_the_window_costs_its_row_alone() -> None:
    row = make_row()
    long = {**row, "bank": entries_to_json((ROME, MemoryEntry(2, "tea " * 500, "Ben", "", ("t2",))))}
    logged: dict[str, float] = {}
    rewards = pay(
        outcome(ScriptedLanguageModel(repeat_the_best, window=300)),
        update(row),
        '[{"op": "NOOP"}]',
        rows=[row, long],
        log_metric=lambda name, value: logged.update({name: value}),
    )
    assert rewards == [1.0, None]
    assert logged == {"outcome/failed_rows": 0.5}


def test_completions_of_one_row_share_no_bank() -> None:
    row = make_row()
    delete_all = '[{"op": "DELETE", "id": 1}, {"op": "DELETE", "id": 2}]'
    before = row["bank"]
    assert pay(outcome(), delete_all, update(row), rows=[row] * 2) == [0.0, 1.0]
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
    assert pay(outcome(model), "", rows=[make_row()]) == [0.0]
    assert model.prompts == []


def test_operations_are_checked_and_applied_once_for_all_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[str] = []

    def note(completion: str, *row: Any) -> Any:
        applied.append(completion)
        return apply_completion(completion, *row)

    monkeypatch.setattr("rewards.outcome.apply_completion", note)
    reward = outcome()
    completions = (update(make_row()), '[{"op": "ADD", "text": "Applied once"}]')
    for function in (reward, EntryCost(COST, [reward]), operation_faithfulness_reward, compression_reward):
        pay(function, *completions, rows=[make_row()] * 2)
    assert sorted(applied) == sorted(set(applied))


def test_a_row_with_an_answer_that_could_not_be_scored_is_left_out() -> None:
    asked: list[GivenAnswer] = []

    def scorer(answers: Sequence[GivenAnswer], log_metric: Any) -> list[float | None]:
        asked.extend(answers)
        return [None if answer.prediction == "Ann lives in Oslo" else 1.0 for answer in answers]

    logged: dict[str, float] = {}
    frozen = FrozenAnswering(
        AnswerAgent(ScriptedLanguageModel(repeat_the_best)), Retriever(FakeEmbedder()), RECALL_PER_SPEAKER
    )
    reward = OutcomeReward("llm_judge", by_answer(frozen, scorer))
    row = make_row()
    rewards = pay(
        reward,
        update(row),
        '[{"op": "NOOP"}]',
        rows=[row] * 2,
        log_metric=lambda name, value: logged.update({name: value}),
    )
    assert rewards == [None, 1.0]
    assert logged == {"outcome/failed_rows": 0.5}
    assert asked[0] == GivenAnswer(WHERE.question, WHERE.answer, "Ann lives in Oslo")


def test_containment_asks_no_model_and_leaves_out_what_says_nothing_of_the_bank() -> None:
    reward = OutcomeReward(
        "answer_containment", by_containment(BankRecall(Retriever(FakeEmbedder()), RECALL_PER_SPEAKER))
    )
    nowhere = Question("q4", "What is Ann's dog called?", "unknown", "unanswerable")
    oslo = Question("q5", "Where does Ann live?", "oslo", "update", ("t9",))
    row = make_row(linked=(oslo, nowhere), retention=(DRINK,))
    assert pay(reward, update(row), '[{"op": "NOOP"}]', "No list.", rows=[row] * 3) == [1.0, 0.5, 0.0]
    alone = make_row(linked=(nowhere,), retention=())
    assert pay(reward, '[{"op": "NOOP"}]', "No list.", rows=[alone] * 2) == [None, None]


def test_likelihood_scores_the_reply_that_names_the_entries_with_the_gold_answer() -> None:
    class Scoring(ScriptedLanguageModel):
        read: ClassVar[list[tuple[str, str]]] = []

        def likelihood(self, prompts: Any, heads: Any, texts: Any, *, adapter: str | None = None) -> list[float]:
            self.read.extend(zip(heads, texts, strict=True))
            return [0.25 if "none" in text else 0.75 for text in texts]

    reward = OutcomeReward("answer_likelihood", by_likelihood(frozen_answering(Scoring())))
    row = make_row()
    assert pay(reward, update(row), '[{"op": "NOOP"}]', "No list.", rows=[row] * 3) == [0.75, 0.5, 0.0]
    assert ("Memories:", " none\n**Answer:** Ann lives in Oslo") in Scoring.read
    read = len(Scoring.read)
    pay(reward, update(row), rows=[row])
    assert len(Scoring.read) == read == 4  # two banks, two questions: equal ones are read once


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


SMALL_WORDS = {*_words("a an the is was of to in on at by for with what which who where when does do did still now")}


def extract(prompt: Messages, adapter: str | None) -> str:
    """Read only the prompt: answer with the words that the best memory adds to the question."""
    number, text = re.match(r"Memories: (\S+)\n\*\*Answer:\*\* (.*)", repeat_the_best(prompt, adapter)).groups()  # type: ignore[union-attr]
    if number == "none":
        return f"Memories: none\n**Answer:** {text}"
    asked = set(_words(prompt[-1]["content"].splitlines()[-1]))
    left = [word for word in _words(text) if word not in asked | SMALL_WORDS]
    return f"Memories: {number}\n**Answer:** {' '.join(left)}"


def policies(item: ManagerTuple, row: Row) -> dict[str, tuple[Operation, ...]]:
    """Return each policy's operations for a turn; all use only ids that the prompt showed."""
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
    """Return rewards by policy and gold kind of the turn, over tuples of 16 generated training dialogues."""
    retriever = Retriever(None, "bm25") if request.param == "bm25" else Retriever(FakeEmbedder())
    items = [
        item
        for seed in (1, 2)
        for example in generate_split("train", 8, seed)
        for item in manager_tuples(example.dialogue, gold_banks(example.dialogue, example.gold), gold=example.gold)
        if item.linked or item.retention
    ]
    rows = manager_rows(items, retriever, RECALL_PER_SPEAKER)
    reward = outcome(ScriptedLanguageModel(extract), retriever, score=f1_squad)
    played = [policies(item, row) for item, row in zip(items, rows, strict=True)]
    result: dict[str, dict[str, list[float]]] = {}
    for name in played[0]:
        completions = [
            render_operations(chosen[name], row["recalled_ids"]) for chosen, row in zip(played, rows, strict=True)
        ]
        result[name] = {}
        scores = pay(reward, *completions, rows=rows)
        costs = pay(EntryCost(COST, [reward]), *completions, rows=rows)
        for item, score, cost in zip(items, scores, costs, strict=True):
            assert score is not None and cost is not None
            value = score + cost
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
    # This holds on turns at which a fact changes too: the claim for UPDATE and DELETE.
    for kind in (UPDATE, DELETE):
        assert len(earned["gold"][kind]) > 10
        assert mean(earned["gold"][kind]) > mean(earned[policy][kind])


def test_each_gold_operation_pays_where_it_belongs(earned: dict[str, dict[str, list[float]]]) -> None:
    gold = {kind: mean(values) for kind, values in earned["gold"].items()}
    assert gold[ADD] > mean(earned["noop"][ADD])
    assert gold[UPDATE] > mean(earned["add gold texts only"][UPDATE])  # beside the stale fact it is worth less
    assert gold[DELETE] > mean(earned["noop"][DELETE])  # NOOP keeps outdated facts
    assert gold[NOOP] > mean(earned["add the turn"][NOOP])  # small talk in the bank costs and may be recalled
    assert gold[NOOP] > mean(earned["delete all"][NOOP])
