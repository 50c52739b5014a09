"""An evaluation whose manager and Answer Agent are behind an OpenAI-compatible server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.dialogue_file import write_dialogues
from memory_r1.entry import run_main
from recipes import evaluate
from tests.chat_server import Answer, ChatServer
from tests.chat_server import reply as served
from tests.fakes import keeping_script
from tests.small_runs import dialogues
from tests.tiny import embedder_folder


def answer(body: dict[str, Any], headers: dict[str, str]) -> Answer:
    return served(keeping_script(body["messages"], None), prompt_tokens=7, completion_tokens=3)


def arguments(folder: Path, url: str, *more: str) -> list[str]:
    file = folder / "own.jsonl"
    write_dialogues(file, dialogues())
    common = ["--benchmark", "dialogues", "--file", str(file), "--output", str(folder / "run"), "--quiet"]
    return [*common, "--embedder", embedder_folder(), "--endpoint", url, "--model", "served", *more]


def test_both_agents_are_asked_by_their_names_on_the_server_and_a_second_call_asks_nothing(tmp_path: Path) -> None:
    with ChatServer(answer) as server:
        call = arguments(tmp_path, server.url, "--manager", "memory", "--answer", "answers")
        assert run_main(evaluate.main, call) == 0
        bodies = [body for body, _ in server.requests]
        assert run_main(evaluate.main, call) == 0
        assert len(server.requests) == len(bodies)
    assert {body["model"] for body in bodies} == {"memory", "answers"}
    assert sum(body["model"] == "memory" for body in bodies) == 8  # turns
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["n_questions"], results["model"]) == (4, "served")
    assert (results["manager"], results["answer"]) == ("memory", "answers")
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert config["served"] is True
    assert not config.keys() & {"model_sha256", "manager_sha256", "answer_sha256"}


def test_without_names_the_servers_model_plays_both(tmp_path: Path) -> None:
    with ChatServer(answer) as server:
        assert run_main(evaluate.main, arguments(tmp_path, server.url, "--system", "prompted-manager")) == 0
        assert {body["model"] for body, _ in server.requests} == {"served"}


def test_a_run_goes_on_once_the_server_is_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(lambda body, headers: (400, {"error": "no such model"})) as server:
        assert run_main(evaluate.main, arguments(tmp_path, server.url)) == 1
        assert "HTTP 400" in capsys.readouterr().err
    with ChatServer(answer) as server:
        assert run_main(evaluate.main, arguments(tmp_path, server.url)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "latent-tokens"], "needs a local model"),
        (["--max-turn-tokens", "9"], "--max-turn-tokens needs a local model"),
        (["--constrained"], "--constrained needs a local model"),
        (["--dtype", "bfloat16"], "--dtype needs a local model"),
        (["--system", "profile", "--writer", "folder"], "--writer names an adapter"),
    ],
)
def test_what_a_server_cannot_do_is_refused_before_it_is_asked(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(evaluate.main, arguments(tmp_path, "http://127.0.0.1:9/v1", *options)) == 1
    assert message in capsys.readouterr().err
