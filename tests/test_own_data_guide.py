"""docs/own-data.md: every command parses, and each one finds what an earlier one wrote."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from memory_r1.cli.questions import questions
from memory_r1.drafting import checks
from tests.test_docs import FENCE, commands, problem

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
LINES = [line for _, block in FENCE.findall(GUIDE) for line in block.splitlines()]
ASKED = [shlex.split(line)[2:] for line in LINES if line.startswith("memory-r1 questions")]


def test_make_commands_resolve() -> None:
    found = list(commands(GUIDE))
    assert {word for words in found for word in words} >= {"train-drafter-sft", "train-answer-grpo", "eval-dialogues"}
    assert [f"{' '.join(words)}: {why}" for words in found if (why := problem(words))] == []


@pytest.mark.parametrize("arguments", ASKED, ids=" ".join)
def test_questions_commands_parse(arguments: list[str]) -> None:
    app = typer.Typer()
    app.command()(questions)
    command = typer.main.get_command(app)
    assert command.make_context("questions", [*arguments]).params["file"] == Path("own/chats.jsonl")


def test_the_guide_drafts_with_a_server_and_offline_and_takes_back() -> None:
    assert [{"--endpoint", "--drafter", "--reviewed"} & {*words} for words in ASKED] == [
        {"--endpoint"},
        {"--drafter"},
        {"--reviewed"},
    ]


def test_what_a_command_reads_an_earlier_one_wrote() -> None:
    written = {"outputs/smollm2-135m/" + name for name in ("manager_sft", "answer_sft", "drafter_sft")}
    for line in LINES:
        assert {*re.findall(r"=(outputs/\S+)", line)} <= written, line
        if recipe := re.search(r"RECIPE=(\S+)", line):
            content = yaml.safe_load((ROOT / recipe[1]).read_text())
            folders = ("warm_start", "manager_adapter", "answer_adapter")
            assert {content[name] for name in folders if name in content} <= written
            assert content["dataset"] == "own/train.jsonl"
            written.add(content["output_dir"])
    for file in ("chats", "review", "reviewed", "test", "train"):
        uses = [line for line in LINES if f"own/{file}." in line]
        assert re.search(rf"(convert \S+|--out|>) own/{file}\.", uses[0]), file


def test_every_flag_is_explained() -> None:
    flags = {value for name, value in vars(checks).items() if name.isupper() and isinstance(value, str)}
    assert flags == {*re.findall(r"^\| `([^`]+)` \|", GUIDE, re.MULTILINE)}
