"""A writer's scores: which replies count, and how near they are to the gold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.entry import run_main
from memory_r1.inference.language_model import Messages
from memory_r1.systems.profile import FACTS
from memory_r1.systems.writer import prompt_for
from recipes import evaluate_writer
from recipes.evaluate_writer import score
from recipes.writer_gold import GOLD
from recipes.writer_rows import WriterRow
from tests.fakes import ScriptedLanguageModel
from tests.tiny import embedder_folder, write_adapter


def row(line: str, gold: list[str], rules: list[str]) -> WriterRow:
    return WriterRow(line, FACTS, prompt_for(FACTS, [line]), {"facts": gold}, {"facts": rules})


def test_scores_by_hand() -> None:
    rows = [
        row("a", ["Kim left"], ["I left"]),
        row("b", ["Kim left"], []),
        row("c", ["Kim left"], ["Kim left"]),
        row("d", [], []),
    ]
    replies = {"a": '{"facts": ["Kim left"]}', "b": '{"facts": ["Kim stayed"]}', "c": "Kim left", "d": '{"facts": []}'}

    def reply(prompt: Messages, adapter: str | None) -> str:
        assert adapter == "writer"
        return replies[prompt[-1]["content"]]

    ((name, scores),) = score(rows, ScriptedLanguageModel(reply), "writer", limit=4)
    assert (name, scores["n"], scores["parsed"], scores["exact"]) == ("facts", 4, 0.75, 0.5)
    assert scores["f1"]["mean"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)  # what does not parse scores nothing
    assert scores["rules_f1"] == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    ((_, fewer),) = score(rows, ScriptedLanguageModel(reply), "writer", limit=2)
    assert (fewer["n"], fewer["parsed"]) == (2, 0.5)  # the first and the third


def test_an_adapter_is_scored_and_recorded_without_its_path(tiny_model: Path, tmp_path: Path) -> None:
    writer, output = write_adapter(tiny_model, tmp_path / "writer", seed=0), tmp_path / "scores.json"
    arguments = ["--writer", str(writer), "--model", str(tiny_model), "--embedder", embedder_folder()]
    arguments += ["--dialogues", "1", "--limit", "1", "--output", str(output)]
    assert run_main(evaluate_writer.main, arguments) == 0
    record: dict[str, Any] = json.loads(output.read_text())
    assert len(record["writer_sha256"]) == len(record["model_sha256"]) == 64
    assert record["tasks"].keys() == GOLD.keys()
    assert all(scores["parsed"] == 0 for scores in record["tasks"].values())  # a random adapter writes no JSON
    assert str(tmp_path) not in output.read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--writer", "no/such"], "give the folder of a writer's adapter, which `make train-writer-sft` trains"),
        (["--writer", "base", "--dialogues", "0"], "--dialogues is 0: give a number from 1"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(evaluate_writer.main, arguments) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
