"""The promises of every memory system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.errors import ConfigurationError, ScopeError, StoreError
from memory_r1.inference.language_model import Messages
from memory_r1.memory.forms import FORMS
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import Capability, MemorySystem, RecallRequest
from memory_r1.systems.baselines import Oracle
from memory_r1.systems.table import SYSTEMS, build_system
from memory_r1.systems.writer import Writer
from memory_r1.types import Turn
from tests.fakes import FakeEmbedder, FakeWeaver, KeepNewest, ScriptedLanguageModel, keeping_script

QUERY = "where does Ann live"
SMALL = {"memgpt": {"context_tokens": 40}}
"""Settings with which a few turns are enough to overflow."""


def turn(number: int, speaker: str, text: str, session: int = 1) -> Turn:
    return Turn(f"D{session}:{number}", speaker, text, f"s{session}", f"2023-05-0{session}T10:00:00")


ANN = [
    turn(1, "Ann", "lives in Rome"),
    turn(2, "Ben", "owns two secretcats"),
    turn(3, "Ann", "hm"),
    turn(1, "Ann", "lives in Oslo", 2),
    turn(2, "Ben", "plays chess", 2),
]
CLEO = [turn(1, "Cleo", "lives in Paris"), turn(2, "Dan", "paints boats"), turn(3, "Cleo", "noise")]


def new_system(name: str, model: ScriptedLanguageModel | None = None) -> MemorySystem:
    retriever = Retriever(FakeEmbedder())
    model = model or ScriptedLanguageModel()
    manager = MemoryManager(model, retriever, recall_per_speaker=2, form=FORMS[SYSTEMS[name].operations])
    system = build_system(
        name,
        retriever=retriever,
        manager=manager,
        writer=Writer(model),
        weaver=FakeWeaver(),
        recall_per_speaker=3,
        slot_policy=KeepNewest(),
        settings=SMALL.get(name),
    )
    if isinstance(system, Oracle):
        for scope in ("a", "c"):
            system.reveal(scope, {QUERY: ["D1:1", "D2:1"]})
    return system


def played(name: str) -> MemorySystem:
    system = new_system(name)
    system.begin("a", ["Ann", "Ben"])
    for spoken in ANN:
        system.observe(spoken, "a")
    for spoken in CLEO:
        system.observe(spoken, "c")
    return system


def whole(system: MemorySystem, scope: str) -> tuple[object, ...]:
    return system.entries(scope), system.records(scope), system.recall(QUERY, scope)


def asks_a_model_to_write(name: str) -> bool:
    return Capability.MODEL_WRITES in new_system(name).capabilities and not SYSTEMS[name].needs_weaver


every_system = pytest.mark.parametrize("name", SYSTEMS)
remembering = pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "none"])


@every_system
def test_a_scope_never_sees_another(name: str) -> None:
    alone = new_system(name)
    alone.begin("a", ["Ann", "Ben"])
    for spoken in ANN:
        alone.observe(spoken, "a")
    assert whole(played(name), "a") == whole(alone, "a")
    assert played(name).entries("nobody") == ()
    assert played(name).recall(QUERY, "nobody").items == ()


@remembering
def test_what_was_said_is_remembered_with_its_turns(name: str) -> None:
    entries = played(name).entries("c")
    assert ("paints boats" in entries[1].text, entries[1].speaker, entries[1].source_turn_ids) == (
        True,
        "Dan",
        ("D1:2",),
    )
    assert entries[1].timestamp == "2023-05-01T10:00:00"
    recalled = {source for entry in played(name).recall(QUERY, "a").items for source in entry.source_turn_ids}
    assert recalled & {"D1:1", "D1:3", "D2:1"}  # what Ann said


@every_system
@pytest.mark.parametrize("scope", ["", "  "])
def test_no_call_goes_without_a_scope(name: str, scope: str) -> None:
    system = played(name)
    calls: list[Callable[[], object]] = [
        lambda: system.begin(scope, ["Ann"]),
        lambda: system.observe(ANN[0], scope),
        lambda: system.observe_many([(ANN[0], "a"), (ANN[0], scope)]),
        lambda: system.end_session(scope, ""),
        lambda: system.recall(QUERY, scope),
        lambda: system.entries(scope),
        lambda: system.records(scope),
        lambda: system.forget(scope),
    ]
    before = whole(system, "a")
    for call in calls:
        with pytest.raises(ScopeError, match="non-empty"):
            call()
    assert whole(system, "a") == before


@every_system
def test_recalls_read_one_snapshot_in_any_order_and_batch(name: str) -> None:
    system = played(name)
    before = system.entries("a"), system.records("a")
    requests = [RecallRequest(query, scope) for query in (QUERY, "who plays chess") for scope in ("a", "c")]
    together = system.recall_many(requests)
    assert together == [system.recall(request.query, request.scope) for request in requests]
    assert system.recall_many(requests[::-1]) == together[::-1]
    system.feedback(together[0], 1.0)
    assert system.recall_many(requests) == together
    assert (system.entries("a"), system.records("a")) == before


@every_system
def test_turns_observed_together_give_what_one_by_one_gives(name: str) -> None:
    system = new_system(name)
    system.begin("a", ["Ann", "Ben"])
    # c's third turn precedes a's second: only the order within a scope may matter.
    order = [(ANN[0], "a"), *((spoken, "c") for spoken in CLEO), *((spoken, "a") for spoken in ANN[1:])]
    records = system.observe_many(order)
    assert [record.turn for record in records] == [spoken for spoken, _ in order]
    expected = played(name)
    assert (whole(system, "a"), whole(system, "c")) == (whole(expected, "a"), whole(expected, "c"))


@every_system
def test_every_turn_is_reported(name: str) -> None:
    system = played(name)
    for scope, turns in (("a", ANN), ("c", CLEO)):
        assert [record.turn for record in system.records(scope) if record.turn is not None] == turns
    system.end_session("a", "2023-05-02T11:00:00")
    writes = any(record.model_calls for record in system.records("a"))
    assert writes == (Capability.MODEL_WRITES in system.capabilities)
    reads = bool(system.recall(QUERY, "a").usage.get("model_calls"))
    assert reads == (Capability.MODEL_READS in system.capabilities)


@every_system
def test_the_log_names_each_source_of_an_entry_once(name: str) -> None:
    system = new_system(name)
    for number in range(1, 13):
        system.observe(turn(number, ("Ann", "Ben")[number % 2], f"lives in {number}"), "a")
        if number % 4 == 0:
            system.end_session("a", "2023-05-01T11:00:00")
    told: dict[int, list[str]] = {}
    for event in (event for record in system.records("a") for event in record.events if "turn_ids" in event.payload):
        told.setdefault(event.item or 0, []).extend(event.payload["turn_ids"])
    assert all(len(ids) == len(set(ids)) for ids in told.values())
    assert all([*entry.source_turn_ids] == told[entry.entry_id] for entry in system.entries("a"))


@every_system
def test_a_session_ends_once_and_what_is_said_then_is_not_read_on(name: str) -> None:
    system = new_system(name)
    system.end_session("a", "2023-05-01T11:00:00")
    assert system.records("a") == ()
    system.observe(ANN[0], "a")
    for _ in range(2):
        system.end_session("a", "2023-05-01T11:00:00")
    system.observe(ANN[1], "a")
    ended = [event.kind for record in system.records("a")[1:-1] for event in record.events]
    assert (len(system.records("a")), ended.count("SESSION_END")) == (3, 1)


@every_system
def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    original, loaded = played(name), new_system(name)
    loaded.observe(ANN[0], "is replaced")
    original.save(tmp_path / "new" / "memory.db")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["memory.db"]
    loaded.load(tmp_path / "new" / "memory.db")
    assert (whole(loaded, "a"), whole(loaded, "c")) == (whole(original, "a"), whole(original, "c"))
    assert loaded.entries("is replaced") == ()
    for system in (original, loaded):
        system.observe(turn(4, "Dan", "lives in Bern"), "c")
    assert whole(loaded, "c") == whole(original, "c")
    # Turns observed after loading are in the file without another save.
    reads = Capability.MODEL_READS in original.capabilities
    reader = new_system(name, None if reads else ScriptedLanguageModel(fail_after=0))
    reader.load(tmp_path / "new" / "memory.db")
    assert whole(reader, "c") == whole(original, "c")


@every_system
def test_a_file_that_is_not_its_own_is_refused_and_changes_nothing(name: str, tmp_path: Path) -> None:
    system = played(name)
    before = whole(system, "a")
    other = "rag" if name != "rag" else "none"
    played(other).save(tmp_path / "other")
    system.save(tmp_path / "cut")
    content = (tmp_path / "cut").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    (tmp_path / "earlier").write_text('{"format": "memory_r1.system", "version": 2, "scopes": {}}' * 9)
    for file in ("other", "cut", "earlier", "missing"):
        with pytest.raises(StoreError, match=str(tmp_path / file)):
            system.load(tmp_path / file)
    assert whole(system, "a") == before
    assert not (tmp_path / "missing").exists()


@every_system
def test_a_forgotten_scope_is_gone_for_good(name: str, tmp_path: Path) -> None:
    system = played(name)
    kept = whole(system, "c")
    live = len(system.entries("a"))
    assert system.forget("a") == live
    assert (system.entries("a"), system.records("a"), system.recall(QUERY, "a").items) == ((), (), ())
    assert whole(system, "c") == kept
    system.save(tmp_path / "memory")
    assert b"secretcats" not in (tmp_path / "memory").read_bytes()
    assert system.forget("a") == 0


@remembering
def test_a_forgotten_entry_leaves_no_text_and_its_id_is_never_given_again(name: str, tmp_path: Path) -> None:
    system = played(name)
    secret = next(entry for entry in system.entries("a") if "secretcats" in entry.text)
    # What was written from its turn goes with it.
    others = [entry for entry in system.entries("a") if "D1:2" not in entry.source_turn_ids]
    assert system.forget("a", {secret.entry_id}) >= 1
    assert list(system.entries("a")) == others
    assert all(entry.entry_id != secret.entry_id for entry in system.recall("secretcats", "a").items)
    system.save(tmp_path / "memory")
    assert b"secretcats" not in (tmp_path / "memory").read_bytes()
    assert system.forget("a", {secret.entry_id}) == 0
    with pytest.raises(StoreError, match=r"never held the entries \[999\]"):
        system.forget("a", {999})


@remembering
def test_a_turn_behind_a_forgotten_entry_is_no_longer_held_as_the_running_session(name: str, tmp_path: Path) -> None:
    system = new_system(name)
    system.observe(turn(1, "Ann", "owns two secretcats"), "a")
    system.observe(turn(2, "Ben", "plays chess"), "a")
    system.forget("a", {1})
    system.save(tmp_path / "memory")
    content = (tmp_path / "memory").read_bytes()
    assert (b"secretcats" in content, b"plays chess" in content) == (False, True)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if asks_a_model_to_write(name)])
@pytest.mark.parametrize("everything", [False, True], ids=["entry", "scope"])
def test_what_is_forgotten_while_the_model_writes_does_not_come_back(
    name: str, everything: bool, tmp_path: Path
) -> None:
    interrupted: list[str] = []

    def forgetting(prompt: Messages, adapter: str | None) -> str:
        reply = keeping_script(prompt, adapter)
        secrets = {entry.entry_id for entry in system.entries("a") if "secretcats" in entry.text}
        if secrets and said and not interrupted:
            interrupted.append(said[-1])
            system.forget("a", None if everything else secrets)
            reply = reply.replace("tea", "tea with secretcats")
            assert "secretcats" in reply
        return reply

    system, said = new_system(name, ScriptedLanguageModel(forgetting)), list[str]()
    system.observe(turn(1, "Ann", "owns secretcats"), "a")
    for number, verb in enumerate(("brews", "pours", "sells", "loves", "hates"), 2):
        said.append(verb)
        system.observe(turn(number, "Ben", f"{verb} tea"), "a")
    system.end_session("a", "2023-05-01T11:00:00")
    system.save(tmp_path / "memory")
    (during,) = interrupted
    left = f"{system.entries('a')} {system.records('a')} {system.recall(QUERY, 'a')}"
    assert ("secretcats" in left, b"secretcats" in (tmp_path / "memory").read_bytes()) == (False, False)
    if not everything or during != said[-1]:  # otherwise the turn was stored before the scope was forgotten
        assert f"{during} tea" in str(system.entries("a"))


@remembering
def test_the_last_entry_forgotten_keeps_its_id_through_a_save(name: str, tmp_path: Path) -> None:
    system = new_system(name)
    system.observe(CLEO[0], "c")
    system.forget("c", {1})
    system.save(tmp_path / "memory")
    system.load(tmp_path / "memory")
    system.observe(CLEO[1], "c")
    assert [entry.entry_id for entry in system.entries("c")] == [2]


@every_system
def test_a_budget_bounds_what_is_recalled_and_counts_what_it_cut(name: str) -> None:
    system = played(name)
    full = system.recall(QUERY, "a")
    assert full.usage["cut"] == 0
    sizes = []
    for budget in range(int(full.usage["tokens"]) + 1):
        recall = system.recall(QUERY, "a", budget_tokens=budget)
        assert recall.usage["tokens"] <= budget
        assert len(recall.items) + recall.usage["cut"] == len(full.items)
        assert [entry for entry in full.items if entry in recall.items] == list(recall.items)
        sizes.append(len(recall.items))
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (0, len(full.items))


@every_system
def test_a_turn_without_words_is_played_and_not_stored(name: str) -> None:
    model = ScriptedLanguageModel(lambda prompt, adapter: "[]")
    system = new_system(name, model)
    record = system.observe(turn(1, "Ann", "  "), "a")
    assert (record.events, record.refusals, record.failure, system.entries("a")) == ((), (), "", ())


def test_an_unknown_system_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"'mem0' is unknown; allowed: none, full-context, .*memory-r1"):
        build_system("mem0")


@pytest.mark.parametrize(
    ("name", "missing"), [("rag", "retriever"), ("memory-r1", "retriever"), ("add-only", "retriever")]
)
def test_a_system_without_a_part_it_needs_is_refused(name: str, missing: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name!r} needs a {missing}"):
        build_system(name)


def test_a_managed_system_needs_its_manager() -> None:
    with pytest.raises(ConfigurationError, match="needs a manager"):
        build_system("memory-r1", retriever=Retriever(None, "bm25"))


def test_the_recall_is_at_least_one() -> None:
    with pytest.raises(ConfigurationError, match="recall_per_speaker is 0"):
        build_system("none", recall_per_speaker=0)


def test_names_and_capabilities_are_those_of_the_table() -> None:
    systems = {name: new_system(name) for name in SYSTEMS}
    assert all(system.name == name for name, system in systems.items())
    assert [name for name, system in systems.items() if Capability.GOLD_EVIDENCE in system.capabilities] == ["oracle"]
    assert [name for name, system in systems.items() if hasattr(system, "reveal")] == ["oracle"]
    assert [name for name, system in systems.items() if Capability.EDITS in system.capabilities] == [
        "sliding-window",
        "memorybank",
        "mem1",
        "memgpt",
        "hierarchical-graph",
        "temporal-graph",
        "prompted-manager",
        "memory-r1",
        "memory-r1-graph",
        "token-retention",
    ]
