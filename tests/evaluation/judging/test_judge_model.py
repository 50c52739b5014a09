"""Judges behind a server and in this process, and the replies cached on disk."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from memory_r1.errors import EndpointError, StoreError
from memory_r1.evaluation.judging.judge_model import (
    REPLIES,
    CachedJudge,
    JudgeReply,
    LocalJudge,
    Outcome,
    ReplyCache,
    ServerJudge,
)
from memory_r1.inference.endpoint import Endpoint
from memory_r1.inference.language_model import Completion, Messages
from memory_r1.inference.local_model import LocalLanguageModel
from tests.chat_server import ChatServer, reply
from tests.fake_judge import ScriptedJudge


def conversations(*texts: str) -> list[Messages]:
    return [[{"role": "user", "content": text}] for text in texts]


def replies(judge: CachedJudge, *texts: str, max_tokens: int = 7) -> list[JudgeReply]:
    found: dict[int, JudgeReply] = {}
    judge.ask(conversations(*texts), max_tokens, lambda number, item: found.update({number: item}))
    return [found[number] for number in range(len(texts))]


def outcomes(server: ChatServer, count: int, **options: object) -> list[Outcome]:
    judge = ServerJudge(Endpoint(server.url, "m", **{"timeout": 30.0, "retries": 1, **options}))  # type: ignore[arg-type]
    found: dict[int, Outcome] = {}
    judge.ask(conversations(*map(str, range(count))), 7, lambda number, item: found.update({number: item}))
    return [found[number] for number in range(count)]


def test_a_server_is_asked_greedily_and_replies_come_under_their_numbers() -> None:
    def echo(body: dict, headers: dict) -> tuple[int, object]:
        time.sleep(0.02 if body["messages"][0]["content"] == "0" else 0)
        return reply(body["messages"][0]["content"], 11, 2)

    with ChatServer(echo) as server:
        assert outcomes(server, 3) == [Completion(str(number), 11, 2) for number in range(3)]
    body, _ = server.requests[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 7)


def test_requests_under_way_are_bounded() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def slow(body: dict, headers: dict) -> tuple[int, object]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03)
        with lock:
            running -= 1
        return reply("x")

    with ChatServer(slow) as server:
        outcomes(server, 9, concurrency=3, timeout=5)
    assert 1 < most <= 3


def test_failures_stand_in_their_own_places() -> None:
    def picky(body: dict, headers: dict) -> tuple[int, object]:
        return {"1": (400, "no"), "3": (500, "down")}.get(body["messages"][0]["content"]) or reply("fine")

    with ChatServer(picky) as server:
        found = outcomes(server, 5)
    assert [isinstance(item, EndpointError) for item in found] == [False, True, False, True, False]
    assert len(server.requests) == 6  # the 500 was tried twice


def test_a_server_that_is_down_is_not_asked_for_ever() -> None:
    with ChatServer(lambda body, headers: (500, "down")) as server:
        found = outcomes(server, 30, concurrency=2)
    assert found[-1] is None
    # Two at a time, two attempts each, and at most one more in flight when the second one fails.
    assert len(server.requests) <= 2 * 3


def test_what_a_server_refuses_holds_up_nothing_else() -> None:
    def filtering(body: dict, headers: dict) -> tuple[int, object]:
        return (400, "filtered") if body["messages"][0]["content"] in "012" else reply("fine")

    with ChatServer(filtering) as server:
        found = outcomes(server, 6, concurrency=1)
    assert [isinstance(item, EndpointError) for item in found] == [True, True, True, False, False, False]
    assert found[3:] == [Completion("fine", 0, 0)] * 3


def test_a_local_model_judges_greedily(tiny_model: Path) -> None:
    model = LocalLanguageModel.load(str(tiny_model))
    judge = LocalJudge(model, "tiny", batch_size=2)
    found: dict[int, Outcome] = {}
    asked = conversations("Where?", "Who lives in Lisbon?", "What?")
    judge.ask(asked, 4, lambda number, item: found.update({number: item}))
    assert [found[number] for number in range(3)] == [model.generate([one], max_new_tokens=4)[0] for one in asked]


def test_a_prompt_past_a_local_window_costs_itself_alone(tiny_model: Path, tmp_path: Path) -> None:
    judge = LocalJudge(LocalLanguageModel.load(str(tiny_model)), "tiny")
    with ReplyCache(tmp_path) as cache:
        fine, long = replies(CachedJudge(judge, cache), "Where?", "where? " * 3000)
    assert fine.completion is not None
    assert (long.completion, long.failure) == (None, "rejected")
    assert "window of 2048" in long.detail


def test_what_was_said_is_not_asked_again(tmp_path: Path) -> None:
    model = ScriptedJudge(lambda text: Completion(f"{text}!", 5, 1))
    with ReplyCache(tmp_path) as cache:
        judge = CachedJudge(model, cache)
        first = replies(judge, "a", "b", "a")
        assert [(item.completion, item.source) for item in first] == [
            (Completion("a!", 5, 1), "asked"),
            (Completion("b!", 5, 1), "asked"),
            (Completion("a!", 5, 1), "cache"),
        ]
    with ReplyCache(tmp_path) as cache:  # as another process would
        judge = CachedJudge(model, cache)
        assert [item.source for item in replies(judge, "b", "c")] == ["cache", "asked"]
        assert model.asked == ["a", "b", "c"]
        replies(judge, "a", max_tokens=8)
        assert model.asked == ["a", "b", "c", "a"]  # a longer reply may change the verdict
        other = ScriptedJudge(lambda text: Completion("other", 0, 0), "other")
        assert replies(CachedJudge(other, cache), "a")[0].completion == Completion("other", 0, 0)


def test_failures_are_not_kept_and_say_what_they_were(tmp_path: Path) -> None:
    script: list[Outcome] = [EndpointError("HTTP 400: no"), None, Completion("yes", 0, 0)]
    model = ScriptedJudge(lambda text: script.pop(0))
    with ReplyCache(tmp_path) as cache:
        judge = CachedJudge(model, cache)
        rejected, again = replies(judge, "a", "a")
        assert (rejected.failure, rejected.source, rejected.detail) == ("rejected", "asked", "HTTP 400: no")
        assert (again.failure, again.source) == ("rejected", "none")
        (unsent,) = replies(judge, "a")
        assert (unsent.failure, unsent.source) == ("unreachable", "none")
        assert replies(judge, "a")[0].completion == Completion("yes", 0, 0)


def test_a_reply_with_half_an_emoji_is_kept(tmp_path: Path) -> None:
    with ReplyCache(tmp_path) as cache:
        cache.keep("k", "m", Completion("\ud83d", 1, 2))
        assert cache.get("k") == Completion("\ud83d", 1, 2)
        assert cache.get("other") is None


def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / REPLIES).write_bytes(b"no database, whatever its name says" * 100)
    with pytest.raises(StoreError, match=f"{REPLIES} cannot be read or written .*delete the file"):
        ReplyCache(tmp_path)


def keep_many(folder: Path, start: int) -> None:
    with ReplyCache(folder) as cache:
        for number in range(start, start + 30):
            cache.keep(str(number), "m", Completion(str(number), 0, 0))


def test_two_processes_may_write_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=keep_many, args=(tmp_path, start)) for start in (0, 15)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    with ReplyCache(tmp_path) as cache:
        assert [cache.get(str(number)) for number in range(45)] == [Completion(str(n), 0, 0) for n in range(45)]
