"""The server: this machine only, read-only unless asked, secrets, hostile hosts, and what the page gets told."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from http.server import HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError, MemoryR1Error, StoreError
from memory_r1.inspector.server import TOKEN_HEADER, InspectorServer, inspect
from memory_r1.inspector.store import StoreFile, answering
from tests.inspector.stores import (
    HOSTILE,
    SAID,
    answer_agent,
    open_system,
    serving,
    turns,
    write_long_store,
    write_store,
)


def send(
    server: InspectorServer, method: str, path: str, content: Any = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    """Send a request to `path` below the server's secret, or to it alone if it is a whole path or address."""
    whole = path if path.startswith(("/", "http://")) else f"/{server.key}/{path}"
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)) as connection:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, whole, None if content is None else json.dumps(content), names)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read().decode()


def ask(server: InspectorServer, path: str) -> Any:
    status, _, text = send(server, "GET", path)
    assert status == 200, text
    return json.loads(text)


def post(server: InspectorServer, path: str, **content: Any) -> tuple[int, Any]:
    token = {TOKEN_HEADER.replace("-", "_"): server.token}
    status, _, text = send(server, "POST", path, content, **token)
    return status, json.loads(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_store(tmp_path / "memory.db", *SAID)


@pytest.fixture
def server(path: Path) -> Iterator[InspectorServer]:
    with closing(StoreFile(path)) as store, serving(store) as started:
        yield started


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_only_loopback_addresses_are_bound(path: Path, host: str) -> None:
    with closing(StoreFile(path)) as store, pytest.raises(ConfigurationError, match=r"allowed: 127\.0\.0\.1"):
        InspectorServer(store, host=host)


def test_a_taken_port_is_one_line(path: Path, server: InspectorServer) -> None:
    with closing(StoreFile(path)) as store, pytest.raises(ConfigurationError, match="cannot be opened"):
        InspectorServer(store, port=server.server_port)


def test_another_host_name_is_refused(server: InspectorServer) -> None:
    for host in ("example.org", f"example.org:{server.server_port}", "127.0.0.1", "127.0.0.1:1"):
        status, _, text = send(server, "GET", "api/overview", Host=host)
        assert status == 421 and server.token not in text
    assert send(server, "GET", "", Host=f"localhost:{server.server_port}")[0] == 200


def test_nothing_is_served_without_the_secret_nor_beside_the_pages_own_paths(server: InspectorServer) -> None:
    key = server.key
    for path in ("/", "/api/overview", f"/{key}", f"/{key[:-1]}/", "/x/api/overview", "/%ff/"):
        assert send(server, "GET", path)[0] == 404
    assert send(server, "GET", "http://[/", Host=f"127.0.0.1:{server.server_port}")[0] == 404
    beside = ("page/index.html", "../server.py", "%2e%2e/server.py", "/etc/passwd", "api/", "api/undo", "memory.db")
    assert [send(server, "GET", path)[0] for path in beside] == [404] * len(beside)
    assert send(server, "POST", "api/overview", {})[0] == 404
    assert send(server, "OPTIONS", "api/undo")[0] == 501


def test_the_address_that_starts_the_browser_opens_the_page_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies, keys = list[tuple[int, str | None]](), list[str]()

    def start(address: str) -> None:  # other users of the machine can read a browser's command line
        (server,) = servers
        keys.append(address if server.key in address else "")
        for _ in range(2):
            status, headers, _ = send(server, "GET", address.removeprefix(f"http://127.0.0.1:{server.server_port}"))
            replies.append((status, headers["Location"]))

    def serve(server: InspectorServer) -> None:
        servers.append(server)
        Thread(target=HTTPServer.serve_forever, args=[server], daemon=True).start()
        start(opened[0])
        server.shutdown()

    servers, opened = list[InspectorServer](), list[str]()
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(InspectorServer, "serve_forever", serve)
    with closing(StoreFile(path)) as store:
        inspect(store)
    assert keys == [""] and replies == [(303, f"/{servers[0].key}/"), (404, None)]


def test_every_reply_forbids_foreign_scripts_frames_and_readers(server: InspectorServer) -> None:
    for path in ("", "page.js", "style.css", "api/overview", "nothing"):
        _, headers, _ = send(server, "GET", path, Origin="https://example.org")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_a_store_is_read_only_unless_asked(path: Path, server: InspectorServer) -> None:
    before = path.read_bytes()
    status, content = post(server, "api/undo", scope="ann", records=8)
    assert (status, content["error"]) == (400, "the store is open for reading only; start inspect with --writable")
    with closing(StoreFile(path)) as store:
        with pytest.raises(StoreError, match="readonly"):
            store.undo("ann")
        assert len(store.records("ann")) == 8
    assert path.read_bytes() == before


def test_undo_needs_the_token_and_takes_back_the_last_edit(path: Path) -> None:
    with closing(StoreFile(path, writable=True)) as store, serving(store) as server:
        for token in ({}, {"X_Memory_R1_Token": "guess"}, {"Cookie": server.token}):
            status, _, _ = send(server, "POST", "api/undo", {"scope": "ann", "records": 8}, **token)
            assert status == 403
        assert len(store.records("ann")) == 8
        before = ask(server, "api/state?scope=ann")
        assert before["undo"]["record"] == 8 and before["undo"]["kind"] == "DELETE"
        assert post(server, "api/undo", scope="ann", records=8) == (200, {"undone": 1})
        after = ask(server, "api/state?scope=ann")
        assert after["live"] == before["live"] + 1 and after["total"] == 9 and after["undo"]["record"] == 7
        # Whoever has not seen that record must look again.
        status, content = post(server, "api/undo", scope="ann", records=8)
        assert status == 400 and "it has 9 records, not 8" in content["error"]


def test_bad_requests_are_one_line(server: InspectorServer) -> None:
    for query in ("state?scope=ann&at=-1", "state?scope=ann&at=x", "state?scope=ann&at=99", "state?scope=nobody"):
        status, _, text = send(server, "GET", f"api/{query}")
        assert status == 400 and "\n" not in json.loads(text)["error"]
    for content in ([], "x"):
        status, _, _ = send(server, "POST", "api/undo", content, X_Memory_R1_Token=server.token)
        assert status == 400
    status, _, _ = send(server, "POST", "api/ask", {"question": "x" * 100_000}, X_Memory_R1_Token=server.token)
    assert status == 413
    assert post(server, "api/ask", scope="ann", question="Where?")[1]["error"].startswith("no model answers here")


def test_the_page_is_told_every_turn_with_its_changes_refusals_and_failures(server: InspectorServer) -> None:
    overview = ask(server, "api/overview")
    assert (overview["title"], overview["system"], overview["scopes"]) == ("memory.db", "memory-r1", ["ann"])
    assert (overview["writable"], overview["answers"]) == (False, False)
    third = ask(server, "api/state?scope=ann&at=3")
    assert third["record"]["turn"]["text"] == "lives in Oslo"
    [change] = third["changes"]
    assert (change["before"]["text"], change["after"]["text"]) == ("Ann lives in Rome", "Ann lives in Oslo")
    assert '"op": "UPDATE"' in third["record"]["completion"] and (third["live"], third["rest"]) == (1, [])
    assert ask(server, "api/state?scope=ann&at=4")["record"]["failure"]
    assert [refusal["reason"] for refusal in ask(server, "api/state?scope=ann&at=5")["record"]["refusals"]]
    assert ask(server, "api/state?scope=ann&at=0")["record"] is None
    for show, numbers in (("all", range(1, 9)), ("changes", (1, 3, 6, 7, 8)), ("refusals", (4, 5)), ("undone", ())):
        rows = ask(server, f"api/records?scope=ann&show={show}")["rows"]
        assert [row["number"] for row in rows] == [*numbers]
    assert [row["number"] for row in ask(server, "api/records?scope=ann&text=OSLO+lives")["rows"]] == [3]
    versions = ask(server, "api/entry?scope=ann&id=1")["versions"]
    assert [(v["record"], v["kind"], v["turn"]["text"]) for v in versions[:2]] == [
        (1, "ADD", "lives in Rome"),
        (3, "UPDATE", "lives in Oslo"),
    ]


def test_search_and_answer(path: Path) -> None:
    system = open_system(path)
    with closing(StoreFile(path, answer=answering(system, answer_agent()))) as store, serving(store) as server:
        found = ask(server, "api/search?scope=ann&query=cat")["entries"]
        assert found[0]["text"] == "Ann has a cat"
        status, content = post(server, "api/ask", scope="ann", question="What does Ann have, a cat?")
        assert status == 200 and content["answer"] == content["recalled"][0]["text"]
        assert [entry["distilled"] for entry in content["recalled"]] == [True, False]
    system.log.close()


def test_hostile_text_stays_json(tmp_path: Path) -> None:
    path = write_store(tmp_path / "memory.db", f"keeps {HOSTILE}", scope=HOSTILE)
    with closing(StoreFile(path)) as store, serving(store) as server:
        status, headers, text = send(server, "GET", "api/overview")
        assert (status, headers["Content-Type"], json.loads(text)["scopes"]) == (200, "application/json", [HOSTILE])
        assert HOSTILE not in send(server, "GET", "")[2]


def test_what_is_forgotten_elsewhere_is_no_longer_shown(path: Path, server: InspectorServer) -> None:
    assert "cat" in json.dumps(ask(server, "api/records?scope=ann"))
    system = open_system(path)
    system.forget("ann", [2])
    assert "cat" not in json.dumps([ask(server, "api/records?scope=ann"), ask(server, "api/entry?scope=ann&id=2")])
    [erased] = [row for row in ask(server, "api/records?scope=ann")["rows"] if "FORGET" in row["kinds"]]
    assert (erased["number"], erased["turn"], erased["text"]) == (6, True, "")
    system.observe(turns("likes tea")[0], "ann")
    assert ask(server, "api/state?scope=ann")["total"] == 9
    system.log.close()


def test_a_path_that_is_no_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello, this is a text of some length " * 100)
    (tmp_path / "empty.db").touch()
    for name, message in (
        ("missing.db", "no such file"),
        ("empty.db", "is empty"),
        ("text.db", "not a database"),
        (".", "no such file"),
    ):
        with pytest.raises(MemoryR1Error, match=message):
            StoreFile(tmp_path / name)
    assert not (tmp_path / "missing.db").exists()


def test_ten_thousand_records_are_paged(tmp_path: Path) -> None:
    path = write_long_store(tmp_path / "memory.db", 10_000)
    with closing(StoreFile(path)) as store, serving(store) as server:
        state = ask(server, "api/state?scope=long")
        assert (state["live"], len(state["rest"]), state["left"]) == (9000, 49 + 1, 8949)
        more = ask(server, "api/state?scope=long&at=9999&start=50")
        assert (more["rest"][0]["text"], more["left"]) == ("I own lamp56", 8899)
        page = ask(server, "api/records?scope=long&around=5012")
        assert (page["page"], page["pages"], page["rows"][0]["number"], len(page["rows"])) == (100, 200, 5001, 50)
        found = ask(server, "api/records?scope=long&text=lamp777&page=1")
        assert (found["found"], found["rows"][-1]["number"]) == (11, 7779)
