"""Banks are built once and reused only if everything that decides them is the same."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.systems import bank_cache
from memory_r1.systems.bank_cache import BankCache
from memory_r1.types import Dialogue
from tests.fakes import ScriptedLanguageModel
from tests.small_runs import QUESTIONS, RUN, TURNS, build, comparable, dialogues, rows, run_it

SETTINGS = {"manager": "a", "recall_per_speaker": 1}


def note_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())["banks"]


def played(folder: Path, kept: Path, settings: dict[str, Any] = SETTINGS, **options: Any) -> tuple[dict[str, Any], int]:
    """Return the results, and the number of turns that the manager was asked about."""
    model = ScriptedLanguageModel(fail_after=options.pop("fail_after", None))
    results = run_it(folder, model, banks=BankCache(kept, "memory-r1", settings), **options)
    return results, sum("Last turn" in prompt for prompt in model.prompts)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Make a folder with the banks of both dialogues."""
    assert played(tmp_path / "first", tmp_path / "banks")[1] == TURNS
    return tmp_path / "banks"


def fewer_questions(all_dialogues: list[Dialogue]) -> list[Dialogue]:
    return [dataclasses.replace(dialogue, questions=dialogue.questions[:1]) for dialogue in all_dialogues]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"run": dataclasses.replace(RUN, answer="another", config={"recall_per_speaker": 9})},
        {"budget_tokens": 5},
        {"dialogues": fewer_questions(dialogues())},
    ],
)
def test_the_same_banks_are_written_once(
    options: dict[str, Any], kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="memory_r1")
    results, turns = played(tmp_path / "second", kept, **options)
    assert turns == 0
    assert rows(tmp_path / "second", "operations") == rows(tmp_path / "first", "operations")
    assert (note_of(tmp_path / "first")["reused"], note_of(tmp_path / "second")["reused"]) == ([], ["a", "c"])
    assert f"banks: 2 taken over from {kept}" in caplog.text
    # The original cost of building them is counted.
    first = json.loads((tmp_path / "first" / "results.json").read_text())
    assert results["cost"]["write_tokens"] == first["cost"]["write_tokens"] > 0


def other_turn(all_dialogues: list[Dialogue]) -> list[Dialogue]:
    first, *others = all_dialogues
    session, *rest = first.sessions
    turn = dataclasses.replace(session.turns[0], text="lives in Bern")
    changed = dataclasses.replace(session, turns=(turn, *session.turns[1:]))
    return [dataclasses.replace(first, sessions=(changed, *rest)), *others]


def test_of_other_dialogues_only_those_that_differ_are_played(kept: Path, tmp_path: Path) -> None:
    assert played(tmp_path / "second", kept, dialogues=other_turn(dialogues()))[1] == 6
    assert note_of(tmp_path / "second")["reused"] == ["c"]


@pytest.mark.parametrize(
    "settings", [{**SETTINGS, "manager": "b"}, {**SETTINGS, "recall_per_speaker": 2}, {**SETTINGS, "new": 1}]
)
def test_other_settings_make_other_banks(settings: dict[str, Any], kept: Path, tmp_path: Path) -> None:
    assert played(tmp_path / "second", kept, settings)[1] == TURNS
    assert len(list(kept.glob("*.db"))) == 4


def test_other_code_that_writes_makes_other_banks(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_cache, "_code_hash", lambda: "a prompt was reworded")
    assert played(tmp_path / "second", kept)[1] == TURNS


def test_code_in_a_package_of_its_own_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "systems" / "graph" / "edges.py"
    module.parent.mkdir(parents=True)
    module.write_text("first")
    monkeypatch.setattr(bank_cache, "__file__", str(tmp_path / "systems" / "bank_cache.py"))
    before = BankCache(tmp_path, "memory-r1", {}).key
    module.write_text("second")
    assert BankCache(tmp_path, "memory-r1", {}).key != before


def test_what_a_manager_reads_beside_the_turn_counts_as_code() -> None:
    """`PREVIOUS_TURNS`, for one, stands in types.py."""
    package = Path(bank_cache.__file__).parents[1]
    assert package / "types.py" in bank_cache.code_files()
    assert package / "agents" / "prompts.py" in bank_cache.code_files()


