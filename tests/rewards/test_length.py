"""Rewards on length."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memory_r1.memory.retriever import Retriever
from memory_r1.training.rows import Row, manager_rows
from memory_r1.types import ManagerTuple, MemoryEntry, Turn
from rewards.length import LengthReward, compression_reward, memory_size_reward
from tests.fakes import FakeEmbedder


@pytest.mark.parametrize(
    ("tokens", "expected"),
    # DAPO's equation 13 with L_max = 10 and L_cache = 4: ((10 - 4) - tokens) / 4 between 6 and 10.
    [(0, 0.0), (6, 0.0), (7, -0.25), (8, -0.5), (10, -1.0), (11, -1.0), (100, -1.0)],
)
def test_the_penalty_grows_over_the_last_tokens(tokens: int, expected: float) -> None:
    assert LengthReward(10, 4)(completions=[[]], completion_ids=[[5] * tokens], prompts=[[]]) == [expected]


def test_each_completion_has_its_own_length() -> None:
    reward = LengthReward(4, 2)
    assert reward.__name__ == "length"
    assert reward(completions=[[], []], completion_ids=[[1], [1, 2, 3]]) == [0.0, -0.5]


FIRST = Turn("t1", "Ann", "So, you know, I finally moved to Rome.")  # 8 words
SECOND = Turn("t2", "Ben", "Oh nice, tea please.")  # 4 words
NOW = Turn("t9", "Ann", "Actually I have moved on to Oslo.")  # 7 words
ROME = MemoryEntry(4, "Ann lives in Rome", "Ann", "", ("t1",))  # 4 words
TEA = MemoryEntry(2, "Ben likes tea", "Ben", "", ("t2",))  # 3 words


def make_row(*bank: MemoryEntry, sources: tuple[Turn, ...] = (FIRST, SECOND)) -> Row:
    item = ManagerTuple("d/t9", "d", NOW, (), ("Ann", "Ben"), bank, (), (), sources=sources)
    return manager_rows([item], Retriever(FakeEmbedder()), 2)[0]


def compression(completion: str, row: Row, **columns: Any) -> float | None:
    given = {key: [value] for key, value in row.items() if key != "prompt"} | columns
    (value,) = compression_reward([[{"role": "assistant", "content": completion}]], **given)
    return value


def on(row: Row, entry: MemoryEntry, kind: str, text: str | None = None) -> str:
    operation: dict[str, Any] = {"op": kind, "id": row["recalled_ids"].index(entry.entry_id) + 1}
    return json.dumps([operation | ({"text": text} if text else {})])


def test_words_kept_over_words_said() -> None:
    row = make_row(ROME, TEA)
    assert compression('[{"op": "NOOP"}]', row) == pytest.approx(1 - 7 / 12)
    assert compression('[{"op": "ADD", "text": "Ann lives in Oslo"}]', row) == pytest.approx(1 - 11 / 19)
    assert compression(on(row, ROME, "DELETE"), row) == pytest.approx(1 - 3 / 4)
    # Updated, it comes from both turns: 4 + 3 words of 8 + 7 + 4.
    assert compression(on(row, ROME, "UPDATE", "Ann lives in Oslo"), row) == pytest.approx(1 - 7 / 19)


def test_a_turn_that_two_entries_come_from_was_said_once() -> None:
    row = make_row(ROME, MemoryEntry(2, "Ann moved", "Ann", "", ("t1",)))
    assert compression('[{"op": "NOOP"}]', row) == pytest.approx(1 - 6 / 8)


def test_copying_and_padding_earn_nothing() -> None:
    row = make_row()
    assert compression(f'[{{"op": "ADD", "text": "{NOW.text}"}}]', row) == 0.0
    assert compression(f'[{{"op": "ADD", "text": "{NOW.text} {NOW.text}"}}]', row) == 0.0


def test_an_empty_bank_compresses_nothing_and_a_parse_failure_earns_nothing() -> None:
    row = make_row(ROME, TEA)
    assert compression('[{"op": "DELETE", "id": 1}, {"op": "DELETE", "id": 2}]', row) == 0.0
    assert compression("I shall remember", row) == 0.0


def test_entries_without_known_sources_do_not_count() -> None:
    stray = MemoryEntry(7, "from nowhere", "Ann", "")
    assert compression('[{"op": "NOOP"}]', make_row(ROME, TEA, stray, sources=(FIRST,))) == pytest.approx(1 - 4 / 8)
    assert compression('[{"op": "NOOP"}]', make_row(TEA, sources=())) is None


def test_a_malformed_row_is_a_fault_of_the_run() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        compression('[{"op": "NOOP"}]', {**make_row(ROME), "source_words": "?"})


def test_a_bank_pays_for_what_exceeds_seven_tenths_of_the_dialogue() -> None:
    words = "word " * 18 + "word"  # as many as the three turns have
    whole = MemoryEntry(7, words, "Ann", "", ("t1",))
    noop = [[{"role": "assistant", "content": '[{"op": "NOOP"}]'}]]

    def pay(*bank: MemoryEntry, logged: str | None = '{"added": [], "later": []}') -> float | None:
        row = make_row(*bank, sources=(FIRST, SECOND, NOW)) | ({"logged": logged} if logged else {})
        return memory_size_reward(noop, **{key: [row[key]] for key in row if key != "prompt"})[0]

    assert pay(ROME, TEA) == 0.0
    assert pay(whole) == pytest.approx(-0.3 * 0.3)
    assert pay(whole, logged=None) is None
    assert pay(whole, ROME) == pytest.approx(-0.3 * (23 / 19 - 0.7))
