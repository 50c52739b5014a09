"""The command that judges an evaluation, against a local server: killed and resumed, mistyped, and through make."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from memory_r1.entry import run_main
from memory_r1.evaluation.judging.judge_audit import AUDIT
from memory_r1.evaluation.judging.judge_folder import JUDGE
from memory_r1.evaluation.judging.verdicts import read_verdicts
from memory_r1.evaluation.records import RESULTS
from memory_r1.jsonl import read_json
from tests.chat_server import Answer, ChatServer, reply
from tests.fake_judge import fair, write_answers

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "judge.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return importlib.import_module("recipes.judge")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_answers(tmp_path / "run", "in Rome", "Oslo", "Bergen", "Rome", "Paris", "by Rome")


def served(script: Callable[[str], Answer]) -> ChatServer:
    return ChatServer(lambda body, headers: script(body["messages"][-1]["content"]))


def judge_fairly(text: str) -> Answer:
    said = fair(text)
    return reply(said.text, said.prompt_tokens, said.completion_tokens)


def options(folder: Path, server: ChatServer, *more: str) -> list[str]:
    who = ["--endpoint", server.url, "--model", "m", "--cache", str(folder.parent / "cache"), "--quiet"]
    return [str(folder), *who, *more]


def test_an_evaluation_is_judged_and_its_results_follow(
    recipe: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(judge_fairly) as server:
        assert run_main(recipe.main, options(folder, server)) == 0
        shown = capsys.readouterr().out
        assert run_main(recipe.main, options(folder, server)) == 0
        assert len(server.requests) == 6
    assert "lenient, judged by m: 3 of 6 answers right (50.0%)" in shown
    assert "cost: 6 requests, 0 from the cache, 600 prompt and 60 completion tokens" in shown
    assert sorted(value["judge_lenient"] for value in read_verdicts(folder).values()) == [0, 0, 0, 1, 1, 1]
    assert read_json(folder / JUDGE)["lenient"]["right"] == 3
    assert read_json(folder / RESULTS)["overall"]["judge"]["mean"] == 0.5


def test_a_process_that_is_killed_goes_on_without_asking_twice(folder: Path) -> None:
    answered, hold = threading.Semaphore(0), threading.Event()

    def script(text: str) -> Answer:
        # One request at a time: three are answered, and the fourth is in flight when the process dies.
        if len(server.requests) == 4 and not hold.is_set():
            answered.release()
            hold.wait(60)
        return judge_fairly(text)

    with served(script) as server:
        command = [sys.executable, str(RECIPE), *options(folder, server, "--concurrency", "1")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
            assert answered.acquire(timeout=120)
            process.kill()
        hold.set()
        assert len(read_verdicts(folder)) == 3
        finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        # All six once, and only the one whose reply the dead process never got again.
        assert len(server.requests) == 7
    assert len(read_verdicts(folder)) == 6
    assert read_json(folder / JUDGE)["lenient"]["requests"] == 6


def test_a_benchmark_has_its_rubric(recipe: ModuleType, tmp_path: Path) -> None:
    folder = write_answers(tmp_path / "run", "in Rome", benchmark="longmemeval", category="multi-session")
    with served(lambda text: reply("yes")) as server:
        assert run_main(recipe.main, options(folder, server)) == 0
        ((body, _),) = server.requests
    assert body["max_tokens"] == 10
    assert read_verdicts(folder) == {"d1/q0": {"judge_longmemeval": 1.0}}


def test_the_judge_is_audited_instead(recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_answers(tmp_path / "run", "x", "y", gold="Rome")
    with served(judge_fairly) as server:
        assert run_main(recipe.main, options(folder, server, "--audit", "--rubric", "strict", "--limit", "1")) == 0
        assert len(server.requests) == 2  # the gold and its rewording: no other gold differs from it
    assert read_json(folder / AUDIT)["strict"]["probes"]["gold"]["share"] == 1.0
    shown = capsys.readouterr().out
    assert "100.0%" in shown and "vague_wrong" in shown
    assert read_verdicts(folder) == {} and not (folder / RESULTS).exists()


def test_a_model_of_this_machine_judges(recipe: ModuleType, folder: Path, tiny_model: Path) -> None:
    arguments = [str(folder), "--local", str(tiny_model), "--cache", str(folder.parent / "cache"), "--quiet"]
    assert run_main(recipe.main, [*arguments, "--reply-tokens", "4"]) == 0
    summary = read_json(folder / JUDGE)["lenient"]
    assert summary["judge"].startswith("tiny-llama@") and summary["judge"].endswith("(float32)")
    # A random model gives no readable verdict.
    assert summary["missing"] == {"garbage": 6} and summary["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give either --endpoint URL with --model NAME, or --local NAME"),
        (["--local", "a", "--endpoint", "http://127.0.0.1:1/v1", "--model", "m"], "give either --endpoint"),
        (["--endpoint", "http://127.0.0.1:1/v1"], "belong together"),
        (["--local", "a", "--model", "m"], "belong together"),
        (["--local", "a", "--limit", "3"], "--limit works only with --audit"),
        (["--local", "a", "--batch-size", "0"], "--batch-size is 0"),
        (["--endpoint", "localhost", "--model", "m"], "server address: found 'localhost'"),
        (["--endpoint", "http://127.0.0.1:1/v1", "--model", "m", "--timeout", "0"], "--timeout is 0"),
        (["--local", "no/such/model"], "no/such/model"),
    ],
)
def test_what_is_mistyped_is_one_line_and_status_1(
    recipe: ModuleType, folder: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(recipe.main, [str(folder), "--cache", str(folder.parent / "cache"), *arguments]) == 1
    captured = capsys.readouterr()
    assert (complaint in captured.err, captured.err.count("\n"), captured.out) == (True, 1, ""), captured.err


def test_a_folder_that_is_no_evaluation_is_refused(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(recipe.main, [str(tmp_path / "none"), "--local", "m"]) == 1
    assert "run.json" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_status_1_and_the_run_is_whole(
    recipe: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(judge_fairly) as server:
        pass
    assert run_main(recipe.main, options(folder, server, "--retries", "0")) == 1
    assert "none of 6 questions got a reply" in capsys.readouterr().err
    assert read_verdicts(folder) == {} and not (folder / JUDGE).exists()
    with served(judge_fairly) as back:
        assert run_main(recipe.main, options(folder, back)) == 0
    assert len(read_verdicts(folder)) == 6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            ["ENDPOINT=http://127.0.0.1:1/v1", "MODEL=m", "RUBRIC=strict"],
            "--rubric 'strict' --endpoint 'http://127.0.0.1:1/v1' --model 'm'",
        ),
        (["MODEL=my model", "LIMIT=5", "ARGS=--audit"], "--local 'my model' --limit '5' --audit"),
        ([], "recipes/judge.py 'my run'"),
    ],
)
def test_make_hands_its_variables_on(given: list[str], expected: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    command = ["make", "--dry-run", "judge", "FOLDER=my run", *given]
    plan = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert shlex.split(plan.stdout.replace("\\\n", " "))[-len(shlex.split(expected)) :] == shlex.split(expected)
