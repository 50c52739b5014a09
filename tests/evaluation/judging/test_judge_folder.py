"""Judging an evaluation folder: verdicts beside the predictions, whatever the judge or a kill does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from memory_r1.errors import ConfigurationError, DataError, EndpointError
from memory_r1.evaluation.judging.judge_folder import JUDGE, judge_folder
from memory_r1.evaluation.judging.judge_model import CachedJudge, Outcome, ReplyCache, ServerJudge
from memory_r1.evaluation.judging.verdicts import VERDICTS, read_verdicts
from memory_r1.inference.endpoint import Endpoint
from memory_r1.inference.language_model import Completion
from memory_r1.jsonl import read_json, read_rows
from tests.chat_server import Answer, ChatServer, reply
from tests.fake_judge import CORRECT, WRONG, ScriptedJudge, fair, write_answers


class Court:
    """Judges the folder `run`; each `judge` opens and closes the cache, as a separate process would."""

    def __init__(self, tmp_path: Path) -> None:
        self.run = tmp_path / "run"
        self.cache = tmp_path / "cache"

    def judge(self, model: Any, rubric: str = "lenient", **options: Any) -> dict[str, Any]:
        with ReplyCache(self.cache) as cache:
            return judge_folder(self.run, rubric, CachedJudge(model, cache), progress=False, **options)

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        return read_verdicts(self.run)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.run / VERDICTS)


@pytest.fixture
def court(tmp_path: Path) -> Court:
    return Court(tmp_path)


def test_verdicts_become_metrics_and_cost_is_counted(court: Court) -> None:
    write_answers(court.run, "in Rome", "Oslo", "")
    summary = court.judge(ScriptedJudge(fair))
    assert court.metrics == {
        "d1/q0": {"judge_lenient": 1.0},
        "d1/q1": {"judge_lenient": 0.0},
        "d1/q2": {"judge_lenient": 0.0},  # an empty answer is wrong without asking a judge
    }
    assert summary == {
        "judge": "scripted",
        "n_questions": 3,
        "right": 1,
        "wrong": 2,
        "missing": {},
        "cut_predictions": 0,
        "requests": 2,
        "cache_hits": 0,
        "prompt_tokens": 200,
        "completion_tokens": 20,
    }
    assert read_json(court.run / JUDGE) == {"lenient": summary}
    first = next(row for row in court.rows if row["question_id"] == "q0")
    assert (first["dialogue_id"], first["rubric"], first["judge"]) == ("d1", "lenient", "scripted")
    assert (first["verdict"], first["reason"]) == (True, None)


def test_a_folder_that_was_not_judged_has_no_verdicts(tmp_path: Path) -> None:
    assert read_verdicts(tmp_path) == {}


def test_a_second_call_asks_nothing_and_changes_nothing(court: Court) -> None:
    write_answers(court.run, "in Rome", "Oslo", "")
    model = ScriptedJudge(fair)
    first = court.judge(model)
    rows = court.rows
    assert court.judge(model) == first
    assert (len(model.asked), court.rows) == (2, rows)


def test_rubrics_have_metrics_of_their_own(court: Court) -> None:
    write_answers(court.run, "Oslo")
    court.judge(ScriptedJudge(lambda text: CORRECT if "generous" in text else WRONG))
    court.judge(ScriptedJudge(lambda text: CORRECT if "generous" in text else WRONG), "strict")
    assert court.metrics == {"d1/q0": {"judge_lenient": 1.0, "judge_strict": 0.0}}
    assert list(read_json(court.run / JUDGE)) == ["lenient", "strict"]


def test_longmemeval_goes_by_the_category(court: Court) -> None:
    write_answers(court.run, "in Rome", category="knowledge-update", benchmark="longmemeval")
    model = ScriptedJudge(lambda text: Completion("Yes", 9, 1))
    court.judge(model, "longmemeval")
    assert court.metrics == {"d1/q0": {"judge_longmemeval": 1.0}}
    assert "up-to-date" in model.asked[0]


def test_what_has_no_verdict_is_counted_and_never_wrong(court: Court) -> None:
    write_answers(court.run, "in Rome", "garbled", "refused", "y" * 2001)
    said = {"garbled": Completion("Well, who knows?", 5, 5), "refused": Completion("I'm sorry, I cannot.", 5, 5)}

    def script(text: str) -> Outcome:
        return next((said[word] for word in said if word in text), None) or fair(text)

    summary = court.judge(ScriptedJudge(script))
    assert court.metrics["d1/q1"] == court.metrics["d1/q2"] == {"judge_lenient": None}
    assert court.metrics["d1/q0"] == {"judge_lenient": 1.0}
    assert summary["missing"] == {"garbage": 1, "refused": 1}
    assert (summary["right"], summary["wrong"], summary["cut_predictions"]) == (1, 1, 1)
    assert [row["reason"] for row in court.rows] == [None, "garbage", "refused", None]


def test_rows_without_a_gold_are_not_put_to_a_judge(court: Court) -> None:
    write_answers(court.run, "in Rome", gold=" ")
    model = ScriptedJudge(fair)
    assert court.judge(model)["missing"] == {"no_gold": 1}
    assert (model.asked, court.metrics) == ([], {"d1/q0": {"judge_lenient": None}})


def test_two_judges_are_never_mixed_in_one_metric(court: Court) -> None:
    write_answers(court.run, "in Rome", "Oslo")
    mild, fair_one = ScriptedJudge(lambda text: CORRECT, "mild"), ScriptedJudge(fair, "fair")
    court.judge(mild)
    script: list[Outcome] = [WRONG]

    def breaks(text: str) -> Outcome:
        if not script:
            raise KeyboardInterrupt
        return script.pop()

    with pytest.raises(KeyboardInterrupt):
        court.judge(ScriptedJudge(breaks, "harsh"))
    # The mild judge's verdict on q1 does not enter the harsh judge's metric.
    assert court.metrics == {"d1/q0": {"judge_lenient": 0.0}, "d1/q1": {"judge_lenient": None}}
    court.judge(fair_one)
    assert court.metrics == {"d1/q0": {"judge_lenient": 1.0}, "d1/q1": {"judge_lenient": 0.0}}
    summary = court.judge(mild)  # its verdicts come back from the cache
    assert court.metrics == {"d1/q0": {"judge_lenient": 1.0}, "d1/q1": {"judge_lenient": 1.0}}
    assert (len(mild.asked), summary["requests"], summary["cache_hits"]) == (2, 2, 2)


def test_other_predictions_are_judged_anew(court: Court) -> None:
    write_answers(court.run, "in Rome", "Oslo")
    model = ScriptedJudge(fair)
    court.judge(model)
    write_answers(court.run, "Paris", "Oslo")
    court.judge(model)
    assert court.metrics["d1/q0"] == {"judge_lenient": 0.0}
    assert len(model.asked) == 3


@pytest.mark.parametrize("cuts", [(1,), (3, 4), (0, 2, 5)])
def test_a_judge_that_is_killed_goes_on_and_asks_nothing_twice(court: Court, cuts: tuple[int, ...]) -> None:
    write_answers(court.run, *(f"answer {n}" for n in range(6)))
    asked: list[str] = []

    def until(cut: int) -> Callable[[str], Outcome]:
        def script(text: str) -> Outcome:
            if len(asked) == cut:
                raise KeyboardInterrupt
            asked.append(text)
            return fair(text)

        return script

    for cut in cuts:
        with pytest.raises(KeyboardInterrupt):
            court.judge(ScriptedJudge(until(cut)))
        with (court.run / VERDICTS).open("ab") as file:
            file.write(b'{"dialogue_id": "d1", "quest')  # what a kill in the middle of a write would leave
    summary = court.judge(ScriptedJudge(until(100)))
    assert len(asked) == len(set(asked)) == 6
    assert (summary["n_questions"], summary["requests"], summary["prompt_tokens"]) == (6, 6, 600)
    assert len(court.rows) == 6


def test_a_verdict_lost_between_cache_and_file_is_not_asked_for_again(court: Court) -> None:
    write_answers(court.run, "in Rome", "Oslo")
    model = ScriptedJudge(fair)
    court.judge(model)
    (court.run / VERDICTS).unlink()
    assert court.judge(model)["cache_hits"] == 2
    assert (len(model.asked), court.metrics["d1/q0"]) == (2, {"judge_lenient": 1.0})


def test_a_folder_is_judged_by_one_process_at_a_time(court: Court) -> None:
    write_answers(court.run, "in Rome")
    court.judge(ScriptedJudge(fair))
    (lock,) = court.cache.glob("*.lock")
    with FileLock(lock), pytest.raises(ConfigurationError, match="another process is judging"):
        court.judge(ScriptedJudge(fair))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"verdict": "yes"}, 'line 1: verdict: found "yes", allowed: true, false or null'),
        ({"judge": None}, "line 1: judge: found null"),
        ({"prompt_tokens": "7"}, "line 1: prompt_tokens"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    row = {"dialogue_id": "d", "question_id": "q", "rubric": "strict", "judge": "m", "verdict": True} | change
    (tmp_path / VERDICTS).write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as error:
        read_verdicts(tmp_path)
    assert complaint in str(error.value)


def test_rows_need_no_more_than_the_documented_fields(tmp_path: Path) -> None:
    row = {
        "dialogue_id": "d",
        "question_id": "q",
        "rubric": "strict",
        "judge": "m",
        "verdict": None,
        "reason": "garbage",
    }
    (tmp_path / VERDICTS).write_text(json.dumps(row | {"more": 1}) + "\n")
    assert read_verdicts(tmp_path) == {"d/q": {"judge_strict": None}}


def test_a_rubric_that_does_not_fit_asks_nothing(court: Court) -> None:
    write_answers(court.run, "in Rome")
    model = ScriptedJudge(fair)
    with pytest.raises(ConfigurationError, match="rubric longmemeval has no question for category '4'"):
        court.judge(model, "longmemeval")
    with pytest.raises(ConfigurationError, match="reply_tokens is 0"):
        court.judge(model, reply_tokens=0)
    write_answers(court.run)
    with pytest.raises(DataError, match="holds no prediction"):
        court.judge(model)
    assert model.asked == [] and not (court.run / VERDICTS).exists()


# Server failures.


def served(script: Callable[[str], Answer]) -> ChatServer:
    return ChatServer(lambda body, headers: script(body["messages"][-1]["content"]))


def server_judge(server: ChatServer, **options: Any) -> ServerJudge:
    return ServerJudge(Endpoint(server.url, "m", **{"timeout": 30.0, "retries": 1, **options}))


@pytest.mark.parametrize(
    ("failure", "attempts", "reason"),
    [
        ((500, "out of memory"), 2, "unreachable"),
        ((200, b"<html>"), 1, "unreachable"),
        ((400, "filtered"), 1, "rejected"),
        ((401, "no key"), 1, "rejected"),
        (reply("I'm sorry, I can't help with that."), 1, "refused"),
        (reply("bla bla"), 1, "garbage"),
        (reply(""), 1, "garbage"),
    ],
)
def test_one_question_that_fails_costs_itself_alone(
    court: Court, failure: Answer, attempts: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_answers(court.run, "in Rome", "Oslo", "by Rome")
    with served(lambda text: failure if "Oslo" in text else reply(CORRECT.text, 7, 3)) as server:
        summary = court.judge(server_judge(server))
        assert len(server.requests) == 2 + attempts
        assert court.metrics["d1/q1"] == {"judge_lenient": None}
        assert [court.metrics[key]["judge_lenient"] for key in ("d1/q0", "d1/q2")] == [1.0, 1.0]
        assert (summary["missing"], summary["right"], summary["wrong"]) == ({reason: 1}, 2, 0)
        assert (summary["requests"], summary["prompt_tokens"], summary["completion_tokens"]) == (3, 14, 6)
        assert f"no verdict on d1/q1 ({reason}" in caplog.text
        # The next call asks again after transient failures, but not for a reply that a greedy judge would repeat.
        again = court.judge(server_judge(server))
        assert len(server.requests) == 2 + attempts * (2 if reason in ("unreachable", "rejected") else 1)
        assert again["missing"] == {reason: 1}


def test_a_server_that_hangs_is_a_missing_verdict(court: Court) -> None:
    write_answers(court.run, "in Rome", "Oslo")
    release = threading.Event()

    def hang(text: str) -> Answer:
        if "Oslo" in text:
            release.wait(30)
        return reply(CORRECT.text)

    with served(hang) as server:
        summary = court.judge(server_judge(server, timeout=2))
        release.set()
    assert (summary["missing"], summary["right"], len(server.requests)) == ({"unreachable": 1}, 1, 3)


def test_what_failed_is_asked_again_once_the_server_is_back(court: Court) -> None:
    write_answers(court.run, "in Rome", "Oslo")
    down = True
    with served(lambda text: (503, "") if down and "Oslo" in text else reply(fair(text).text)) as server:
        assert court.judge(server_judge(server))["missing"] == {"unreachable": 1}
        down = False
        assert court.judge(server_judge(server))["missing"] == {}
        assert len(server.requests) == 4  # one, two failed attempts, one
    assert court.metrics == {"d1/q0": {"judge_lenient": 1.0}, "d1/q1": {"judge_lenient": 0.0}}


def test_a_judge_that_cannot_be_asked_at_all_leaves_the_folder_as_it_was(court: Court) -> None:
    write_answers(court.run, "in Rome", "", *(f"answer {n}" for n in range(20)))
    court.judge(ScriptedJudge(fair))
    before = {path.name: path.read_bytes() for path in court.run.iterdir()}
    with served(lambda text: (500, "")) as server:
        with pytest.raises(EndpointError, match=r"judge m: none of 21 questions got a reply.*repeat the command"):
            court.judge(server_judge(server, concurrency=2))
        assert len(server.requests) <= 2 * 3  # and the other questions are spared
    assert {path.name: path.read_bytes() for path in court.run.iterdir()} == before
