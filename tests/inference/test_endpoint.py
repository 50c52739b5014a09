"""Chat calls against a local server that is slow, broken or replies nonsense."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from memory_r1.errors import ConfigurationError, EndpointError, MemoryR1Error
from memory_r1.inference.endpoint import ChatReply, Endpoint, check_address, is_loopback
from tests.chat_server import ChatServer, reply

HELLO = [{"role": "user", "content": "hello"}]


def endpoint(server: ChatServer, **options: object) -> Endpoint:
    return Endpoint(server.url, "base", **{"timeout": 5.0, "retries": 2, **options})  # type: ignore[arg-type]


def ask(asked: Endpoint, count: int = 1) -> list[ChatReply | EndpointError]:
    conversations = [[{"role": "user", "content": f"hello {number}"}] for number in range(count)]
    return asked.chat_many(conversations, max_tokens=7, temperature=0.0)


def test_a_reply_carries_text_and_what_the_server_counted() -> None:
    with ChatServer(lambda body, headers: reply("Rome", prompt_tokens=11, completion_tokens=2)) as server:
        assert ask(endpoint(server)) == [ChatReply("Rome", 11, 2)]
    ((body, _),) = server.requests
    assert body == {
        "model": "base",
        "messages": [{"role": "user", "content": "hello 0"}],
        "max_tokens": 7,
        "temperature": 0.0,
    }


def test_a_caller_inside_an_event_loop_such_as_a_notebook_is_answered_too() -> None:
    async def cell() -> list[ChatReply | EndpointError]:
        return ask(endpoint(server))

    with ChatServer(lambda body, headers: reply("Rome")) as server:
        assert asyncio.run(cell()) == [ChatReply("Rome", 0, 0)]


def test_seed_model_and_further_fields_reach_the_server() -> None:
    with ChatServer(lambda body, headers: reply("x")) as server:
        asked = endpoint(server)
        asked.chat_many([HELLO], max_tokens=3, temperature=0.5, seed=4, model="answer", extra={"top_k": -1})
    ((body, _),) = server.requests
    assert (body["seed"], body["model"], body["top_k"], body["max_tokens"]) == (4, "answer", -1, 3)


def test_replies_come_in_the_order_asked_and_not_more_than_allowed_at_a_time() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def slow(body: dict, headers: dict) -> tuple[int, object]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        number = int(body["messages"][0]["content"].split()[1])
        time.sleep(0.02 if number % 2 else 0.05)
        with lock:
            running -= 1
        return reply(str(number))

    with ChatServer(slow) as server:
        replies = ask(endpoint(server, concurrency=3), 9)
    assert [item.text for item in replies if isinstance(item, ChatReply)] == [str(number) for number in range(9)]
    assert most == 3


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_tried_again(status: int) -> None:
    answers = iter([(status, {}), (status, {}), reply("at last")])
    with ChatServer(lambda body, headers: next(answers)) as server:
        assert ask(endpoint(server)) == [ChatReply("at last", 0, 0)]
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    with ChatServer(lambda body, headers: (status, {"error": "no such model"})) as server:
        (error,) = ask(endpoint(server))
    assert isinstance(error, EndpointError)
    assert f"HTTP {status}" in str(error) and "no such model" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html>502</html>",
        b"",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        b"\xff",
    ],
)
def test_nonsense_is_an_error_that_shows_it(garbage: bytes) -> None:
    with ChatServer(lambda body, headers: (200, garbage)) as server:
        (error,) = ask(endpoint(server))
    assert isinstance(error, EndpointError) and isinstance(error, MemoryR1Error)
    assert "\n" not in str(error)


def test_a_server_that_drips_bytes_is_given_up() -> None:
    def drip(body: dict, headers: dict) -> tuple[int, object]:
        return 200, iter([b" "] * 100)  # a byte every 0.05 s: every read is quick, but the whole takes 5 seconds

    with ChatServer(drip) as server:
        started = time.monotonic()
        (error,) = ask(endpoint(server, timeout=0.2, retries=0))
        assert time.monotonic() - started < 2
    assert isinstance(error, EndpointError) and "no reply within 0.2 seconds" in str(error)


def test_nobody_listening_is_an_error_that_names_the_server() -> None:
    with ChatServer(lambda body, headers: reply("x")) as server:
        address = server.url
    (error,) = ask(Endpoint(address, "base", retries=1))
    assert isinstance(error, EndpointError) and address in str(error)


def test_one_failure_leaves_the_others_alone() -> None:
    def picky(body: dict, headers: dict) -> tuple[int, object]:
        return (400, {}) if body["messages"][0]["content"].endswith("1") else reply("fine")

    with ChatServer(picky) as server:
        replies = ask(endpoint(server), 3)
    assert [isinstance(item, ChatReply) for item in replies] == [True, False, True]


class Clock:
    """A manual clock for `Endpoint`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("memory_r1.inference.endpoint.monotonic", lambda: self.now)


