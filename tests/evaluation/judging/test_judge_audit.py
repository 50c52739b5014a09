"""A judge audit: the share of good and bad answers that a judge accepts, with n and an interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError, DataError, EndpointError
from memory_r1.evaluation.judging.judge_audit import AUDIT, AUDIT_ROWS, audit_judge, share
from memory_r1.evaluation.judging.judge_model import CachedJudge, JudgeModel, Outcome, ReplyCache, ServerJudge
from memory_r1.evaluation.records import PREDICTIONS, Prediction
from memory_r1.inference.endpoint import Endpoint
from memory_r1.inference.language_model import Completion
from memory_r1.jsonl import read_json, read_rows, rewrite_rows
from tests.chat_server import ChatServer
from tests.fake_judge import CORRECT, WRONG, ScriptedJudge

GOLDS = ("Oslo", "Rome", "Paris", "Bergen")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [Prediction(f"q{n}", "d1", "4", {}, f"Where did {n} go?", gold, "no") for n, gold in enumerate(GOLDS)]
    rewrite_rows(tmp_path / "run" / PREDICTIONS, [row.to_dict() for row in rows])
    return tmp_path / "run"


def audit(folder: Path, model: JudgeModel, rubric: str = "lenient", **options: Any) -> dict[str, Any]:
    with ReplyCache(folder.parent / "cache") as cache:
        return audit_judge(folder, rubric, CachedJudge(model, cache), progress=False, **options)


def strict(text: str) -> Completion:
    """Accept an answer that names the reference."""
    reference = text.split("<reference>")[1].split("</reference>")[0]
    return CORRECT if reference in text.split("<answer>")[1] else WRONG


def test_a_judge_that_accepts_everything_is_found_out(folder: Path) -> None:
    content = audit(folder, ScriptedJudge(lambda text: CORRECT))
    shares = {kind: (row["accepted"], row["n"], row["should_accept"]) for kind, row in content["probes"].items()}
    assert shares == {"gold": (4, 4, True), "reworded": (4, 4, True), "vague_wrong": (4, 4, False)}
    assert (content["judge"], content["n_questions"], content["requests"]) == ("scripted", 4, 12)


def test_a_good_judge_accepts_the_right_ones_alone(folder: Path) -> None:
    content = audit(folder, ScriptedJudge(strict))
    assert {kind: row["accepted"] for kind, row in content["probes"].items()} == {
        "gold": 4,
        "reworded": 4,
        "vague_wrong": 0,
    }
    assert read_json(folder / AUDIT) == {"lenient": json.loads(json.dumps(content))}
    rows = read_rows(folder / AUDIT_ROWS)
    assert [row["verdict"] for row in rows if row["probe"] == "vague_wrong"] == [False] * 4
    assert {row["answer"] for row in rows if row["probe"] == "gold"} == set(GOLDS)


def test_the_interval_is_wilson_s() -> None:
    # (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964, p = 0.8, n = 10, computed by hand:
    # centre 0.716740, half-width 0.226579.
    found = share(8, 10)
    assert (found["n"], found["accepted"], found["share"]) == (10, 8, 0.8)
    assert found["low"] == pytest.approx(0.490162, abs=1e-5)
    assert found["high"] == pytest.approx(0.943318, abs=1e-5)
    assert share(0, 0) == {"n": 0, "accepted": 0, "share": None, "low": None, "high": None}


def test_missing_verdicts_are_counted_and_left_out_of_the_share(folder: Path) -> None:
    def script(text: str) -> Outcome:
        return Completion("mumble", 1, 1) if "<reference>Rome" in text else strict(text)

    row = audit(folder, ScriptedJudge(script))["probes"]["gold"]
    assert (row["n"], row["accepted"], row["missing"]) == (3, 3, {"garbage": 1})


def test_rubrics_stand_side_by_side_and_a_second_audit_asks_nothing(folder: Path) -> None:
    model = ScriptedJudge(strict)
    audit(folder, model)
    audit(folder, model, "strict")
    assert len(model.asked) == 24
    again = audit(folder, model)
    assert (len(model.asked), again["requests"], again["cache_hits"]) == (24, 0, 12)
    assert sorted(read_json(folder / AUDIT)) == ["lenient", "strict"]
    assert len(read_rows(folder / AUDIT_ROWS)) == 24


def test_a_limit_draws_whole_questions(folder: Path) -> None:
    content = audit(folder, ScriptedJudge(strict), limit=2)
    assert content["n_questions"] == 2
    assert [row["n"] for row in content["probes"].values()] == [2, 2, 2]


def test_what_cannot_be_audited_is_one_line(folder: Path) -> None:
    model = ScriptedJudge(strict)
    with pytest.raises(ConfigurationError, match="limit is 0"):
        audit(folder, model, limit=0)
    with pytest.raises(ConfigurationError, match="rubric is 'mild'"):
        audit(folder, model, "mild")
    rewrite_rows(folder / PREDICTIONS, [])
    with pytest.raises(DataError, match="no question with a gold"):
        audit(folder, model)
    assert model.asked == []


def test_a_judge_that_never_replies_leaves_no_report(folder: Path) -> None:
    with ChatServer(lambda body, headers: (503, "")) as server:
        judge = ServerJudge(Endpoint(server.url, "m", retries=0, concurrency=2))
        with pytest.raises(EndpointError, match="none of 12 questions"):
            audit(folder, judge)
    assert not (folder / AUDIT).exists() and not (folder / AUDIT_ROWS).exists()
