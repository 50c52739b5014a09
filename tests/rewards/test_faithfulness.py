"""The bank should still support what it supported before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memory_r1.errors import DataError
from memory_r1.memory.retriever import Retriever
from memory_r1.training.rows import Row, manager_rows
from memory_r1.types import ManagerTuple, MemoryEntry, Question, Turn
from rewards.faithfulness import is_supported, operation_faithfulness_reward
from tests.fakes import FakeEmbedder

ROME = MemoryEntry(4, "Ann lives in Rome", "Ann", "", ("t1",))
TEA = MemoryEntry(2, "Ben likes the green tea", "Ben", "", ("t2", "t3"))
TURN = Turn("t9", "Ann", "I moved to Oslo.")
HOME = Question("q1", "Where does Ann live?", "Rome", "recall", ("t1",))
DRINK = Question("q2", "What does Ben drink?", "Green tea!", "recall", ("t2", "t3"))
BOTH = Question("q3", "Who lives where and drinks what?", "tea in Rome", "multi-hop", ("t1", "t2"))
LOST = Question("q4", "Where did Ann live before?", "Paris", "recall", ("t0",))
PARAPHRASED = Question("q5", "Is Ann Italian?", "yes", "inference", ("t1",))


def make_row(*retention: Question) -> Row:
    item = ManagerTuple("d/t9", "d", TURN, (), ("Ann", "Ben"), (ROME, TEA), (), retention)
    return manager_rows([item], Retriever(FakeEmbedder()), 2)[0]


def reward(completion: str, row: Row, **columns: Any) -> float | None:
    given = {key: [value] for key, value in row.items() if key != "prompt"} | columns
    (value,) = operation_faithfulness_reward([[{"role": "assistant", "content": completion}]], **given)
    return value


def on(row: Row, entry: MemoryEntry, text: str | None = None) -> str:
    number = row["recalled_ids"].index(entry.entry_id) + 1
    operation = {"op": "UPDATE", "id": number, "text": text} if text else {"op": "DELETE", "id": number}
    return json.dumps([operation])


@pytest.mark.parametrize(
    ("question", "entries", "supported"),
    [
        (HOME, (ROME,), True),
        (HOME, (TEA,), False),
        (HOME, (MemoryEntry(9, "Ann lives in Rome", "Ann", "", ("t7",)),), False),  # the words, from another turn
        (HOME, (MemoryEntry(4, "Ann moved to Oslo", "Ann", "", ("t1", "t9")),), False),  # the turn, without the words
        (DRINK, (TEA,), True),  # case, articles and punctuation are ignored
        (DRINK, (MemoryEntry(2, "Ben likes green tea", "Ben", "", ("t2",)),), False),  # one of two turns is gone
        (BOTH, (ROME, TEA), True),  # "in" and "rome" are in one entry of the evidence, "tea" in the other
        (BOTH, (ROME, MemoryEntry(2, "Ben likes it", "Ben", "", ("t2",)), MemoryEntry(8, "tea", "Ben", "")), False),
        (LOST, (ROME, TEA), False),
        (PARAPHRASED, (ROME,), False),
        (Question("q", "?", "Rome", "x", ()), (ROME,), False),
        (HOME, (), False),
    ],
)
def test_support_is_evidence_and_words(question: Question, entries: tuple[MemoryEntry, ...], supported: bool) -> None:
    assert is_supported(question, entries) is supported


def test_the_share_of_what_was_supported_before() -> None:
    row = make_row(HOME, DRINK, LOST)  # LOST was not supported before, so it cannot be lost
    assert reward('[{"op": "NOOP"}]', row) == 1.0
    assert reward('[{"op": "ADD", "text": "Ann lives in Oslo"}]', row) == 1.0
    assert reward(on(row, ROME), row) == 0.5
    assert reward(on(row, ROME, "Ann lives in Oslo"), row) == 0.5  # overwritten
    assert reward(on(row, ROME, "Ann moved from Rome to Oslo"), row) == 1.0  # merged
    assert reward("[]", row) == 1.0


def test_degenerate_policies_earn_least() -> None:
    row = make_row(HOME, DRINK)
    assert reward('[{"op": "DELETE", "id": 1}, {"op": "DELETE", "id": 2}]', row) == 0.0
    overwrite = '[{"op": "UPDATE", "id": 1, "text": "x"}, {"op": "UPDATE", "id": 2, "text": "x"}]'
    assert reward(overwrite, row) == 0.0


@pytest.mark.parametrize("completion", ["", "NOOP", '{"op": "NOOP"}', "[" * 5000])
def test_a_parse_failure_is_no_noop(completion: str) -> None:
    assert reward(completion, make_row(HOME)) == 0.0


def test_nothing_supported_before_is_no_reward() -> None:
    assert reward('[{"op": "NOOP"}]', make_row(LOST)) is None
    assert reward('[{"op": "NOOP"}]', make_row()) is None


@pytest.mark.parametrize("broken", [{"bank": "no json"}, {"retention": "[1]"}])
def test_a_malformed_row_is_a_fault_of_the_run(broken: Row) -> None:
    with pytest.raises((DataError, TypeError)):
        reward('[{"op": "NOOP"}]', {**make_row(HOME), **broken})
