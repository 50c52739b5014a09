"""One player for training and evaluation: dialogues advance together, stay separate, and resume."""

from __future__ import annotations

import pytest

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.errors import DataError
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import MemorySystem
from memory_r1.systems.manager import ManagedMemory
from memory_r1.systems.player import Entries, Episode, banks_along, play, play_manager
from memory_r1.types import Dialogue, MemoryEntry, Session, Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

Banks = tuple[dict[str, Entries], Entries]


def dialogue(name: str, *sessions: tuple[str, ...]) -> Dialogue:
    """Build sessions of Ann's turns, with turn ids `<dialogue>:<session>:<turn>`."""
    return Dialogue(
        name,
        ("Ann", "Ben"),
        tuple(
            Session(f"s{s}", "", tuple(Turn(f"{name}:{s}:{t}", "Ann", text) for t, text in enumerate(texts, 1)))
            for s, texts in enumerate(sessions, 1)
        ),
    )


def manager(model: ScriptedLanguageModel) -> MemoryManager:
    return MemoryManager(model, Retriever(FakeEmbedder()))


def played(model: ScriptedLanguageModel, *dialogues: Dialogue) -> list[Banks]:
    log = play_manager(dialogues, manager(model))
    return [banks_along(log.records(each.dialogue_id)) for each in dialogues]


def texts(entries: tuple[MemoryEntry, ...]) -> list[str]:
    return [entry.text for entry in entries]


def test_a_bank_is_known_before_every_turn_and_after_the_last() -> None:
    # The scripted manager adds a fact, updates the one that begins with the same words, skips "hm", deletes on demand.
    ((before, final),) = played(
        ScriptedLanguageModel(),
        dialogue("d", ("lives in Rome", "hm", "likes tea"), ("lives in Oslo", "noise", "never mind")),
    )
    assert {turn_id: texts(entries) for turn_id, entries in before.items()} == {
        "d:1:1": [],
        "d:1:2": ["Ann lives in Rome"],
        "d:1:3": ["Ann lives in Rome"],
        "d:2:1": ["Ann lives in Rome", "Ann likes tea"],
        "d:2:2": ["Ann lives in Oslo", "Ann likes tea"],
        "d:2:3": ["Ann lives in Oslo", "Ann likes tea"],  # "noise" does not parse and changes nothing
    }
    assert len(final) == 1
    assert before["d:2:2"][0].source_turn_ids == ("d:1:1", "d:2:1")


def test_dialogues_advance_together_and_stay_apart() -> None:
    model = ScriptedLanguageModel()
    long, short = dialogue("long", ("lives in Rome", "has a dog", "likes tea")), dialogue("short", ("lives in Oslo",))
    both = played(model, long, short)
    # Turn by turn: both dialogues' first turns in one batch, then the rest of the longer one.
    assert [len(batch) for batch in model.batches] == [2, 1, 1]
    assert [texts(final) for _, final in both] == [
        ["Ann lives in Rome", "Ann has a dog", "Ann likes tea"],
        ["Ann lives in Oslo"],
    ]
    assert played(ScriptedLanguageModel(), short) == both[1:]
    assert played(ScriptedLanguageModel()) == []


def test_the_manager_reads_up_to_two_turns_of_the_same_session_before() -> None:
    model = ScriptedLanguageModel()
    played(model, dialogue("d", ("one", "two", "three", "four"), ("five",)))
    said = [prompt[prompt.index("Dialogue:") :].splitlines()[1:] for prompt in model.prompts]
    assert said[3] == ["Ann: two", "Ann: three", "Last turn: Ann: four"]
    assert said[4] == ["Last turn: Ann: five"]


def system(model: ScriptedLanguageModel) -> ManagedMemory:
    return ManagedMemory(manager(model), Retriever(FakeEmbedder()), recall_per_speaker=2)


@pytest.mark.parametrize("turns", range(4))
def test_a_dialogue_goes_on_behind_the_turns_that_are_held(turns: int) -> None:
    whole = Episode.of(dialogue("d", ("lives in Rome", "likes tea"), ("lives in Oslo",)))
    expected, model = system(ScriptedLanguageModel()), ScriptedLanguageModel()
    play(expected, [whole])
    resumed = system(model)
    resumed.begin("d", whole.speakers)
    for turn in whole.turns[:turns]:
        resumed.observe(turn, "d")
        if turn.turn_id == "d:1:2" and turns == 3:  # after two turns, a kill before the session's end
            resumed.end_session("d", "")
    told: list[int] = []
    play(resumed, [whole], advance=told.append)
    assert (len(model.prompts), told) == (3, [turns, *[1] * (3 - turns)])
    assert resumed.records("d") == expected.records("d")


def test_other_turns_than_the_episodes_are_refused() -> None:
    held: MemorySystem = system(ScriptedLanguageModel())
    held.observe(Turn("d:1:2", "Ann", "likes tea"), "d")
    with pytest.raises(DataError, match="'d' does not follow the order of its turns: it holds 'd:1:2' as turn 1"):
        play(held, [Episode.of(dialogue("d", ("lives in Rome", "likes tea")))])
