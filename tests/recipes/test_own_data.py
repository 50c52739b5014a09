"""Dialogues without questions become a reviewed training set, an adapter and an evaluation, as in docs/own-data.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from memory_r1.cli.questions import questions
from memory_r1.dialogue_file import read_dialogues, write_dialogues
from tests.chat_server import ChatServer
from tests.chat_server import reply as served
from tests.drafting.chats import chat, reply
from tests.tiny import embedder_folder, write_adapter

ROOT = Path(__file__).parents[2]
TINY = ("--dtype", "float32", "--bf16", "false", "--max_steps", "1", "--eval_steps", "1", "--save_steps", "1")
TINY += ("--max_completion_length", "8", "--report_to", "none", "--per_device_train_batch_size", "8")
TINY += ("--gradient_accumulation_steps", "1", "--max_validation_rows", "2")


def succeed(*command: str | Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_twenty_dialogues_train_and_evaluate_an_adapter(tmp_path: Path, tiny_model: Path) -> None:
    app = typer.Typer()
    app.command()(questions)
    own = {name: tmp_path / name for name in ("chats.jsonl", "review.csv", "reviewed.jsonl", "train.jsonl")}
    write_dialogues(own["chats.jsonl"], [chat(f"d{number}") for number in range(20)])
    with ChatServer(lambda body, headers: served(reply(body["messages"], None))) as server:
        drafting = ["--endpoint", server.url, "--model", "m", "--embedder", embedder_folder(), "--quiet"]
        arguments = [str(own["chats.jsonl"]), "--out", str(own["review.csv"]), *drafting]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    taken = [str(own["chats.jsonl"]), "--reviewed", str(own["review.csv"]), "--out", str(own["reviewed.jsonl"])]
    assert CliRunner().invoke(app, taken).exit_code == 0
    lines = own["reviewed.jsonl"].read_text().splitlines(keepends=True)
    (tmp_path / "test.jsonl").write_text("".join(lines[:5]))
    own["train.jsonl"].write_text("".join(lines[5:]))
    assert len(read_dialogues(own["train.jsonl"])) == 15

    warm = write_adapter(tiny_model, tmp_path / "warm", seed=1)
    model = ("--model_name_or_path", tiny_model, "--embedder", embedder_folder(), "--dataset", own["train.jsonl"])
    common = (*model, *TINY, "--warm_start", warm)
    recipe = ("recipes/grpo.py", "--config", "recipes/own/answer_grpo.yaml")
    succeed(*recipe, *common, "--output_dir", tmp_path / "answer")
    recipe = ("recipes/grpo.py", "--config", "recipes/own/manager_grpo.yaml", "--manager_adapter", warm)
    succeed(*recipe, *common, "--answer_adapter", tmp_path / "answer", "--output_dir", tmp_path / "manager")
    evaluation = ("--benchmark", "dialogues", "--file", tmp_path / "test.jsonl", "--model", tiny_model, "--quiet")
    trained = ("--manager", tmp_path / "manager", "--answer", tmp_path / "answer", "--output", tmp_path / "eval")
    succeed("recipes/evaluate.py", *evaluation, *trained)
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["n_questions"] == 10
