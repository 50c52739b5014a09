from __future__ import annotations

import json
from pathlib import Path

import pytest

from memory_r1.evaluation.scoring import sanity
from memory_r1.metrics import ANSWER_METRICS
from recipes.sanity import main

OPTIONS = ["--benchmark=synthetic", "--dialogues=2", "--repeats=1"]


def test_generated_golds_score_one_and_shuffled_ones_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OPTIONS, f"--output={tmp_path / 'sanity.json'}"]) == 0
    found = json.loads((tmp_path / "sanity.json").read_text())
    assert (found["benchmark"], found["split"]) == ("synthetic", "test")
    assert set(found["gold"]["overall"].values()) == {1.0}
    assert found["shuffled"]["overall"]["f1_squad"] < found["shuffled_within_category"]["overall"]["f1_squad"] < 1.0
    assert f"{found['gold']['n']} questions" in capsys.readouterr().out


def test_an_unexpected_score_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sanity, "score_answer", lambda *_: dict.fromkeys(ANSWER_METRICS, 0.5))
    assert main(OPTIONS) == 1
    assert "unexpected: exact_match of" in capsys.readouterr().out
