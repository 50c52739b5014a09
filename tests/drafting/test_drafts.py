"""What a drafter reads and what its replies become."""

from __future__ import annotations

import json

import pytest

from memory_r1.drafting.drafts import DRAFT, Draft, Drafted, Drafter, window_lines, windows
from memory_r1.inference.constrained import Constraint
from memory_r1.systems.writer import Writer, conforms, read
from tests.drafting.chats import asked, chat, scripted
from tests.tiny import load_tokenizer


def test_a_session_is_cut_into_windows_of_nearly_equal_length() -> None:
    parts = windows(chat(), 2)
    assert [[turn.turn_id for turn in part] for part in parts] == [["s1:1"], ["s1:2", "s1:3"], ["s2:1", "s2:2"]]
    assert window_lines(parts[1]) == ["[Monday 1 May 2023]", "1. Ben: hm", "2. Ben: I own two dogs."]
    assert len(windows(chat(), 3)) == 2


def test_replies_become_drafts_and_what_does_not_parse_is_counted_and_left_out() -> None:
    (drafted,) = Drafter(Writer(scripted()), window=1).draft([chat()])
    assert (drafted.windows, drafted.unparsed) == (5, 3)
    # Read turn by turn, the dogs are not among the numbered turns: the draft keeps no evidence.
    assert drafted.drafts == (
        Draft("Where does Ann live?", "Rome", "recall", ("s1:1",)),
        Draft("What does Ben own?", "two dogs", "recall", ()),
        Draft("Where does Ann live?", "Oslo", "update", ("s2:1",)),
    )
    assert Drafted.from_json(json.loads(json.dumps(drafted.to_json()))) == drafted


def test_windows_that_are_cut_to_the_models_own_are_counted() -> None:
    model = scripted()
    model.window = DRAFT.max_new_tokens + len(DRAFT.instructions.split()) + 5  # words
    (drafted,) = Drafter(Writer(model)).draft([chat()])
    assert (drafted.windows, drafted.cut) == (2, 2)


def test_each_dialogue_gets_its_own_drafts() -> None:
    first, second = Drafter(Writer(scripted())).draft([chat("d1"), chat("d2")])
    assert (first.dialogue_id, second.dialogue_id, first.drafts == second.drafts) == ("d1", "d2", True)
    assert first.drafts[1].evidence == ("s1:3",)


def test_the_examples_in_the_instruction_conform_to_the_schema() -> None:
    examples = DRAFT.instructions.split("JSON only: ")[1].removesuffix(".").split(" or ")
    assert len(examples) == 2
    assert all(conforms(json.loads(example), DRAFT.schema) for example in examples)


@pytest.mark.parametrize("wrong", ["1", 1.5, True, None])
def test_evidence_is_whole_numbers(wrong: object) -> None:
    item = asked("Where does Ann live?", "Rome", 1)
    assert read(json.dumps({"questions": [item]}), DRAFT.schema) is not None
    assert read(json.dumps({"questions": [{**item, "evidence": [wrong]}]}), DRAFT.schema) is None


def test_the_schema_can_hold_a_local_model(tiny_model) -> None:  # type: ignore[no-untyped-def]
    Constraint(load_tokenizer(tiny_model), [DRAFT.schema], 1)