def test_a_server_that_is_down_is_left_alone_until_it_has_cooled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, down = Clock(monkeypatch), True
    with ChatServer(lambda body, headers: (500, {}) if down else reply("back")) as server:
        asked = endpoint(server, concurrency=2, retries=1)
        replies = ask(asked, 20)
        assert all(isinstance(item, EndpointError) for item in replies)
        assert "not asked" in str(replies[-1])
        # Two conversations at a time, two attempts each: at most one more is in flight when the second one fails.
        asked_until_down = len(server.requests)
        assert asked_until_down <= 2 * 3
        clock.now += 29.9
        (error,) = ask(asked)
        assert "not asked" in str(error) and len(server.requests) == asked_until_down
        clock.now += 0.2
        assert all(isinstance(item, EndpointError) for item in ask(asked, 20))
        assert len(server.requests) <= asked_until_down + 2  # one attempt each, and another pause
        down = False
        assert "not asked" in str(ask(asked)[0])
        clock.now += 30.1
        assert ask(asked, 4) == [ChatReply("back", 0, 0)] * 4
        down, before = True, len(server.requests)
        assert "HTTP 500" in str(ask(asked)[0])  # a server that came back is as patient a case as before
        assert len(server.requests) == before + 2


def test_failures_in_a_row_are_counted_over_batches() -> None:
    with ChatServer(lambda body, headers: (500, {})) as server:
        asked = endpoint(server, concurrency=3, retries=0)
        errors = [str(ask(asked)[0]) for _ in range(4)]
    assert ["not asked" in error for error in errors] == [False, False, False, True]


def test_a_server_that_refuses_requests_is_not_down() -> None:
    with ChatServer(lambda body, headers: (400, {})) as server:
        asked = endpoint(server, concurrency=2)
        assert all("HTTP 400" in str(error) for error in [*ask(asked, 5), *ask(asked, 2)])
    assert len(server.requests) == 7


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret-123")
    caplog.set_level(logging.DEBUG)
    with ChatServer(lambda body, headers: (401, {"error": f"bad key {headers['Authorization']}"})) as server:
        asked = endpoint(server, key_variable="SOME_KEY")
        (error,) = ask(asked)
    assert server.requests[0][1]["Authorization"] == "Bearer sk-secret-123"
    shown = f"{error} {error!r} {asked!r} {vars(asked)} {caplog.text}"
    assert "[key]" in str(error) and "sk-secret-123" not in shown


def test_no_key_leaves_this_machine_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    assert Endpoint("http://node7:8000/v1", "m")._key() is None
    assert Endpoint("https://node7/v1", "m")._key() == "sk-secret-123"


def test_without_a_key_no_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer(lambda body, headers: reply("x")) as server:
        ask(endpoint(server))
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize(
    "address", ["", "localhost:8000", "ftp://host/v1", "http://", "http://user:pw@host/v1", "http://host/v1?key=x"]
)
def test_an_address_that_is_none_is_refused_without_its_credentials(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"allowed: http\(s\)") as error:
        check_address(address)
    assert "pw" not in str(error.value)


def test_addresses_of_this_machine_are_known() -> None:
    local = ("http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:8000/v1", "http://127.8.8.8/")
    assert all(map(is_loopback, local))
    assert not any(map(is_loopback, ("http://localhost.example.org/v1", "http://10.0.0.1/v1", "http://128.0.0.1/")))


def test_a_batch_keeps_its_connections_open_and_closes_them_at_its_end() -> None:
    with ChatServer(lambda body, headers: reply("x"), keep_alive=True) as server:
        assert len(ask(endpoint(server, concurrency=2), 8)) == 8
        assert 1 <= server.connections <= 2
        assert len(server.requests) == 8
        deadline = time.monotonic() + 5
        while server.open_connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.open_connections == 0


def test_a_connection_that_the_server_has_closed_is_opened_again() -> None:
    answers = iter([reply("first"), (500, {}), reply("second")])
    with ChatServer(lambda body, headers: next(answers), keep_alive=True, requests_a_connection=1) as server:
        assert ask(endpoint(server, concurrency=1), 2) == [ChatReply("first", 0, 0), ChatReply("second", 0, 0)]
        assert server.connections == 3


def test_it_may_be_used_from_one_event_loop_after_another() -> None:
    with ChatServer(lambda body, headers: reply("x")) as server:
        asked = endpoint(server, concurrency=1)
        for _ in range(2):
            assert len(ask(asked, 3)) == 3


def test_a_pause_that_the_server_asks_for_does_not_count_as_its_silence() -> None:
    answers = iter([(429, {}), reply("at last")])
    with ChatServer(lambda body, headers: next(answers), pause_ms=600) as server:
        assert ask(endpoint(server, timeout=0.25, retries=1)) == [ChatReply("at last", 0, 0)]
