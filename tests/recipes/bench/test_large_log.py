"""The benchmark of a large store, on a small one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memory_r1.entry import run_main
from recipes.bench import large_log
from tests.tiny import embedder_folder


def test_a_store_is_written_and_opened_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--entries", "40", "--embedder", embedder_folder(), "--output", str(tmp_path)]
    assert run_main(large_log.main, arguments) == 0
    measured = json.loads((tmp_path / "memory.json").read_text())
    assert (measured["entries"], list(measured["seconds"])) == (
        40,
        ["writing", "embeddings computed anew", "embeddings kept"],
    )
    assert all(value > 0 for parts in measured["seconds"].values() for value in parts.values())
    assert run_main(large_log.main, ["--entries", "0"]) == 1
    assert "--entries is 0: give a whole number from 1" in capsys.readouterr().err
