"""Banks are written once, and taken over only where everything that decides them is the same."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.evaluation import banks
from memory_r1.evaluation.records import RunInfo
from memory_r1.types import Dialogue
from tests.fakes import ScriptedLanguageModel
from tests.small_runs import QUESTIONS, RUN, TURNS, build, comparable, dialogues, rows, run_it

WRITER = dataclasses.replace(
    RUN,
    model="scripted",
    manager="adapters/one",
    config={"top_k": 2, "manager_top_k": 1, "model_sha256": "m", "manager_sha256": "a"},
)


def with_config(**changes: Any) -> RunInfo:
    return dataclasses.replace(WRITER, config={**WRITER.config, **changes})


def note_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())["banks"]


def played(folder: Path, cache: Path, run: RunInfo = WRITER, **options: Any) -> tuple[dict[str, Any], int]:
    """Results, and how many turns the manager was asked about."""
    model = ScriptedLanguageModel()
    results = run_it(folder, model, run=run, banks=cache, **options)
    return results, sum("Last turn" in prompt for prompt in model.prompts)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that holds the banks of `WRITER`."""
    _, turns = played(tmp_path / "first", tmp_path / "banks")
    assert turns == TURNS
    return tmp_path / "banks"


def fewer_questions(all_dialogues: list[Dialogue]) -> list[Dialogue]:
    return [dataclasses.replace(dialogue, questions=dialogue.questions[:1]) for dialogue in all_dialogues]


@pytest.mark.parametrize(
    ("run", "options"),
    [
        (WRITER, {}),
        (dataclasses.replace(WRITER, answer="another"), {}),
        (with_config(top_k=9, answer_sha256="b", answer_style="quotes", answer_tokens=99), {}),
        (WRITER, {"budget_tokens": 5}),
        (WRITER, {"dialogues": fewer_questions(dialogues())}),
        (dataclasses.replace(WRITER, manager="moved/one", model="moved/scripted"), {}),  # the same by content
    ],
)
def test_the_same_banks_are_written_once(
    run: RunInfo, options: dict[str, Any], cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="memory_r1")
    results, turns = played(tmp_path / "second", cache, run, **options)
    assert turns == 0
    assert rows(tmp_path / "second", "operations") == rows(tmp_path / "first", "operations")
    assert (note_of(tmp_path / "first")["reused"], note_of(tmp_path / "second")["reused"]) == (False, True)
    assert note_of(tmp_path / "first")["key"] == note_of(tmp_path / "second")["key"]
    assert f"banks: taken over from {cache / note_of(tmp_path / 'first')['key']}" in caplog.text
    # What writing them cost is counted as it was.
    first = json.loads((tmp_path / "first" / "results.json").read_text())
    assert results["cost"]["write_tokens"] == first["cost"]["write_tokens"] > 0


def other_turn(all_dialogues: list[Dialogue]) -> list[Dialogue]:
    first, *others = all_dialogues
    session, *rest = first.sessions
    turn = dataclasses.replace(session.turns[0], text="lives in Bern")
    changed = dataclasses.replace(session, turns=(turn, *session.turns[1:]))
    return [dataclasses.replace(first, sessions=(changed, *rest)), *others]


