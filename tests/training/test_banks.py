"""Banks as a manager writes them, all dialogues at once."""

from __future__ import annotations

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.memory.retriever import Retriever
from memory_r1.training.banks import PlayedBanks, play_banks
from memory_r1.types import Dialogue, MemoryEntry, Session, Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel


def dialogue(name: str, *sessions: tuple[str, ...]) -> Dialogue:
    """Sessions of Ann's turns; turn ids are `<dialogue>:<session>:<turn>`."""
    return Dialogue(
        name,
        ("Ann", "Ben"),
        tuple(
            Session(f"s{s}", "", tuple(Turn(f"{name}:{s}:{t}", "Ann", text) for t, text in enumerate(texts, 1)))
            for s, texts in enumerate(sessions, 1)
        ),
    )


def play(model: ScriptedLanguageModel, *dialogues: Dialogue) -> list[PlayedBanks]:
    return play_banks(dialogues, MemoryManager(model, Retriever(FakeEmbedder())), progress=False)


def texts(entries: tuple[MemoryEntry, ...]) -> list[str]:
    return [entry.text for entry in entries]


def test_a_bank_is_noted_before_every_turn_and_after_the_last() -> None:
    # The scripted manager adds a fact, updates the one that begins with the same words, skips "hm", deletes on demand.
    (played,) = play(
        ScriptedLanguageModel(),
        dialogue("d", ("lives in Rome", "hm", "likes tea"), ("lives in Oslo", "noise", "never mind")),
    )
    assert {turn_id: texts(entries) for turn_id, entries in played.before.items()} == {
        "d:1:1": [],
        "d:1:2": ["Ann lives in Rome"],
        "d:1:3": ["Ann lives in Rome"],
        "d:2:1": ["Ann lives in Rome", "Ann likes tea"],
        "d:2:2": ["Ann lives in Oslo", "Ann likes tea"],
        "d:2:3": ["Ann lives in Oslo", "Ann likes tea"],  # "noise" does not parse and changes nothing
    }
    assert len(played.final) == 1
    assert played.before["d:2:2"][0].source_turn_ids == ("d:1:1", "d:2:1")


def test_dialogues_advance_together_and_stay_apart() -> None:
    model = ScriptedLanguageModel()
    long, short = dialogue("long", ("lives in Rome", "has a dog", "likes tea")), dialogue("short", ("lives in Oslo",))
    played = play(model, long, short)
    # Turn by turn: both dialogues' first turns in one batch, then what the longer one has left.
    assert [len(batch) for batch in model.batches] == [2, 1, 1]
    assert [texts(bank.final) for bank in played] == [
        ["Ann lives in Rome", "Ann has a dog", "Ann likes tea"],
        ["Ann lives in Oslo"],
    ]
    alone = play(ScriptedLanguageModel(), short)
    assert alone[0] == played[1]


def test_the_manager_reads_up_to_two_turns_of_the_same_session_before() -> None:
    model = ScriptedLanguageModel()
    play(model, dialogue("d", ("one", "two", "three", "four"), ("five",)))
    said = [prompt[prompt.index("Dialogue:") :].splitlines()[1:] for prompt in model.prompts]
    assert said[3] == ["Ann: two", "Ann: three", "Last turn: Ann: four"]
    assert said[4] == ["Last turn: Ann: five"]


def test_no_dialogue_is_no_bank() -> None:
    assert play(ScriptedLanguageModel()) == []
