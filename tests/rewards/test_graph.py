"""The Memory Manager's rewards where it writes a graph: each operation pays where it belongs, LINK too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from data.banks import gold_banks
from data.synthetic.edges import graph_gold
from data.synthetic.generator import ALIASES, generate_split
from data.tuples import dialogue_end_tuples, manager_tuples
from memory_r1.memory.forms import GRAPH
from memory_r1.memory.operations import render_operations
from memory_r1.memory.retriever import Retriever
from memory_r1.training.completion_stats import describe_operations
from memory_r1.training.frozen_answering import BankRecall
from memory_r1.training.rows import Row, manager_sft_rows, reachable_operations
from memory_r1.training.substitution import substitution_rows
from memory_r1.types import Edge, Operation, OperationKind, Turn
from rewards.formats import operation_format_reward
from rewards.length import compression_reward, memory_size_reward
from rewards.outcome import EntryCost, OutcomeReward, asked_banks, by_containment

ADD, UPDATE, DELETE, NOOP, LINK, ABSTRACT = OperationKind
RETRIEVER = Retriever(None, "bm25")


def policies(turn: Turn, gold: tuple[Operation, ...], shown: list[int]) -> dict[str, tuple[Operation, ...]]:
    said = Edge(turn.speaker, "said", turn.text)
    return {
        "gold": reachable_operations(gold, shown),
        "add": (Operation(ADD, said.text, None, said),),
        "noop": (Operation(NOOP),),
        "delete": tuple(Operation(DELETE, None, entry_id) for entry_id in shown) or (Operation(NOOP),),
    }


def pay(reward: Any, completions: list[str], rows: list[Row]) -> list[float]:
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    return reward(completions=[[{"role": "assistant", "content": text}] for text in completions], **columns)


@pytest.fixture(scope="module")
def played() -> tuple[list[Row], list[OperationKind], dict[str, list[str]]]:
    """Return rows of generated dialogues, the rarest kind of each turn's gold, and each policy's completions."""
    rows, kinds = [], []
    completions: dict[str, list[str]] = {}
    for item in generate_split("train", 8, 0, ALIASES):
        gold = graph_gold(item.dialogue, item.gold)
        banks = gold_banks(item.dialogue, gold)
        units = dialogue_end_tuples(item.dialogue, banks)
        own = substitution_rows(units, [banks.events] * len(units), RETRIEVER, 2, GRAPH)
        rows += own
        for unit, row in zip(units, own, strict=True):
            of_turn = gold[unit.turn.turn_id]
            kinds.append(next(kind for kind in (LINK, DELETE, UPDATE, ADD, NOOP) if kind in {o.kind for o in of_turn}))
            for name, operations in policies(unit.turn, of_turn, row["recalled_ids"]).items():
                text = render_operations(operations, row["recalled_ids"], GRAPH)
                completions.setdefault(name, []).append(text)
    return rows, kinds, completions


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def test_gold_pays_most_on_every_kind_of_turn(
    played: tuple[list[Row], list[OperationKind], dict[str, list[str]]],
) -> None:
    rows, kinds, completions = played
    outcome = OutcomeReward("answer_containment", by_containment(BankRecall(RETRIEVER, 2)))
    earned = {}
    for name, texts in completions.items():
        scores, costs = pay(outcome, texts, rows), pay(EntryCost(0.002, [outcome]), texts, rows)
        earned[name] = [score + cost for score, cost in zip(scores, costs, strict=True)]
    for name in ("add", "noop", "delete"):
        assert mean(earned["gold"]) > mean(earned[name]), name
    for kind in (LINK, ADD):  # each turn's own operations pay, so nothing less does as well there
        of_kind = {
            name: mean(v for v, k in zip(values, kinds, strict=True) if k is kind) for name, values in earned.items()
        }
        assert of_kind["gold"] > max(of_kind["noop"], of_kind["add"], of_kind["delete"]), kind


def test_completions_of_a_graph_are_read_as_such(
    played: tuple[list[Row], list[OperationKind], dict[str, list[str]]],
) -> None:
    rows, kinds, completions = played
    place = kinds.index(LINK)
    row, text = rows[place], completions["gold"][place]
    assert pay(operation_format_reward, [text, '[{"op": "ADD", "text": "x"}]'], [row, row]) == [1.0, 0.0]
    noop = completions["noop"][place]
    # The link is an entry of the bank that rewards weigh, here against all words of the dialogue and against one.
    assert len({*pay(compression_reward, [text, noop], [row, row])}) == 2
    assert len({*pay(memory_size_reward, [text, noop], [{**row, "source_words": '{"t": 1}'}] * 2)}) == 2
    shares = describe_operations(completions["gold"], rows)
    assert 0 < shares["share_LINK"] < shares["share_ADD"]
    columns = {name: [row[name]] for name in ("turn", "bank", "recalled_ids", "logged", "operations")}
    (asked,) = asked_banks([[{"role": "assistant", "content": text}]], **columns)
    assert sum(" is the same as " in entry.text for entry in asked.entries) == 2


def test_supervised_rows_hold_graph_completions_and_the_default_stays_flat() -> None:
    item = generate_split("train", 1, 0)[0]
    for gold, form, key in (
        (graph_gold(item.dialogue, item.gold), {"form": GRAPH}, "relation"),
        (item.gold, {}, "text"),
    ):
        units = manager_tuples(item.dialogue, gold_banks(item.dialogue, gold), every_turn=True, gold=gold)
        rows = manager_sft_rows(units, RETRIEVER, 2, **form)
        assert any(f'"{key}": ' in row["completion"][0]["content"] for row in rows)
        assert all(f'"{key}": ' in row["prompt"][0]["content"] for row in rows)
        other = {"relation": '"ADD", "text"', "text": '"relation"'}[key]
        assert not any(other in message["content"] for row in rows for message in (*row["prompt"], *row["completion"]))
