"""Fillers make warm-start prompts as full as later ones, and change no label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from data.banks import gold_banks
from data.fillers import FIRST_ID, with_fillers
from data.synthetic.generator import generate_split
from data.tuples import answer_tuples, manager_tuples
from memory_r1.memory.retriever import Retriever
from memory_r1.training.rows import Row, answer_rows, answer_sft_rows, manager_sft_rows
from memory_r1.types import ManagerTuple

EXAMPLES = generate_split("train", 6, 0)
POOL = [(example.dialogue, gold_banks(example.dialogue, example.gold).final) for example in EXAMPLES]


def labelled() -> list[ManagerTuple]:
    first = EXAMPLES[0]
    banks = gold_banks(first.dialogue, first.gold)
    return manager_tuples(first.dialogue, banks, every_turn=True, gold=first.gold)


def most_shown(rows: Sequence[Row]) -> int:
    return max(len(re.findall(r"^\d+\. ", row["prompt"][-1]["content"], re.MULTILINE)) for row in rows)


def test_prompts_show_as_many_memories_as_the_recall_depth_allows() -> None:
    retriever, tuples = Retriever(None, "bm25"), labelled()
    plain, full = (manager_sft_rows(with_fillers(tuples, POOL, count, 0), retriever, 30) for count in (0, 60))
    assert plain == manager_sft_rows(tuples, retriever, 30)
    assert most_shown(plain) < 20 < most_shown(full) == 60
    asked = answer_tuples(EXAMPLES[0].dialogue, POOL[0][1])
    assert most_shown(answer_sft_rows(with_fillers(asked, POOL, 60, 0), retriever, 30)) > 45


def test_what_is_labelled_stays_and_fillers_are_about_others() -> None:
    tuples = labelled()
    filled = with_fillers(tuples, POOL, 20, 0)
    for before, after in zip(tuples, filled, strict=True):
        assert (after.gold, after.turn, after.bank[: len(before.bank)]) == (before.gold, before.turn, before.bank)
        fillers = after.bank[len(before.bank) :]
        assert [entry.entry_id for entry in fillers] == list(range(FIRST_ID, FIRST_ID + 20))
        assert {entry.speaker for entry in fillers} <= {*before.speakers}
        assert not any(name in entry.text for entry in fillers for name in before.speakers)
    assert filled == with_fillers(tuples, POOL, 20, 0)
    assert filled != with_fillers(tuples, POOL, 20, 1)


def test_the_answer_agent_is_taught_to_rely_on_none_of_them() -> None:
    # Turn ids restart in each dialogue, so a filler's would look like evidence for this one's questions.
    retriever, asked = Retriever(None, "bm25"), answer_tuples(EXAMPLES[0].dialogue, POOL[0][1])
    plain, full = (answer_rows(with_fillers(asked, POOL, count, 0), retriever, 30) for count in (0, 60))
    for before, after in zip(plain, full, strict=True):
        relied_on = [{row["texts"][number - 1] for number in row["evidence_numbers"]} for row in (before, after)]
        assert relied_on[0] == relied_on[1]


def test_nothing_is_remembered_from_after_the_turn_or_the_question() -> None:
    tuples, asked = labelled(), answer_tuples(EXAMPLES[0].dialogue, POOL[0][1])
    late = replace(asked[0], question=replace(asked[0].question, asked_at=""))  # asked after the last turn
    for item in with_fillers(tuples, POOL, 60, 0):
        assert max(entry.timestamp for entry in item.bank) <= item.turn.timestamp
    for question in with_fillers([*asked, late], POOL, 60, 0):
        assert all(entry.timestamp for entry in question.bank)
        assert max(entry.timestamp for entry in question.bank) <= (question.question.asked_at or "9999")


def test_a_dialogue_of_the_same_names_fills_nothing() -> None:
    own = EXAMPLES[0].dialogue
    twin = (replace(own, dialogue_id="twin"), POOL[0][1])
    assert with_fillers(labelled(), [twin, POOL[0]], 20, 0) == labelled()
