"""The commands on a memory, with scripted agents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memory_r1.assistant import memory as library
from memory_r1.cli.app import app
from memory_r1.dialogue_file import write_dialogues
from memory_r1.errors import ConfigurationError, DataError, ModelError, ScopeError, StoreError
from memory_r1.types import Dialogue, Session, Turn
from tests.assistant.memories import scripted_agents, scripted_memory, texts
from tests.fakes import ScriptedLanguageModel

UNTRAINED = ("--manager", "base", "--answer", "base")


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedLanguageModel:
    """Let every command load agents that follow `keeping_script`."""
    scripted = ScriptedLanguageModel()
    monkeypatch.setattr(library, "load_agents", lambda *_, **__: scripted_agents(scripted))
    return scripted


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


def run(*words: str | Path, agents: bool = True) -> str:
    arguments = [*map(str, words), *(UNTRAINED if agents else ())]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_verbs_in_turn(store: Path) -> None:
    ann = ("--speaker", "Ann", "--store", store)
    assert run("add", "lives", "in", "Rome", *ann, "--at", "2026-05-08T10:00:00") == "+ #1 Ann lives in Rome\n"
    assert run("add", "lives in Oslo", *ann) == "~ #1 Ann lives in Rome -> Ann lives in Oslo\n"
    assert run("add", "hm", *ann) == "nothing to store\n"
    assert "! refused (unknown_id)" in run("add", "ghost", *ann)
    assert run("ask", "Where does Ann live?", "--store", store).startswith("Ann lives in Oslo\n  from #1 Ann lives in")
    assert "seconds" in run("ask", "Where?", "--store", store)
    assert run("search", "Oslo", "--store", store).startswith("#1 Ann lives in Oslo")
    (found,) = json.loads(run("search", "Oslo", "--json", "--store", store))
    assert (found["memory"], found["user_id"]) == ("Ann lives in Oslo", "me")
    undone = run("undo", "--store", store, agents=False)
    assert undone == "~ #1 Ann lives in Oslo -> Ann lives in Rome\noperations undone: 1\n"
    assert run("undo", "--count", "9", "--store", store, agents=False).endswith("operations undone: 1\n")
    assert run("search", "Oslo", "--store", store) == "nothing is remembered of me\n"


def test_memories_are_listed_explained_and_forgotten_without_a_model(store: Path, tmp_path: Path) -> None:
    with scripted_memory(store) as memory:
        memory.add("lives in Rome", user_id="me", at="2026-05-08T10:00:00")
        memory.add("lives in Oslo", user_id="me", at="2026-05-09T10:00:00")
        memory.add("hides gold", user_id="me", at="2026-05-09T10:00:00")
        memory.undo(user_id="me")
    of = ("--store", store)
    assert run("list", *of, agents=False) == "#1 User lives in Oslo  2026-05-09\n"
    (item,) = json.loads(run("list", "--json", *of, agents=False))
    assert run("history", item["id"], *of, agents=False) == run("history", "1", *of, agents=False)
    assert run("history", "#1", *of, agents=False).splitlines() == [
        "2026-05-08T10:00 ADD    User lives in Rome  because User said: lives in Rome",
        "2026-05-09T10:00 UPDATE User lives in Rome -> User lives in Oslo  because User said: lives in Oslo",
    ]
    assert "hides gold" in run("history", "2", *of, agents=False)  # an undone memory is in the file still
    assert run("forget", "2", "--yes", *of, agents=False) == "#2 of me: erased for good\n"
    assert not any(b"gold" in path.read_bytes() for path in tmp_path.iterdir())
    asked = CliRunner().invoke(app, ["forget", "--all", "--store", str(store)], input="n\n")
    assert "Erase all 1 memories of me and the history for good?" in asked.output and asked.exit_code == 1
    assert run("list", *of, agents=False)
    assert run("forget", "--all", "--yes", *of, agents=False) == "all 1 memories of me: erased for good\n"
    with pytest.raises(DataError, match="knows no user 'me': it knows nobody yet"):
        run("list", *of, agents=False)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("history", "9"), DataError, "me has no memory #9: memory-r1 list shows the numbers"),
        (("history", "mine"), DataError, "no memory is called 'mine': give the number that memory-r1 list shows"),
        (("forget",), ConfigurationError, "give the NUMBER of a memory, or --all"),
        (("forget", "1", "--all"), ConfigurationError, "give the NUMBER of a memory, or --all"),
        (("undo", "--user", "typo"), DataError, "knows no user 'typo': it knows me; name one with --user"),
        (("ask", "Where?", "--store", "typo.db", *UNTRAINED), StoreError, "typo.db: no such file; name the memory's"),
        (("search", "Rome", "--store", "typo.db", *UNTRAINED), StoreError, "typo.db: no such file"),
        (("ask", "Where?", "--user", "typo", *UNTRAINED), DataError, "knows no user 'typo': it knows me"),
    ],
)
def test_what_is_not_there_is_one_line_and_makes_no_file(
    store: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(store.parent)
    with scripted_memory(store) as memory:
        memory.add("lives in Rome", user_id="me")
    with pytest.raises(error, match=message):
        run(*words, *(() if "typo.db" in words else ("--store", store)), agents=False)
    assert not Path("typo.db").exists()


def test_a_question_can_be_asked_at_another_time(store: Path, model: ScriptedLanguageModel) -> None:
    run("add", "lives in Rome", "--store", store)
    run("ask", "Where?", "--at", "2026-05-08T10:00:00", "--store", store)
    assert "Question [Friday 8 May 2026]: Where?" in model.prompts[-1]


def test_secrets_and_terminal_codes_do_not_reach_the_screen(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "theirs.jsonl"
    with scripted_memory(tmp_path / "theirs.db") as memory:
        memory.add("lives in Rome", user_id="\x07ann")
    run("export", file, "--user", "\x07ann", "--store", tmp_path / "theirs.db", agents=False)
    assert "\x07" not in run("import", file, "--store", store, agents=False)
    shown = run("add", "lives in \x1b[31mRome with AKIAIOSFODNN7EXAMPLE", "--store", store)
    assert "\x1b" not in shown and "AKIA" not in shown
    assert "! masked" in shown


def test_an_export_brings_back_the_memory_with_its_history(store: Path, tmp_path: Path) -> None:
    with scripted_memory(store) as memory:
        memory.add("lives in Rome", user_id="ann", at="2026-05-08T10:00:00", metadata={"from": "chat"})
        (changed,) = memory.add("lives in Oslo", user_id="ann", at="2026-05-09T10:00:00")["results"]
        memory.add("ghost", user_id="ann")
        (secret,) = memory.add("hides gold", user_id="ann")["results"]
        memory.undo(user_id="ann")
        memory.redo(user_id="ann")
        memory.add("eats figs", user_id="ann")
        memory.forget(secret["id"])
        memory.undo(user_id="ann")
        before = memory.get_all(user_id="ann"), memory.history(changed["id"])
    file, other = tmp_path / "ann.jsonl", tmp_path / "other" / "memory.db"
    exported = run("export", file, "--user", "ann", "--store", store, agents=False)
    assert exported.startswith(f"{file}: memories of ann 1, records ")
    assert "gold" not in file.read_text(encoding="utf-8")
    assert "memories of ann 1" in run("import", file, "--store", other, agents=False)
    with scripted_memory(other) as memory:
        assert (memory.get_all(user_id="ann"), memory.history(changed["id"])) == before
        assert memory.redo(user_id="ann")["count"] == 1  # what was undone before can be restored after
        assert memory.undo(user_id="ann", count=9)["count"] == 3
    with pytest.raises(StoreError, match="ann has a memory already"):
        run("import", file, "--store", store, agents=False)
    run("import", file, "--store", store, "--user", "ben", agents=False)
    with scripted_memory(store) as memory:
        assert texts(memory, "ben") == texts(memory, "ann") == ["User lives in Oslo"]
        with pytest.raises(DataError, match="no memory has the id"):
            memory.delete(changed["id"].replace("mem_", "mem_A"))
    with pytest.raises(DataError, match="knows no user 'eve': it knows ann, ben"):
        run("export", file, "--user", "eve", "--store", store, agents=False)
    with pytest.raises(StoreError, match="no such file"):
        run("export", file, "--store", tmp_path / "none.db", agents=False)


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (0, {"version": 2}, "version: found 2, allowed: 1"),
        (1, {"cut": -1}, ":2: cut: found -1, allowed: a whole number"),
        (1, {"more": 1}, ":2: more: found an unknown key"),
        (2, {"turn": {"turn_id": "s1:1"}}, ":3: turn.speaker: found nothing"),
        (2, {"events": []}, "an event is missing or out of order"),
        (2, {"events": [{"number": 2, "kind": "UNDO", "item": 1, "payload": {"target": 9}}]}, "cannot be replayed"),
        (2, {"events": [{"number": 2, "kind": "ADD", "item": 1, "payload": {}}]}, "cannot be replayed"),
        (2, {"events": [{"number": 2, "kind": "ADD", "item": 1, "payload": {"timestamp": 7}}]}, "timestamp: found 7"),
        (2, {"events": [{"number": 2, "kind": "ADD", "item": 1, "payload": {"turn_ids": "s1"}}]}, "turn_ids: found"),
        (2, {"written_at": "yesterday"}, 'written_at: found "yesterday", allowed: a string with an ISO 8601 time'),
        (2, {"refusals": [{"index": 0, "reason": "echo", "raw": "{"}]}, 'raw: found "{", allowed: JSON'),
    ],
)
def test_a_malformed_export_is_refused_and_changes_nothing(
    store: Path, tmp_path: Path, line: int, change: dict[str, Any], message: str
) -> None:
    with scripted_memory(store) as memory:
        memory.add("lives in Rome", user_id="ann")
        memory.add("eats figs", user_id="ann")
    file, other = tmp_path / "ann.jsonl", tmp_path / "other.db"
    run("export", file, "--user", "ann", "--store", store, agents=False)
    rows = [json.loads(row) for row in file.read_text(encoding="utf-8").splitlines()]
    rows[line] |= change
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run("import", file, "--store", other, agents=False)
    assert not other.exists()


def test_an_import_is_for_a_user_who_can_be_named_later(store: Path, tmp_path: Path) -> None:
    with scripted_memory(store) as memory:
        memory.add("lives in Rome", user_id="ann")
    file, other = tmp_path / "ann.jsonl", tmp_path / "other.db"
    run("export", file, "--user", "ann", "--store", store, agents=False)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))  # as an editor on Windows saves it
    for user in ("", "x" * 300):
        with pytest.raises(ScopeError):
            run("import", file, "--user", user, "--store", other, agents=False)
    assert not other.exists()
    assert "memories of ben 1" in run("import", file, "--user", "ben", "--store", other, agents=False)


def dialogue(name: str, *said: str) -> Dialogue:
    """Return a dialogue of two sessions, ten minutes apart."""
    half = len(said) // 2
    sessions = []
    for number, (part, at) in enumerate(((said[:half], "10:00:00"), (said[half:], "10:10:00")), start=1):
        turns = [
            Turn(f"s{number}:{place}", "Ann", text, f"s{number}", f"2026-05-08T{at}")
            for place, text in enumerate(part, start=1)
        ]
        sessions.append(Session(f"s{number}", f"2026-05-08T{at}", tuple(turns)))
    return Dialogue(name, ("Ann",), tuple(sessions))


def test_dialogues_are_played_once_though_the_import_was_killed(
    store: Path, tmp_path: Path, model: ScriptedLanguageModel
) -> None:
    file = tmp_path / "own.jsonl"
    said = ("lives in Rome", "hm", "eats figs", "lives in Oslo")
    write_dialogues(file, [dialogue("d1", *said), dialogue("d2", *said)])
    model.fail_after = 3
    with pytest.raises(InterruptedError):
        run("import", file, "--store", store, "--quiet")
    model.fail_after = None
    told = run("import", file, "--store", store, "--quiet")
    assert "turns 8, of which 3 were told before" in told
    assert "added 0, changed 4, removed 0, refused 0" in told
    assert "turns 8, of which 8 were told before" in run("import", file, "--store", store, "--quiet")
    assert len(model.prompts) == 8
    assert "Ann: hm" not in model.prompts[2]  # another session, though minutes later
    assert "Ann: eats figs" in model.prompts[3]  # the same session, though another process
    with scripted_memory(store) as memory:
        items = memory.get_all(user_id="me")["results"]
        assert [item["memory"] for item in items] == ["Ann lives in Oslo", "Ann eats figs"]
        assert {item["updated_at"][:10] for item in items} == {"2026-05-08"}


def test_an_import_says_what_it_masked_and_cut(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    write_dialogues(file, [dialogue("d1", "eats figs", "has AKIAIOSFODNN7EXAMPLE", "word " * 1000, "lives in Rome")])
    told = run("import", file, "--store", store, "--quiet")
    assert "secrets masked 1, turns cut to the longest that is read 1\n" in told


def test_the_first_use_says_what_it_prepares(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_R1_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(app, ["add", "hm", "--store", str(store), *UNTRAINED])
    assert "First use: preparing SmolLM2-135M-Instruct and all-MiniLM-L6-v2 in" in result.stderr.replace("\n", " ")
    assert result.stdout == "nothing to store\n"


def test_without_agents_one_line_names_the_way_out(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_r1.packaged_adapters.FOLDER", tmp_path / "none")
    write_dialogues(tmp_path / "own.jsonl", [dialogue("d1", "lives in Rome", "hm")])
    for words in (("ask", "Where?"), ("import", tmp_path / "own.jsonl")):
        with pytest.raises(ModelError, match="--manager FOLDER --answer FOLDER"):
            run(*words, "--store", store, agents=False)
    assert not store.exists()


@pytest.mark.parametrize("option", ["--manager", "--answer", "--model", "--endpoint"])
def test_an_empty_option_is_no_default(store: Path, option: str) -> None:
    scripted_memory(store).close()
    for command in (("ask", "Where?", "--store"), ("inspect",)):
        with pytest.raises(ConfigurationError, match=f"{option} is empty: name one, or leave it out"):
            run(*command, store, option, "", agents=False)  # as with an unset variable of the shell


def test_a_server_has_no_base_model(store: Path) -> None:
    with pytest.raises(ConfigurationError, match="leave one of them out"):
        run("ask", "Where?", "--store", store, "--model", "m", "--endpoint", "http://127.0.0.1:1/v1")


def test_what_asks_no_model_needs_no_torch(store: Path, tmp_path: Path) -> None:
    with scripted_memory(store) as memory:
        memory.add("lives in Rome", user_id="me")
    code = (
        "import sys\nfrom memory_r1.cli.app import main\n"
        "for words in (['export', sys.argv[2]], ['history', '1'], ['undo'], ['list'], ['forget', '1', '--yes']):\n"
        "    assert not main([*words, '--store', sys.argv[1]])\n"
        "assert not main(['import', sys.argv[2], '--user', 'ben', '--store', sys.argv[1]])\n"
        "print({'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store, tmp_path / "me.jsonl"], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("set()\n"), done.stderr
