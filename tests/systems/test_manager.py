from __future__ import annotations

from pathlib import Path

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.inference.language_model import Messages
from memory_r1.memory.record import Record, Refusal
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.manager import AddOnly, AddOnlyNewestFirst, ManagedMemory
from memory_r1.types import OperationKind, Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind


def turn(number: int, speaker: str, text: str, session: int = 1) -> Turn:
    return Turn(f"D{session}:{number}", speaker, text, f"s{session}", f"2023-05-0{session}T10:00:00")


def build(
    kind: type[ManagedMemory], model: ScriptedLanguageModel | None = None, embedder: FakeEmbedder | None = None
) -> ManagedMemory:
    retriever = Retriever(embedder or FakeEmbedder())
    return kind(
        MemoryManager(model or ScriptedLanguageModel(), retriever, recall_per_speaker=2),
        retriever,
        recall_per_speaker=2,
    )


def texts(system: ManagedMemory) -> list[str]:
    return [entry.text for entry in system.entries("a")]


def tell(system: ManagedMemory, *turns: Turn) -> list[Record]:
    return [system.observe(each, "a") for each in turns]


def done(records: list[Record]) -> list[tuple[str, str | None, int | None]]:
    """Return each event's kind, the manager's own kind if it differed, and the entry."""
    return [(event.kind, event.payload.get("instead_of"), event.item) for record in records for event in record.events]


def test_memory_r1_applies_what_the_manager_writes() -> None:
    system = build(ManagedMemory)
    records = tell(system, turn(1, "Ann", "lives in Rome"), turn(2, "Ben", "hm"), turn(1, "Ann", "lives in Oslo", 2))
    assert texts(system) == ["Ann lives in Oslo"]
    assert system.entries("a")[0].source_turn_ids == ("D1:1", "D2:1")
    assert system.entries("a")[0].timestamp == "2023-05-02T10:00:00"
    assert done(records) == [(ADD, None, 1), (NOOP, None, None), (UPDATE, None, 1)]
    tell(system, turn(2, "Ann", "never mind", 2))
    assert texts(system) == []


def test_add_only_adds_what_an_update_would_have_replaced_and_deletes_nothing() -> None:
    system = build(AddOnly)
    records = tell(
        system,
        turn(1, "Ann", "lives in Rome"),
        turn(1, "Ann", "lives in Oslo", 2),
        turn(2, "Ann", "never mind", 2),
        turn(3, "Ben", "hm", 2),
    )
    assert texts(system) == ["Ann lives in Rome", "Ann lives in Oslo"]
    assert done(records) == [(ADD, None, 1), (ADD, UPDATE, 2), (NOOP, DELETE, None), (NOOP, None, None)]


def test_newest_first_shows_the_same_entries_newest_first() -> None:
    turns = [turn(1, "Ann", "lives in Rome"), turn(1, "Ann", "lives in Oslo", 2), turn(2, "Ben", "lives in Bern", 2)]
    plain, newest = build(AddOnly), build(AddOnlyNewestFirst)
    tell(plain, *turns)
    tell(newest, *turns)
    query = "Ann lives in Rome"
    assert plain.recall(query, "a").items[0].text == query
    items = newest.recall(query, "a").items
    assert [entry.text for entry in items] == ["Ben lives in Bern", "Ann lives in Oslo", "Ann lives in Rome"]
    assert set(items) == set(plain.recall(query, "a").items)
    # A budget keeps entries by rank, before they are sorted by time: only the best one fits.
    cost = int(plain.recall(query, "a").usage["tokens"]) // 3
    assert [entry.text for entry in newest.recall(query, "a", "", cost + 1).items] == [query]


def test_what_cannot_be_read_is_logged_with_its_reason() -> None:
    system = build(ManagedMemory)
    _, record = tell(system, turn(1, "Ann", "lives in Rome"), turn(2, "Ann", "noise"))
    assert (record.failure, record.completion, record.events) == ("not_json", "I shall remember that", ())
    assert texts(system) == ["Ann lives in Rome"]


def test_good_operations_apply_beside_a_refused_one() -> None:
    completion = '[{"op": "ADD", "text": "one"}, {"op": "DELETE", "id": 7}, {"op": "ADD", "text": "two"}]'
    system = build(ManagedMemory, ScriptedLanguageModel(lambda prompt, adapter: completion))
    (record,) = tell(system, turn(1, "Ann", "one and two"))
    assert texts(system) == ["one", "two"]
    assert done([record]) == [(ADD, None, 1), (ADD, None, 2)]
    assert record.refusals == (Refusal(1, "unknown_id", '{"op": "DELETE", "id": 7}'),)
    # The fake's tokens are words: the completion has 12 of them.
    assert (record.completion, record.completion_tokens, record.model_calls) == (completion, 12, 1)
    assert record.prompt_tokens > 0


def stored(path: Path) -> ManagedMemory:
    """Return a writer of a file that holds two entries."""
    memory = build(ManagedMemory)
    tell(memory, turn(1, "Ann", "lives in Rome"), turn(2, "Ben", "plays chess"))
    memory.save(path)
    memory.load(path)
    return memory


