"""The Memory Manager turns a turn into checked operations."""

from __future__ import annotations

import pytest

from memory_r1.agents.memory_manager import ManageRequest, MemoryManager, prompt_for
from memory_r1.errors import PromptTooLongError
from memory_r1.inference.language_model import Messages, room_for
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.operations import ParseFailureReason, RefusalReason, render_operations
from memory_r1.memory.retriever import Retriever
from memory_r1.types import MemoryEntry, Operation, OperationKind, Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

ENTRIES = tuple(
    MemoryEntry(entry_id, text, text.split()[0], "", (f"t{entry_id}",))
    for entry_id, text in [
        (30, "Ann lives in Rome"),
        (9, "Ben sold his bicycle"),
        (11, "Ann has a dog"),
        (12, "Ben likes tea"),
        (20, "Ann paints fences"),
    ]
)
MOVED = Turn("t40", "Ann", "I no longer live in Rome, Ann lives in Oslo")


def request(turn: Turn = MOVED, speakers: tuple[str, ...] = ("Ann", "Ben")) -> ManageRequest:
    return ManageRequest(turn, (), MemoryBank(ENTRIES), speakers)


def always(reply: str) -> ScriptedLanguageModel:
    return ScriptedLanguageModel(lambda prompt, adapter: reply)


def manager(model: ScriptedLanguageModel, recall_per_speaker: int = 1) -> MemoryManager:
    return MemoryManager(model, Retriever(FakeEmbedder()), recall_per_speaker=recall_per_speaker)


def test_a_number_in_a_completion_is_the_entry_that_stood_there_in_the_prompt() -> None:
    seen: list[str] = []

    def update_the_first(prompt: Messages, adapter: str | None) -> str:
        seen.append(prompt[-1]["content"])
        return '[{"op": "UPDATE", "id": 1, "text": "Ann lives in Oslo"}, {"op": "DELETE", "id": 2}]'

    (management,) = manager(ScriptedLanguageModel(update_the_first)).manage([request()])
    assert management.recalled[0].entry_id == 30  # shares most words with the turn
    shown = [line for line in seen[0].splitlines() if line[0].isdigit()]
    assert shown == [f"{n}. {entry.text}" for n, entry in enumerate(management.recalled, start=1)]
    assert management.checked.accepted == (
        Operation(OperationKind.UPDATE, "Ann lives in Oslo", 30),
        Operation(OperationKind.DELETE, entry_id=management.recalled[1].entry_id),
    )


def test_what_is_rendered_for_a_prompt_is_read_back_as_the_same_operations() -> None:
    gold = (
        Operation(OperationKind.UPDATE, "Ann lives in Oslo", 30),
        Operation(OperationKind.ADD, 'Ann says "hi"'),
        Operation(OperationKind.NOOP),
    )
    agent = manager(always(""))
    recalled = [entry.entry_id for entry in agent.recall([request()])[0]]
    agent.model = always(render_operations(gold, recalled))
    assert agent.manage([request()])[0].checked.accepted == gold


@pytest.mark.parametrize(
    ("recall_per_speaker", "speakers", "shown"), [(1, ("Ann", "Ben"), 2), (2, ("Ann",), 2), (9, (), 5)]
)
def test_the_recall_counts_for_each_speaker_but_the_best_overall_are_shown(
    recall_per_speaker: int, speakers: tuple[str, ...], shown: int
) -> None:
    (recalled,) = manager(always(""), recall_per_speaker).recall([request(speakers=speakers)])
    assert len(recalled) == shown
    assert recalled[0].entry_id == 30


def test_all_requests_are_one_batch_in_their_order_with_the_managers_adapter() -> None:
    calls: list[tuple[str, str | None]] = []

    def echo(prompt: Messages, adapter: str | None) -> str:
        last = prompt[-1]["content"].splitlines()[-1]
        calls.append((last, adapter))
        return f'[{{"op": "ADD", "text": "{last}"}}]'

    model = ScriptedLanguageModel(echo)
    agent = MemoryManager(model, Retriever(FakeEmbedder()), adapter="manager")
    turns = [Turn(f"t{number}", "Ann", f"number {number}") for number in range(3)]
    done = agent.manage([request(turn) for turn in turns])
    assert [item.checked.accepted[0].text for item in done] == [f"Last turn: Ann: number {n}" for n in range(3)]
    assert (len(model.batches), {adapter for _, adapter in calls}) == (1, {"manager"})
    assert agent.manage([]) == []