@pytest.mark.parametrize(
    ("run", "options"),
    [
        (with_config(manager_sha256="another"), {}),
        (with_config(model_sha256="another"), {}),
        (with_config(manager_top_k=3), {}),
        (with_config(an_option_of_tomorrow=True), {}),
        (dataclasses.replace(WRITER, seed=1), {}),
        (WRITER, {"dialogues": other_turn(dialogues())}),
        (WRITER, {"sessions": 1}),
        # Without hashes, names decide.
        (dataclasses.replace(WRITER, model="another", config={**WRITER.config, "model_sha256": None}), {}),
    ],
)
def test_other_banks_are_written_anew(run: RunInfo, options: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    _, turns = played(tmp_path / "second", cache, run, **options)
    assert turns > 0
    assert note_of(tmp_path / "second")["reused"] is False
    assert len(list(cache.iterdir())) == 2


def test_other_code_that_writes_makes_other_banks(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks, "_code_hash", lambda: "a prompt was reworded")
    assert played(tmp_path / "second", cache)[1] == TURNS


def test_code_in_a_package_of_its_own_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "systems" / "graph" / "edges.py"
    module.parent.mkdir(parents=True)
    module.write_text("first")
    monkeypatch.setattr(banks, "__file__", str(tmp_path / "evaluation" / "banks.py"))
    before = banks._code_hash()
    module.write_text("second")
    assert banks._code_hash() != before


def test_rebuilding_asks_again_and_replaces_what_was_kept(cache: Path, tmp_path: Path) -> None:
    (kept,) = cache.iterdir()
    before = (kept / "operations.jsonl").stat().st_ino
    results, turns = played(tmp_path / "second", cache, rebuild_banks=True)
    assert (turns, note_of(tmp_path / "second")) == (TURNS, {"key": kept.name, "reused": False})
    assert [path.name for path in cache.iterdir()] == [kept.name]
    assert (kept / "operations.jsonl").stat().st_ino != before
    # Taken over, they cannot be rebuilt under the answers that were given on them.
    played(tmp_path / "third", cache)
    with pytest.raises(ConfigurationError, match=r"third took its banks over from .*: restart it to write them anew"):
        played(tmp_path / "third", cache, rebuild_banks=True)
    assert comparable(results) == comparable(json.loads((tmp_path / "third" / "results.json").read_text()))


def cut_short(kept: Path) -> None:
    path = kept / "operations.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        lambda kept: (kept / "operations.jsonl").unlink(),
        lambda kept: (kept / "banks.json").write_text("{"),
        lambda kept: (kept / "banks.json").unlink(),  # not finished
    ],
)
def test_damaged_or_unfinished_banks_are_written_anew(
    damage: Callable[[Path], Any], cache: Path, tmp_path: Path
) -> None:
    (kept,) = cache.iterdir()
    damage(kept)
    assert played(tmp_path / "second", cache)[1] == TURNS
    assert played(tmp_path / "third", cache)[1] == 0


def test_a_run_cut_short_leaves_no_banks_and_one_that_goes_on_with_other_code_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = ScriptedLanguageModel(fail_after=3)
    with pytest.raises(InterruptedError):
        run_it(tmp_path / "run", killed, run=WRITER, banks=tmp_path / "banks")
    assert not (tmp_path / "banks").exists()
    monkeypatch.setattr(banks, "_code_hash", lambda: "a prompt was reworded")
    _, turns = played(tmp_path / "run", tmp_path / "banks")
    assert len(killed.prompts) + turns == TURNS
    assert not (tmp_path / "banks").exists()


def test_a_run_that_took_banks_over_goes_on_with_them(cache: Path, tmp_path: Path) -> None:
    killed = ScriptedLanguageModel(fail_after=2)
    with pytest.raises(InterruptedError):
        run_it(tmp_path / "second", killed, run=WRITER, banks=cache)
    (kept,) = cache.iterdir()
    for path in kept.iterdir():
        path.unlink()
    kept.rmdir()
    model = ScriptedLanguageModel()
    run_it(tmp_path / "second", model, run=WRITER, banks=cache)
    assert note_of(tmp_path / "second")["reused"] is True
    assert len(killed.prompts) + len(model.prompts) == QUESTIONS
    assert list(cache.iterdir()) == []  # what was taken over is not put back


def test_systems_that_ask_no_model_to_write_keep_no_banks(tmp_path: Path) -> None:
    model = ScriptedLanguageModel()
    run = dataclasses.replace(WRITER, system="rag")
    run_it(tmp_path / "run", model, build("rag", model), run=run, banks=tmp_path / "banks")
    assert not (tmp_path / "banks").exists()
    assert note_of(tmp_path / "run") == {}