def test_banks_that_two_versions_wrote_are_kept_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tmp_path / "run", tmp_path / "cache"
    for version, fail_after in (("first", 2), ("second", 2), ("first", None)):
        monkeypatch.setattr(bank_cache, "_code_hash", lambda version=version: version)
        with nullcontext() if fail_after is None else pytest.raises(InterruptedError):
            played(folder, cache, fail_after=fail_after)
    assert note_of(folder)["key"] == "mixed"
    assert not list(cache.glob("*.db"))


def test_models_count_by_content_and_everything_that_decides_a_bank_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("resolve_model", "resolve_embedder"):
        monkeypatch.setattr(bank_cache, name, lambda name: name)
    for name in ("weights_hash", "model_hash", "adapter_hash"):
        monkeypatch.setattr(bank_cache, name, lambda folder: Path(folder).name)
    given = {
        "model": "m",
        "dtype": "float32",
        "manager": "a",
        "embedder": "e",
        "recall_per_speaker": 2,
        "max_new_tokens": 48,
    }
    key = BankCache.of_manager(tmp_path, **given).key
    moved = {"model": "moved/m", "manager": "moved/a", "embedder": "moved/e"}
    assert BankCache.of_manager(tmp_path, **{**given, **moved}).key == key
    others = {
        "model": "n",
        "dtype": "bfloat16",
        "manager": None,
        "embedder": "f",
        "recall_per_speaker": 3,
        "max_new_tokens": 49,
    }
    changed = [{**given, name: value} for name, value in others.items()] + [{**given, "system": "add-only"}]
    assert len({key, *(BankCache.of_manager(tmp_path, **of).key for of in changed)}) == 8


def test_rebuilding_asks_again_and_replaces_what_was_kept(kept: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_ino for path in kept.glob("*.db")}
    results, turns = played(tmp_path / "second", kept, rebuild_banks=True)
    assert (turns, note_of(tmp_path / "second")["reused"]) == (TURNS, [])
    assert all(path.stat().st_ino != inode for path, inode in before.items())
    # Reused banks cannot be rebuilt under answers already given on them.
    played(tmp_path / "third", kept)
    with pytest.raises(ConfigurationError, match=r"third has reused banks from .*: --restart it to write them again"):
        played(tmp_path / "third", kept, rebuild_banks=True)
    assert comparable(results) == comparable(json.loads((tmp_path / "third" / "results.json").read_text()))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_text("{"),
        lambda path: path.unlink(),
    ],
)
def test_damaged_banks_are_written_anew(damage: Callable[[Path], Any], kept: Path, tmp_path: Path) -> None:
    for path in kept.glob("*.db"):
        damage(path)
    assert played(tmp_path / "second", kept)[1] == TURNS
    assert played(tmp_path / "third", kept)[1] == 0


def test_a_run_cut_short_keeps_no_banks_and_one_that_goes_on_with_other_code_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = ScriptedLanguageModel(fail_after=3)
    with pytest.raises(InterruptedError):
        run_it(tmp_path / "run", killed, banks=BankCache(tmp_path / "banks", "memory-r1", SETTINGS))
    assert not (tmp_path / "banks").exists()
    monkeypatch.setattr(bank_cache, "_code_hash", lambda: "a prompt was reworded")
    _, turns = played(tmp_path / "run", tmp_path / "banks")
    assert len(killed.prompts) + turns == TURNS
    assert not (tmp_path / "banks").exists()


def test_a_run_that_took_banks_over_goes_on_with_them(kept: Path, tmp_path: Path) -> None:
    killed = ScriptedLanguageModel(fail_after=2)
    with pytest.raises(InterruptedError):
        run_it(tmp_path / "second", killed, banks=BankCache(kept, "memory-r1", SETTINGS))
    for path in kept.glob("*.db"):
        path.unlink()
    model = ScriptedLanguageModel()
    run_it(tmp_path / "second", model, banks=BankCache(kept, "memory-r1", SETTINGS))
    assert note_of(tmp_path / "second")["reused"] == ["a", "c"]
    assert len(killed.prompts) + len(model.prompts) == QUESTIONS
    assert list(kept.glob("*.db")) == []  # reused banks are not stored again


def test_systems_that_ask_no_model_to_write_keep_no_banks(tmp_path: Path) -> None:
    model, cache = ScriptedLanguageModel(), BankCache(tmp_path / "banks", "rag", SETTINGS)
    run_it(tmp_path / "run", model, build("rag", model), run=dataclasses.replace(RUN, system="rag"), banks=cache)
    assert not (tmp_path / "banks").exists()
    assert note_of(tmp_path / "run") == {}