@pytest.mark.parametrize(
    ("reply", "failure", "refusals"),
    [
        ("", ParseFailureReason.EMPTY, []),
        ("I shall remember.", ParseFailureReason.NOT_JSON, []),
        ('{"op": "NOOP"}', ParseFailureReason.NOT_AN_ARRAY, []),
        ('[{"op": "DELETE", "id": 3}]', None, [RefusalReason.UNKNOWN_ID]),  # two were shown
        ('[{"op": "DELETE", "id": 30}]', None, [RefusalReason.UNKNOWN_ID]),  # a bank id is not a prompt number
        ('[{"op": "FORGET"}]', None, [RefusalReason.UNKNOWN_OPERATION]),
    ],
)
def test_garbage_is_a_counted_failure_and_changes_nothing(
    reply: str, failure: ParseFailureReason | None, refusals: list[RefusalReason]
) -> None:
    asked = request()
    (management,) = manager(always(reply)).manage([asked])
    checked = management.checked
    assert (checked.failure.reason if checked.failure else None) is failure
    assert [operation.refusal for operation in checked.operations] == refusals
    assert checked.accepted == ()
    assert asked.bank.entries() == tuple(sorted(ENTRIES, key=lambda entry: entry.entry_id))


def shown_in(prompt: str) -> tuple[int, int, int]:
    """Count the memories, earlier turns and words of the turn that a prompt shows."""
    lines = prompt.splitlines()
    memories = sum(line[0].isdigit() for line in lines)
    earlier = sum(line.startswith(("Ben: before", "Ann: before")) for line in lines)
    return memories, earlier, len(lines[-1].removeprefix("Last turn: Ann: ").split())


def test_what_does_not_fit_the_window_goes_in_order_earlier_turns_memories_the_end_of_the_turn() -> None:
    previous = (Turn("t1", "Ben", "before the last but one"), Turn("t2", "Ann", "before the last"))
    asked = ManageRequest(MOVED, previous, MemoryBank(ENTRIES), ("Ann", "Ben"))
    model = ScriptedLanguageModel(lambda prompt, adapter: "[]", window=1000)
    agent = manager(model)
    needed = 1000 - (room_for(model, prompt_for(asked, agent.recall([asked])[0]), agent.max_new_tokens) or 0)
    seen = []
    for window in range(needed, needed - 27, -1):
        model.window = window
        (management,) = agent.manage([asked])
        memories, earlier, words = shown_in(model.prompts[-1])
        assert len(management.recalled) == memories
        seen.append((earlier, memories, words, management.cut))
    whole = len(MOVED.text.split())
    assert seen[0] == (2, 2, whole, 0)
    assert list(dict.fromkeys(seen))[:5] == [
        (2, 2, whole, 0),
        (1, 2, whole, 1),  # the older of the two is dropped
        (0, 2, whole, 2),
        (0, 1, whole, 3),
        (0, 0, whole, 4),
    ]
    assert "before the last but one" not in model.prompts[1]
    cuts = [row for row in seen if row[2] < whole]
    assert cuts and all((earlier, memories, cut) == (0, 0, 5) for earlier, memories, _, cut in cuts)
    assert MOVED.text.startswith(model.prompts[-1].splitlines()[-1].removeprefix("Last turn: Ann: "))


def test_a_turn_without_words_does_not_keep_what_stands_before_it_from_being_cut() -> None:
    silent = Turn("t3", "Ann", "")
    model = ScriptedLanguageModel(lambda prompt, adapter: "[]", window=1000)
    agent = manager(model)
    bare = ManageRequest(silent, (), MemoryBank(), ("Ann", "Ben"))
    model.window = 1000 - (room_for(model, prompt_for(bare, ()), agent.max_new_tokens) or 0)
    previous = (Turn("t2", "Ann", "before the last"),)
    (management,) = agent.manage([ManageRequest(silent, previous, MemoryBank(), ("Ann", "Ben"))])
    assert management.cut == 1


def test_a_window_that_cannot_hold_the_instructions_is_an_error_of_one_line() -> None:
    with pytest.raises(PromptTooLongError):
        manager(ScriptedLanguageModel(lambda prompt, adapter: "[]", window=60)).manage([request()])


def test_managing_applies_nothing() -> None:
    asked = request()
    (management,) = manager(always('[{"op": "DELETE", "id": 1}]')).manage([asked])
    assert management.checked.accepted
    assert asked.bank.entries() == tuple(sorted(ENTRIES, key=lambda entry: entry.entry_id))


def test_training_rows_and_evaluation_read_the_same_prompt() -> None:
    model = always("[]")
    agent = manager(model)
    agent.manage([request()])
    (recalled,) = agent.recall([request()])
    assert model.prompts == [prompt_for(request(), recalled)[-1]["content"]]
