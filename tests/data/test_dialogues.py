"""`python -m data.dialogues PATH`: counts of a user's own file, or a one-line error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.dialogues import counts_of_file
from tests.data.records import OWN

COUNTS = {
    "benchmark": "dialogues",
    "splits": {
        "all": {
            "dialogues": 2,
            "sessions": 4,
            "turns": 4,
            "questions": 3,
            "categories": {"single": 1, "update": 2},
        }
    },
}


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """Write two dialogues of two one-turn sessions each; only the first has questions, three."""
    path = tmp_path / "own.jsonl"
    second = {**OWN, "dialogue_id": "d2", "questions": []}
    path.write_text(json.dumps(OWN) + "\n" + json.dumps(second) + "\n", encoding="utf-8")
    return path


def test_counts_of_a_file(own_file: Path) -> None:
    assert counts_of_file(own_file) == COUNTS


def test_the_command_prints_the_counts_as_json(own_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "data.dialogues", str(own_file)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )

    assert json.loads(done.stdout) == COUNTS
