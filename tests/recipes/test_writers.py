"""Who writes in an evaluation: an adapter, the one that comes with the package, or a model behind a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memory_r1.dialogue_file import write_dialogues
from memory_r1.entry import run_main
from memory_r1.jsonl import read_json
from memory_r1.models import adapter_hash
from recipes import compare_systems, evaluate, evaluation_options
from tests.chat_server import ChatServer, reply
from tests.small_runs import dialogues
from tests.tiny import write_adapter

KEY = "key-that-no-record-may-hold"


@pytest.fixture
def profile(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the arguments that evaluate `profile` on own dialogues."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_dialogues(tmp_path / "own.jsonl", dialogues()[1:])
    common = ["--benchmark=dialogues", f"--file={tmp_path / 'own.jsonl'}", f"--model={tiny_model}", "--quiet"]
    return [*common, "--system=profile", f"--output={tmp_path / 'run'}", "--answer-tokens=4"]


def written(folder: Path) -> tuple[int, int]:
    cost = read_json(folder / "results.json")["cost"]
    return cost["written_by_model"], cost["written_by_rules"]


class TestServers:
    def test_a_model_behind_a_server_writes_and_the_run_says_which(
        self, profile: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        with ChatServer(lambda body, headers: reply('{"facts": ["Ann has a cat."]}', 30, 9)) as server:
            arguments = [*profile, "--writer=org/served", f"--writer-endpoint={server.url}/"]
            assert run_main(evaluate.main, arguments) == 0
            asked = list(server.requests)
            assert run_main(evaluate.main, arguments) == 0
            assert len(server.requests) == len(asked)  # nothing is asked for twice
        turns = len(dialogues()[1].turns())
        assert written(run) == (turns, 0)
        assert {(body["model"], headers["Authorization"]) for body, headers in asked} == {
            ("org/served", f"Bearer {KEY}")
        }
        assert read_json(run / "run.json")["config"]["writer"] == {"model": "org/served", "endpoint": server.url}
        assert not [path for path in run.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]

        capsys.readouterr()
        for other in (["--writer=org/other", f"--writer-endpoint={server.url}"], ["--writer=base"], []):
            assert run_main(evaluate.main, [*profile, *other]) == 1
            assert "config.writer was" in capsys.readouterr().err

    def test_a_server_that_is_down_is_one_line_and_the_run_goes_on_later(
        self, profile: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        replies = [(404, {"error": "no model 'served'"}), *[reply('{"facts": []}')] * 99]
        with ChatServer(lambda body, headers: replies.pop(0)) as server:
            arguments = [*profile, "--writer=served", f"--writer-endpoint={server.url}"]
            assert run_main(evaluate.main, arguments) == 1
            refused = capsys.readouterr().err
            assert run_main(evaluate.main, arguments) == 0
        assert f"error: a server gave no usable reply ({server.url}: HTTP 404" in refused
        assert "--writer-endpoint" in refused and "Traceback" not in refused
        assert written(tmp_path / "run")[1] == 0
        capsys.readouterr()

        assert (
            run_main(evaluate.main, [*arguments, f"--output={tmp_path / 'other'}", "--rebuild-banks"]) == 1
        )  # it is closed now
        error = capsys.readouterr().err
        assert f"({server.url}: ConnectError" in error and "the same command" in error

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--writer-endpoint=http://127.0.0.1:1/v1"], "--writer-endpoint is given without --writer"),
            (["--writer=m", "--writer-endpoint=localhost"], "server address: found 'localhost', allowed: http(s)://"),
            (["--writer=m", "--writer-endpoint=http://a:b@c/v1"], "server address: found credentials in it"),
        ],
    )
    def test_a_bad_address_is_refused(
        self,
        profile: list[str],
        tmp_path: Path,
        arguments: list[str],
        complaint: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert run_main(evaluate.main, [*profile, *arguments]) == 1
        error = capsys.readouterr().err
        assert complaint in error and error.count("\n") == 1
        assert not (tmp_path / "run").exists()

    def test_in_a_comparison_it_goes_to_the_systems_that_write(self, monkeypatch: pytest.MonkeyPatch) -> None:
        commands: list[tuple[str, ...]] = []
        monkeypatch.setattr(compare_systems, "run_python", lambda *arguments: commands.append(arguments))
        server = ["--writer=org/served", "--writer-endpoint=http://127.0.0.1:1/v1"]
        compare_systems.main(["--benchmark=synthetic", "--systems", "rag", "mem1", *server])
        assert [{*server} <= {*command} for command in commands] == [False, True, False]
        assert commands[-1][-1].endswith(".writerorg-served")


class TestPackagedWriter:
    def test_it_writes_if_it_is_named(
        self, profile: list[str], packaged_folder: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        write_adapter(tiny_model, packaged_folder / "writer", 5)
        assert run_main(evaluate.main, [*profile, "--writer=packaged"]) == 0
        run = read_json(tmp_path / "run" / "run.json")
        assert run["config"]["writer"] == adapter_hash(packaged_folder / "writer")
        assert str(packaged_folder) not in json.dumps(run)

    def test_without_a_name_the_rules_write(
        self, profile: list[str], packaged_folder: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        write_adapter(tiny_model, packaged_folder / "writer", 5)
        assert run_main(evaluate.main, profile) == 0
        assert "writer" not in read_json(tmp_path / "run" / "run.json")["config"]

    def test_the_folder_is_named_after_it(self, packaged_folder: Path, tiny_model: Path) -> None:
        write_adapter(tiny_model, packaged_folder / "writer", 5)
        options = evaluate.parse_arguments(["--benchmark=synthetic", "--system=mem1", "--writer=packaged"])
        assert evaluation_options.complete(options).output.name == "synthetic-test-mem1.writerpackaged"

    def test_if_none_is_packaged_one_line_says_how_to_train_one(
        self, profile: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_main(evaluate.main, [*profile, "--writer=packaged"]) == 1
        error = capsys.readouterr().err
        assert "--writer is 'packaged', but no writer comes with this installation" in error
        assert "make train-writer-sft" in error and error.count("\n") == 1