def test_an_entry_that_another_writer_changed_meanwhile_is_left_to_that_writer(tmp_path: Path) -> None:
    first = stored(tmp_path / "memory.db")

    def interrupted(prompt: Messages, adapter: str | None) -> str:
        tell(first, turn(3, "Ann", "lives in Oslo"))  # while the other writer's model thinks
        return (
            '[{"op": "UPDATE", "id": 1, "text": "Ann lives in Bern"}, {"op": "UPDATE", "id": 2, "text": "Ben plays go"}'
            ', {"op": "ADD", "text": "Ann moved"}]'
        )

    second = build(ManagedMemory, ScriptedLanguageModel(interrupted))
    second.load(tmp_path / "memory.db")
    (record,) = tell(second, turn(4, "Ann", "lives in Bern"))
    assert texts(second) == texts(first) == ["Ann lives in Oslo", "Ben plays go", "Ann moved"]
    assert [(refusal.index, refusal.reason) for refusal in record.refusals] == [(0, "conflict")]
    assert "Ann lives in Bern" in record.refusals[0].raw


def test_what_another_writer_deletes_or_undoes_meanwhile_costs_no_second_reading(tmp_path: Path) -> None:
    first = stored(tmp_path / "memory.db")

    def interrupted(prompt: Messages, adapter: str | None) -> str:
        first.log.undo("a")
        tell(first, turn(3, "Ann", "never mind"))
        return '[{"op": "ADD", "text": "Cleo paints"}]'

    model = ScriptedLanguageModel(interrupted)
    second = build(ManagedMemory, model)
    second.load(tmp_path / "memory.db")
    tell(second, turn(4, "Cleo", "paints"))
    assert (texts(second), len(model.prompts)) == (["Cleo paints"], 1)


def test_scopes_are_managed_in_lockstep_and_their_turns_in_order() -> None:
    model = ScriptedLanguageModel()
    system = build(ManagedMemory, model)
    a = [turn(1, "Ann", "lives in Rome"), turn(2, "Ann", "lives in Oslo"), turn(3, "Ann", "lives in Bern")]
    c = [turn(1, "Cleo", "paints boats"), turn(2, "Cleo", "paints cars")]
    system.observe_many([*((each, "a") for each in a), *((each, "c") for each in c)])
    assert [len(batch) for batch in model.batches] == [2, 2, 1]
    assert "Ann lives in Rome" in model.batches[1][0]
    assert [entry.text for entry in system.entries("c")] == ["Cleo paints cars"]
    assert not any("Ann" in prompt and "Cleo" in prompt for prompt in model.prompts)


def test_the_manager_reads_the_two_turns_before_in_the_same_session() -> None:
    model = ScriptedLanguageModel()
    system = build(ManagedMemory, model)
    tell(system, *(turn(number, "Ann", f"hums tune{number}") for number in (1, 2, 3, 4)))
    dialogue = model.prompts[3].split("Dialogue")[1]
    assert [f"tune{number}" in dialogue for number in (1, 2, 3, 4)] == [False, True, True, True]
    tell(system, turn(1, "Ann", "hums tune5", 2))
    assert "tune4" not in model.prompts[4].split("Dialogue")[1]


def test_a_session_that_ended_is_not_read_on() -> None:
    model = ScriptedLanguageModel()
    system = build(ManagedMemory, model)
    tell(system, turn(1, "Ann", "hm"))
    system.end_session("a", "2023-05-01T11:00:00")
    tell(system, turn(2, "Ann", "lives in Rome"))
    assert "hm" not in model.prompts[1].split("Dialogue")[1]


def test_announced_speakers_widen_what_the_manager_is_shown() -> None:
    turns = [turn(number, "Ann", f"hums{number} tune{number}") for number in range(1, 7)]
    shown = {}
    for speakers in ((), ("Ann", "Ben")):
        model = ScriptedLanguageModel()
        system = build(ManagedMemory, model)
        system.begin("a", speakers)
        tell(system, *turns)
        shown[speakers] = model.prompts[5].split("Dialogue")[0].count("Ann hums")
    # Two per speaker: one speaker is known from the turns, two were announced.
    assert shown == {(): 2, ("Ann", "Ben"): 4}


def test_forgetting_clears_the_caches_of_both_searches() -> None:
    embedder = FakeEmbedder()
    system = build(ManagedMemory, embedder=embedder)
    tell(system, turn(1, "Ann", "lives in Rome"))
    system.forget("a")
    assert embedder.clears == 2


def test_what_the_manager_wrote_beside_a_forgotten_entry_is_forgotten_too(tmp_path: Path) -> None:
    completion = '[{"op": "ADD", "text": "a secret"}, {"op": "UPDATE", "id": 7, "text": "the secret again"}]'
    system = build(ManagedMemory, ScriptedLanguageModel(lambda prompt, adapter: completion))
    tell(system, turn(1, "Ann", "the secret"))
    system.forget("a", {1})
    system.save(tmp_path / "memory")
    assert b"secret" not in (tmp_path / "memory").read_bytes()
