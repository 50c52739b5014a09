"""`memory-r1 questions`: from dialogues without questions to a file for review, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.cli import questions as command
from memory_r1.dialogue_file import read_dialogues, write_dialogues
from memory_r1.drafting.checks import Checker
from memory_r1.drafting.drafts import Drafter
from memory_r1.errors import ConfigurationError, DataError, EndpointError, ModelError
from memory_r1.systems.writer import Writer
from memory_r1.types import Question
from tests.chat_server import Answer, ChatServer
from tests.chat_server import reply as served
from tests.drafting.chats import chat, reply, scripted
from tests.fakes import FakeEmbedder, ScriptedLanguageModel
from tests.tiny import embedder_folder, write_adapter

app = typer.Typer()
app.command()(command.questions)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--quiet")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def own(folder: Path, count: int = 20) -> Path:
    path = folder / "own.jsonl"
    write_dialogues(path, [chat(f"d{number}") for number in range(count)])
    return path


def use(monkeypatch: pytest.MonkeyPatch, model: ScriptedLanguageModel) -> None:
    parts = Drafter(Writer(model)), Checker(FakeEmbedder(), AnswerAgent(model)), {"model": "scripted"}
    monkeypatch.setattr(command, "_load", lambda who: parts)


def answer(body: dict[str, Any], headers: dict[str, str]) -> Answer:
    return served(reply(body["messages"], None))


def test_twenty_dialogues_become_a_reviewed_file_with_an_endpoint(tmp_path: Path) -> None:
    file, review, out = own(tmp_path), tmp_path / "review.csv", tmp_path / "reviewed.jsonl"
    with ChatServer(answer) as server:
        arguments = ("--endpoint", server.url, "--model", "some-model", "--embedder", embedder_folder())
        told = run(file, "--out", review, *arguments)
        bodies = [body for body, _ in server.requests]
    assert {body["model"] for body in bodies} == {"some-model"}
    assert not any(body.keys() & {"top_k", "repetition_penalty"} for body in bodies)  # vLLM's own fields
    assert "20 dialogues, 40 windows of turns: 60 questions drafted, 40 passed" in told
    assert "0 replies did not parse" in told
    assert "rejected: 20 answered otherwise later" in told
    assert "40 reviewed questions" in run(file, "--out", out, "--reviewed", review)
    assert [len(dialogue.questions) for dialogue in read_dialogues(out)] == [2] * 20


def test_a_killed_run_continues_and_asks_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, review = own(tmp_path, 6), tmp_path / "review.csv"
    whole = scripted()
    use(monkeypatch, whole)
    run(file, "--out", tmp_path / "whole.csv", "--drafter", "base")
    killed = scripted(fail_after=26)
    use(monkeypatch, killed)
    with pytest.raises(InterruptedError):
        run(file, "--out", review, "--drafter", "base")
    unfinished = tmp_path / "review.csv.drafts"
    with unfinished.open("ab") as cut:
        cut.write(b'{"dialogue_id": "d4", "win')
    assert not review.exists()
    continued = scripted()
    use(monkeypatch, continued)
    run(file, "--out", review, "--drafter", "base")
    assert review.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert 0 < len(continued.prompts) < len(whole.prompts)
    assert not unfinished.exists()


def test_a_run_does_not_continue_with_other_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, review = own(tmp_path, 6), tmp_path / "review.csv"
    use(monkeypatch, scripted(fail_after=26))
    with pytest.raises(InterruptedError):
        run(file, "--out", review, "--drafter", "base")
    use(monkeypatch, scripted())
    with pytest.raises(ConfigurationError, match=r"holds an unfinished run .* --restart"):
        run(file, "--out", review, "--drafter", "base", "--window", "2")
    run(file, "--out", review, "--drafter", "base", "--window", "2", "--restart")
    assert review.exists()


def test_a_review_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, review = own(tmp_path, 1), tmp_path / "review.csv"
    review.write_text("hours of work")
    use(monkeypatch, scripted())
    with pytest.raises(ConfigurationError, match="is there already: take it back with --reviewed"):
        run(file, "--out", review, "--drafter", "base")
    written, link = file.read_text(), tmp_path / "link.jsonl"
    link.symlink_to(file)
    (tmp_path / "own").mkdir()
    for out in (file, link, tmp_path / "own" / ".." / file.name):
        with pytest.raises(ConfigurationError, match="which this command reads"):
            run(file, "--out", out, "--restart")
    with pytest.raises(ConfigurationError, match="which this command reads"):
        run(file, "--out", review, "--reviewed", review)
    with pytest.raises(ConfigurationError, match="no single drafter named"):
        run(file, "--out", review, "--restart")
    monkeypatch.undo()
    with pytest.raises(ModelError):
        run(file, "--out", review, "--drafter", tmp_path / "nothing", "--no-check-answers", "--restart")
    assert (review.read_text(), file.read_text()) == ("hours of work", written)


def test_turn_ids_that_csv_cannot_hold_are_told_before_a_model_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (session, *_) = chat().sessions
    turns = tuple(replace(turn, turn_id=f"a;{turn.turn_id}") for turn in session.turns)
    file, model = tmp_path / "own.jsonl", scripted()
    write_dialogues(file, [replace(chat(), sessions=(replace(session, turns=turns),))])
    use(monkeypatch, model)
    with pytest.raises(DataError, match=r'turn id "a;s1:1" .* ends in \.jsonl'):
        run(file, "--out", tmp_path / "review.csv", "--drafter", "base")
    assert not model.batches
    run(file, "--out", tmp_path / "review.jsonl", "--drafter", "base")


def test_dialogues_that_have_questions_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(chat("asked"), questions=(Question("q1", "Who has dogs?", "Ben", "recall", ("s1:3",)),))
    file, review, out = tmp_path / "own.jsonl", tmp_path / "review.jsonl", tmp_path / "out.jsonl"
    write_dialogues(file, [asked, chat("bare")])
    use(monkeypatch, scripted())
    run(file, "--out", review, "--drafter", "base")
    assert {json.loads(line)["dialogue_id"] for line in review.read_text().splitlines()} == {"bare"}
    run(file, "--out", out, "--reviewed", review)
    assert read_dialogues(out)[0] == asked
    write_dialogues(file, [asked])
    with pytest.raises(ConfigurationError, match="nothing to draft"):
        run(file, "--out", tmp_path / "other.csv", "--drafter", "base")


def test_a_server_that_fails_loses_nothing(tmp_path: Path) -> None:
    file, review = own(tmp_path, 1), tmp_path / "review.csv"
    with ChatServer(lambda body, headers: (400, {"error": "no such model"})) as server:
        arguments = ("--endpoint", server.url, "--model", "m", "--embedder", embedder_folder())
        with pytest.raises(EndpointError, match="HTTP 400"):
            run(file, "--out", review, *arguments)
    with ChatServer(answer) as server:  # another address, the same model
        run(file, "--out", review, "--endpoint", server.url, *arguments[2:])
    assert review.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no single drafter named"),
        (["--endpoint", "http://x/v1", "--drafter", "base"], "no single drafter named"),
        (["--endpoint", "http://x/v1"], "name the model on that server"),
        (["--endpoint", "http://x/v1", "--model", "m", "--answer", "base"], "--answer is for local models"),
        (["--drafter", "base", "--answer", "base", "--no-check-answers"], "leave one of them out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run(own(tmp_path, 1), "--out", tmp_path / "review.csv", *options)


def test_a_local_drafter_works_offline(tmp_path: Path, tiny_model: Path) -> None:
    drafter = write_adapter(tiny_model, tmp_path / "drafter", seed=1)
    local = ("--model", tiny_model, "--drafter", drafter, "--embedder", embedder_folder())
    told = run(own(tmp_path, 1), "--out", tmp_path / "review.csv", *local)
    assert "the untrained base model answers" in told
    assert "2 replies did not parse and are left out" in told  # a random model writes no JSON
    (drafter / "training_summary.json").write_text('{"agent": "writer"}')
    with pytest.raises(ConfigurationError, match="adapter of the writer agent"):
        run(tmp_path / "own.jsonl", "--out", tmp_path / "other.csv", *local)
