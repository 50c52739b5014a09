"""Killed evaluations resume with the same results and ask no model twice."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from memory_r1.evaluation.records import read_run
from memory_r1.memory.sqlite_log import SqliteLog
from memory_r1.systems.player import turns_of
from memory_r1.systems.state import ScopeState
from tests.fakes import ScriptedLanguageModel
from tests.fixtures.killed_evaluation import BATCH, KILLED, longer_dialogues
from tests.small_runs import QUESTIONS, RUN, TURNS, comparable, rows, run_it

ROOT = Path(__file__).parents[2]


KILLS = int(os.environ.get("MEMORY_R1_KILLS", "3"))


def start(folder: Path, log: Path, death: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.fixtures.killed_evaluation", str(folder), str(log), death]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def attempt(folder: Path, log: Path, death: str) -> int:
    return start(folder, log, death).wait(timeout=120)


def asked(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


@pytest.mark.slow
def test_a_run_killed_three_times_gives_the_results_of_an_undisturbed_one(tmp_path: Path) -> None:
    expected = run_it(tmp_path / "whole")
    folder, log = tmp_path / "killed", tmp_path / "log"
    lost = 0
    # The second wave has one turn per dialogue, and its transaction never finishes.
    for death in ("writing:2", "between:3", "answering:2"):
        before = len(asked(log))
        assert attempt(folder, log, death) != 0
        batches = asked(log)[before:]
        assert batches, "the process died before it had asked anything"
        lost += 0 if death.startswith("between") else len(batches[-1])
        assert not (folder / "results.json").exists()
    assert attempt(folder, log, "nowhere") == 0
    assert comparable(json.loads((folder / "results.json").read_text())) == comparable(expected)
    assert rows(folder, "operations") == rows(tmp_path / "whole", "operations")
    assert read_run(folder).cost == read_run(tmp_path / "whole").cost
    calls = sum(map(len, asked(log)))
    assert TURNS + QUESTIONS < calls <= TURNS + QUESTIONS + lost
    # A finished run asks nothing.
    assert attempt(folder, log, "answering:1") == 0
    assert sum(map(len, asked(log))) == calls


@pytest.mark.slow
def test_a_run_killed_at_random_moments_loses_no_finished_turn(tmp_path: Path) -> None:
    options = {"dialogues": longer_dialogues(), "batch_size": BATCH}
    expected = run_it(tmp_path / "whole", **options)
    folder, log, moments = tmp_path / "killed", tmp_path / "log", random.Random(0)
    unfinished: set[str] = set()  # prompts of the call at which each process died
    kills = 0
    while kills < KILLS:
        begun = len(asked(log))
        process = start(folder, log, "slowly:0")
        while len(asked(log)) == begun and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed as often as it was to be"
        kills += 1
        unfinished.update(asked(log)[-1])
    assert attempt(folder, log, "quickly") == 0
    assert comparable(json.loads((folder / "results.json").read_text())) == comparable(expected)
    assert rows(folder, "operations") == rows(tmp_path / "whole", "operations")
    prompts = Counter(prompt for batch in asked(log) for prompt in batch)
    whole = ScriptedLanguageModel()
    run_it(tmp_path / "counted", whole, **options)
    again = {prompt for prompt, count in (prompts - Counter(whole.prompts)).items() if count}
    assert again <= unfinished
    assert not Counter(whole.prompts) - prompts


def test_an_audit_fetched_meanwhile_does_not_make_it_another_run(tmp_path: Path) -> None:
    assert run_it(tmp_path)["audited"] is None
    audited = dataclasses.replace(RUN, config={**RUN.config, "audit": {"error_types": {"a/q1": "HALLUCINATION"}}})
    assert run_it(tmp_path, ScriptedLanguageModel(fail_after=0), run=audited)["audited"]["excluded"] == 1


def test_the_deaths_are_deaths(tmp_path: Path) -> None:
    assert attempt(tmp_path / "run", tmp_path / "log", "writing:2") == KILLED
    with SqliteLog(tmp_path / "run" / "memory.db", ScopeState(), system="memory-r1") as store:
        assert [len(turns_of(store.records(scope))) for scope in ("a", "c")] == [1, 1]  # of the second wave nothing
