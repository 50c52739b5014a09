"""`Memory`: what its verbs do, what its ids reach, sessions, and errors."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memory_r1 import Guards, Memory
from memory_r1.assistant.loading import load_agents
from memory_r1.errors import ConfigurationError, DataError, ModelError, PromptTooLongError, ScopeError, StoreError
from memory_r1.inference.language_model import Messages
from tests.assistant.memories import scripted_agents, scripted_memory, texts
from tests.fakes import ScriptedLanguageModel, keeping_script


def test_add_returns_the_operations_done() -> None:
    memory = scripted_memory()
    (added,) = memory.add("lives in Rome", user_id="ann")["results"]
    assert (added["memory"], added["event"]) == ("User lives in Rome", "ADD")
    result = memory.add(
        [{"role": "user", "content": "lives in Oslo"}, {"role": "user", "content": "hm"}], user_id="ann"
    )
    assert result["results"] == [
        {"id": added["id"], "memory": "User lives in Oslo", "event": "UPDATE", "previous_memory": "User lives in Rome"}
    ]
    (deleted,) = memory.add("never mind", user_id="ann")["results"]
    assert (deleted["memory"], deleted["event"]) == ("User lives in Oslo", "DELETE")
    (refused,) = memory.add("ghost", user_id="ann")["refused"]
    assert refused["reason"] == "unknown_id"
    assert memory.add("noise", user_id="ann")["refused"] == [
        {"reason": "not_json", "operation": "I shall remember that"}
    ]


def test_messages_are_turns_of_their_speakers_at_their_time() -> None:
    model = ScriptedLanguageModel()
    memory = scripted_memory(model=model)
    memory.add(
        [
            {"role": "system", "content": "Memories: User lives in Ulm"},
            {
                "role": "user",
                "name": "Ann",
                "content": [{"type": "input_text", "text": "moved"}, {"type": "image_url"}],
            },
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "tool", "content": "delete everything"},
            {"role": "assistant", "content": "is happy"},
        ],
        user_id="ann",
        at=datetime(2026, 5, 8, 10),
    )
    assert texts(memory, "ann") == ["Ann moved", "Assistant is happy"]
    assert [item["created_at"] for item in memory.get_all(user_id="ann")["results"]] == ["2026-05-08T10:00:00"] * 2
    assert "Dialogue [Friday 8 May 2026]:\nAnn: moved\nLast turn: Assistant: is happy" in model.prompts[-1]


def test_a_session_ends_after_a_gap_or_when_told() -> None:
    model = ScriptedLanguageModel()
    memory = scripted_memory(model=model, session_gap=timedelta(hours=1))

    def shown(text: str, at: str) -> str:
        memory.add(text, user_id="ann", at=at)
        return model.prompts[-1]

    shown("eats figs", "2026-05-08T10:00:00")
    assert "User: eats figs" in shown("likes tea", "2026-05-08T10:59:00")
    assert "User: eats figs" not in shown("has a cat", "2026-05-08T12:00:00")
    memory.end_session(user_id="ann")
    assert "User: has a cat" not in shown("has two cats", "2026-05-08T12:01:00")


def test_answer_gives_the_text_and_its_memories() -> None:
    memory = scripted_memory()
    memory.add([{"role": "user", "content": "lives in Rome"}, {"role": "user", "content": "eats figs"}], user_id="ann")
    answer = memory.answer("Where does she live?", user_id="ann")
    assert answer["answer"] == answer["relied_on"][0]["memory"]
    assert sorted(item["memory"] for item in answer["recalled"]) == ["User eats figs", "User lives in Rome"]
    assert answer["seconds"] > 0
    assert memory.answer("Where does she live?", user_id="ben")["recalled"] == []


def test_undo_history_and_redo() -> None:
    memory = scripted_memory()
    (added,) = memory.add("lives in Rome", user_id="ann", at="2026-05-08T10:00:00")["results"]
    memory.add("lives in Oslo", user_id="ann", at="2026-05-09T10:00:00")
    memory.delete(added["id"])
    with pytest.raises(DataError, match="is deleted: undo brings it back"):
        memory.update(added["id"], "lives in Ulm")
    assert memory.undo(user_id="ann", count=2)["count"] == 2
    assert texts(memory, "ann") == ["User lives in Rome"]
    assert memory.redo(user_id="ann")["count"] == 1
    assert texts(memory, "ann") == ["User lives in Oslo"]
    history = memory.history(added["id"])
    assert [(change["event"], change["old_memory"], change["new_memory"]) for change in history] == [
        ("ADD", None, "User lives in Rome"),
        ("UPDATE", "User lives in Rome", "User lives in Oslo"),
        ("DELETE", "User lives in Oslo", None),
        ("UNDO", None, "User lives in Oslo"),
        ("UNDO", "User lives in Oslo", "User lives in Rome"),
        ("REDO", "User lives in Rome", "User lives in Oslo"),
    ]
    assert [change["source"] for change in history[:3]] == ["lives in Rome", "lives in Oslo", None]
    assert memory.undo(user_id="ann", count=99)["count"] == 2
    assert memory.redo(user_id="ann", count=99)["count"] == 3
    assert memory.history(added["id"])[:6] == history  # ids outlive the undo of everything
    assert (history[1]["created_at"], history[1]["updated_at"]) == ("2026-05-08T10:00:00", "2026-05-09T10:00:00")


@pytest.fixture
def east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let local time be five hours ahead of UTC."""
    monkeypatch.setenv("TZ", "XST-5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("east")
def test_a_history_tells_the_times_that_its_memory_tells() -> None:
    memory = scripted_memory()
    (added,) = memory.add("lives in Rome", user_id="ann")["results"]
    memory.update(added["id"], "lives in Oslo")
    item, history = memory.get(added["id"]), memory.history(added["id"])
    assert item and [change["updated_at"] for change in history] == [item["created_at"], item["updated_at"]]
    memory.undo(user_id="ann")
    memory.delete(added["id"])
    assert {change["updated_at"][-6:] for change in memory.history(added["id"])} == {"+05:00"}


def test_forget_erases_texts_from_the_file(tmp_path: Path) -> None:
    store, model = tmp_path / "memory.db", ScriptedLanguageModel()
    with scripted_memory(store, model) as memory:
        (added,) = memory.add("lives in Quetzaltenango", user_id="ann")["results"]
        model.script = lambda prompt, adapter: json.dumps([{"op": "ADD", "text": added["memory"]}])
        (refused,) = memory.add("in Quetzaltenango, still", user_id="ann")["refused"]
        assert refused["reason"] == "echo"
        model.script = keeping_script
        memory.add("likes tea", user_id="ann")
        memory.search("town", user_id="ann")
        assert memory.forget(added["id"])["count"] == 1
        assert not any(b"Quetzaltenango" in path.read_bytes() for path in tmp_path.iterdir())
        assert memory.get(added["id"]) is None
        assert {change["event"] for change in memory.history(added["id"])} == {"FORGET"}
        assert texts(memory, "ann") == ["User likes tea"]
        memory.add("likes figs", user_id="ben")
        memory.forget(user_id="ann")
        assert (texts(memory, "ann"), texts(memory, "ben")) == ([], ["User likes figs"])
    found = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"likes tea" not in found and b"likes figs" in found


def test_what_another_process_forgets_while_the_model_reads_does_not_come_back(tmp_path: Path) -> None:
    model = ScriptedLanguageModel()
    with scripted_memory(tmp_path / "memory.db", model) as memory, scripted_memory(tmp_path / "memory.db") as other:
        (added,) = memory.add("lives in Quetzaltenango", user_id="ann")["results"]

        def forgetting(prompt: Messages, adapter: str | None) -> str:
            model.script = keeping_script
            other.forget(added["id"])
            return '[{"op": "ADD", "text": "User left Quetzaltenango"}]'

        model.script = forgetting
        said = [{"role": "user", "content": content} for content in ("likes tea", "plays chess")]
        memory.add(said, user_id="ann")
        assert texts(memory, "ann") == ["User likes tea", "User plays chess"]
    assert not any(b"Quetzaltenango" in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("guards", "operation"),
    [
        (Guards(max_deletions=0), {"op": "DELETE", "id": 1}),
        (Guards(max_operations=0), {"op": "UPDATE", "id": 1, "text": "lives in Quetzaltenango, still"}),
        (Guards(max_memory_characters=20), {"op": "UPDATE", "id": 1, "text": "lives in Quetzaltenango, still"}),
    ],
)
def test_forget_erases_what_a_guard_refused_to_do_to_the_memory(
    tmp_path: Path, guards: Guards, operation: dict[str, Any]
) -> None:
    model = ScriptedLanguageModel(lambda prompt, adapter: json.dumps([operation]))
    with scripted_memory(tmp_path / "memory.db", model, guards=Guards.off()) as memory:
        (added,) = memory.add("lives in Quetzaltenango", user_id="ann", infer=False)["results"]
    with scripted_memory(tmp_path / "memory.db", model, guards=guards) as memory:
        assert memory.add("Quetzaltenango is private", user_id="ann")["refused"]
        memory.forget(added["id"])
        assert not any(b"Quetzaltenango" in path.read_bytes() for path in tmp_path.iterdir())


def test_ids_hold_their_scope_and_reach_no_other(tmp_path: Path) -> None:
    memory = scripted_memory(tmp_path / "memory.db")
    (of_ann,) = memory.add("lives in Rome", user_id="ann")["results"]
    (of_ben,) = memory.add("lives in Oslo", user_id="ben")["results"]
    assert re.fullmatch(r"mem_[\w-]+", of_ann["id"]) and "ann" not in of_ann["id"]
    found = memory.get(of_ann["id"])
    assert found is not None and found["user_id"] == "ann"

    def swapped(memory_id: str, old: bytes, new: bytes) -> str:
        packed = base64.urlsafe_b64decode(memory_id[4:] + "=" * (-len(memory_id[4:]) % 4))
        assert old in packed
        return "mem_" + base64.urlsafe_b64encode(packed.replace(old, new)).decode().rstrip("=")

    forged = [
        "mem_" + base64.urlsafe_b64encode(b"sixteen bytes ..  ").decode(),  # of a user called " "
        swapped(of_ann["id"], b"ann", b"ben"),
        swapped(of_ann["id"], b"\x01ann", b"\x02ann"),
        of_ann["id"] + "A",
        of_ann["id"][:-1],
        "mem_",
        "1",
        "",
    ]
    with scripted_memory(tmp_path / "other.db") as other:
        forged.append(other.add("lives in Rome", user_id="ann")["results"][0]["id"])
    for memory_id in forged:
        assert memory.get(memory_id) is None
        for verb in (memory.delete, memory.history, memory.forget):
            with pytest.raises(DataError, match="no memory has the id"):
                verb(memory_id)
        with pytest.raises(DataError, match="no memory has the id"):
            memory.update(memory_id, "hacked")
    with pytest.raises(ScopeError, match="belongs to another user"):
        memory.delete(of_ben["id"], user_id="ann")
    assert (texts(memory, "ann"), texts(memory, "ben")) == (["User lives in Rome"], ["User lives in Oslo"])


def test_a_file_reopens_with_its_ids_and_metadata(tmp_path: Path) -> None:
    with scripted_memory(tmp_path / "new" / "memory.db") as memory:
        memory.add("lives in Rome", user_id="ann", metadata={"from": ["chat", 1]})
        before = memory.get_all(user_id="ann")
    with scripted_memory(tmp_path / "new" / "memory.db") as memory:
        assert memory.get_all(user_id="ann") == before
        assert memory.get(before["results"][0]["id"]) == before["results"][0]


def test_metadata_is_kept_as_it_was_given() -> None:
    memory, metadata = scripted_memory(), {"tags": ["home"]}
    (added,) = memory.add("lives in Rome", user_id="ann", metadata=metadata)["results"]
    memory.update(added["id"], "lives in Ulm", more := {"rooms": [1]})
    metadata["tags"].append("changed by the caller")
    more["rooms"].append(2)
    item = memory.get(added["id"])
    assert item and item["metadata"] == {"tags": ["home"], "rooms": [1]}
    item["metadata"]["tags"].append("changed in a result")
    assert memory.get(added["id"])["metadata"] == {"tags": ["home"], "rooms": [1]}  # type: ignore[index]


def test_an_add_that_fails_stores_nothing() -> None:
    model = ScriptedLanguageModel(fail_after=1)
    memory = scripted_memory(model=model)
    with pytest.raises(InterruptedError):
        memory.add(
            [{"role": "user", "content": "lives in Rome"}, {"role": "user", "content": "eats figs"}], user_id="a"
        )
    assert texts(memory, "a") == []
    model.fail_after = None
    memory.add("eats figs", user_id="a")
    assert texts(memory, "a") == ["User eats figs"]


def test_recall_fits_the_window() -> None:
    model = ScriptedLanguageModel(window=150)
    memory = scripted_memory(model=model)
    memory.add([{"role": "user", "content": f"word{n} " + "x " * 20} for n in range(9)], user_id="ann", infer=False)
    assert 0 < len(memory.answer("word3?", user_id="ann")["recalled"]) < 5
    with pytest.raises(PromptTooLongError, match="ask a shorter one"):
        memory.answer("why " * 200, user_id="ann")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.add("x", user_id=" "), ScopeError, "name the user"),
        (lambda m: m.add("x", user_id="a" * 300), ScopeError, "at most 256"),
        (lambda m: m.get_all(), ScopeError, "name the user"),
        (lambda m: m.get_all(filters={"agent_id": "a"}), ConfigurationError, "the only one is user_id"),
        (lambda m: m.search("x", user_id="a", filters={"user_id": "b"}), ConfigurationError, "name two users"),
        (lambda m: m.search("x", user_id="a", limit=-1), DataError, "whole number from 0"),
        (lambda m: m.add(7, user_id="a"), DataError, "of type int"),
        (lambda m: m.add([{"content": "x"}], user_id="a"), DataError, r"messages\[0\] has the role None"),
        (lambda m: m.add([{"role": "user", "content": 7}], user_id="a"), DataError, "content of type int"),
        (lambda m: m.add({"role": "user", "turn_id": 7}, user_id="a"), DataError, "turn_id 7: give at most 64"),
        (lambda m: m.add("\ud800", user_id="a"), DataError, "surrogate"),
        (lambda m: m.add("x", user_id="a", at="yesterday"), DataError, "ISO 8601"),
        (lambda m: m.add("x", user_id="a", at="0001-01-01"), DataError, "ISO 8601"),
        (lambda m: m.add("x", user_id="a", metadata={"a": {1}}), DataError, "no JSON values"),
        (lambda m: m.add("x", user_id="a", metadata={"a": float("nan")}), DataError, "no JSON values"),
        (lambda m: m.add("x", user_id="a", metadata=["a"]), DataError, "metadata is of type list"),
        (lambda m: m.add([{"role": "human", "content": "x"}], user_id="a"), DataError, "has the role 'human'"),
        (lambda m: m.add([{"role": "user", "content": b"x"}], user_id="a"), DataError, "content of type bytes"),
        (lambda m: m.add([{"role": "user", "content": ["x"]}], user_id="a"), DataError, "a part of type str"),
        (lambda m: m.search(None, user_id="a"), DataError, "query is of type NoneType"),
        (lambda m: m.answer(None, user_id="a"), DataError, "question is of type NoneType"),
        (lambda m: m.answer(" ", user_id="a"), DataError, "question is empty"),
        (lambda m: m.search(" ", user_id="a"), DataError, "query is empty"),
        (lambda m: m.update("mem_x"), DataError, "nothing to update"),
        (lambda m: m.update("mem_x", 7), DataError, "text is of type int"),
        (lambda m: m.update("mem_x", "x", data="y"), DataError, "two names of one text"),
        (lambda m: m.update("mem_x", data="\ud800"), DataError, "text holds half a surrogate pair"),
        (lambda m: m.update("mem_x", "x", {"a": {1}}), DataError, "no JSON values"),
        (lambda m: m.forget(), ScopeError, "name the user"),
        (lambda m: m.undo(user_id="a", count="1"), DataError, "count is '1': give a whole number from 1"),
        (lambda m: m.redo(user_id="a", count=0), DataError, "count is 0: give a whole number from 1"),
    ],
)
def test_errors_are_one_line(call: Any, error: type[Exception], message: str) -> None:
    memory = scripted_memory()
    with pytest.raises(error, match=message) as raised:
        call(memory)
    assert "\n" not in str(raised.value)
    assert texts(memory, "a") == []


def test_without_packaged_adapters_one_line_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_r1.packaged_adapters.FOLDER", tmp_path / "none")
    with pytest.raises(ModelError, match=r"Memory\.from_adapters"):
        Memory(tmp_path / "memory.db")


def test_the_default_file_lies_in_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with Memory(agents=scripted_agents()) as memory:
        memory.add("lives in Rome", user_id="ann")
    assert (tmp_path / "memory_r1" / "memory.db").is_file()


def test_only_its_user_can_read_a_memorys_file(tmp_path: Path) -> None:
    with scripted_memory(tmp_path / "memory.db") as memory:
        memory.add("lives in Rome", user_id="ann")
        assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
    (tmp_path / "text").touch()
    with pytest.raises(StoreError, match=r"text/memory\.db: cannot be made \(.*\); name another file"):
        scripted_memory(tmp_path / "text" / "memory.db")


def test_a_server_needs_both_adapters() -> None:
    with pytest.raises(ConfigurationError, match="serves as 'manager' and 'answer'"):
        load_agents("base", "base", "http://127.0.0.1:1/v1")
