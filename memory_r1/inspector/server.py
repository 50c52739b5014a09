"""The web server of the page: this machine only, nothing but its own paths, and no trust in any text it sends.

A store holds what people said, so the address carries a secret of this run: other users of the machine can connect to
the port, but see nothing. They can read the browser's command line, so that gets an address that works once. Undoing
and answering take another secret, in a header that no other site's page can send.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
import sys
import threading
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

from memory_r1.errors import ConfigurationError, MemoryR1Error
from memory_r1.inspector.api import Api
from memory_r1.inspector.store import Inspected

TOKEN_HEADER = "X-Memory-R1-Token"
_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LARGEST_BODY = 64 * 1024  # bytes


class _Rejected(Exception):
    """A request that gets an error's status; `args` hold the status and one line."""


class _Moved(Exception):
    """A request to the address that works once, which leads to the page."""


class InspectorServer(ThreadingHTTPServer):
    """Serves the page of one memory at `url`; `url_once` leads there for whoever is first.

    Args:
        store: The memory to show.
        host: A loopback address, or "localhost".
        port: The port; 0 takes a free one.

    Raises:
        ConfigurationError: The host is not this machine's loopback, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, store: Inspected, *, host: str = "127.0.0.1", port: int = 0) -> None:
        address = "127.0.0.1" if host == "localhost" else host
        if not _is_loopback(address):
            raise ConfigurationError(
                f"host is {host!r}, allowed: 127.0.0.1, ::1 or localhost; from elsewhere, reach it through ssh -L"
            )
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            super().__init__((address, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"port {port} cannot be opened on {host} ({error}); leave it out") from error
        self.api = Api(store)
        self.key, self.token = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        name = f"[{address}]" if ":" in address else address
        self.hosts = {f"{name}:{self.server_port}", f"localhost:{self.server_port}"}
        self._once: str | None = secrets.token_urlsafe(16)
        self._gate = threading.Lock()
        self.url = f"http://{name}:{self.server_port}/{self.key}/"
        self.url_once = f"http://{name}:{self.server_port}/{self._once}/"

    def is_first(self, key: str) -> bool:
        """Return whether `key` is that of `url_once`, which ends its use."""
        with self._gate:
            if self._once is None or not secrets.compare_digest(key.encode(), self._once.encode()):
                return False
            self._once = None
            return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a defect; a browser that leaves before its reply is none."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: InspectorServer
    server_version, sys_version = "memory-r1", ""
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a silent connection may keep its thread

    def do_GET(self) -> None:
        self._reply(self._get)

    def do_POST(self) -> None:
        self._reply(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the terminal holds the address, and requests name what people said."""

    def _reply(self, respond: Any) -> None:
        status, kind, more = HTTPStatus.OK, "application/json", dict[str, str]()
        try:
            body, kind = respond(self._path())
        except _Moved:
            status, body, more = HTTPStatus.SEE_OTHER, b"{}", {"Location": f"/{self.server.key}/"}
        except _Rejected as rejected:
            status, message = rejected.args
            body = json.dumps({"error": message}).encode()
            self.close_connection = True  # the request's body may be unread
        except MemoryR1Error as error:
            status, body = HTTPStatus.BAD_REQUEST, json.dumps({"error": " ".join(str(error).split())}).encode()
        self.send_response(status)
        for name, value in {**_HEADERS, **more, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _path(self) -> str:
        """Return the path below the secret, or reject the request."""
        if self.headers.get("Host") not in self.server.hosts:  # another name may be a rebound one of another site
            raise _Rejected(HTTPStatus.MISDIRECTED_REQUEST, "this host is not served here")
        key, slash, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        if slash and not path and self.server.is_first(key):
            raise _Moved
        if not slash or not secrets.compare_digest(key.encode(), self.server.key.encode()):
            raise _Rejected(HTTPStatus.NOT_FOUND, "open the address that inspect printed")
        return path

    def _get(self, path: str) -> tuple[bytes, str]:
        if path in _FILES:
            name, kind = _FILES[path]
            return resources.files("memory_r1.inspector").joinpath("page", name).read_bytes(), kind
        asked = {name: values[0] for name, values in parse_qs(self.path.partition("?")[2]).items()}
        api, scope = self.server.api, asked.get("scope", "")
        if path == "api/overview":
            return _json({**api.overview(), "token": self.server.token})
        if path == "api/records":
            page, around = _number(asked, "page"), _number(asked, "around") or 0
            return _json(api.records(scope, asked.get("show", "all"), asked.get("text", ""), page, around))
        if path == "api/state":
            return _json(api.state(scope, _number(asked, "at"), _number(asked, "start") or 0))
        if path == "api/entry":
            return _json(api.entry(scope, _number(asked, "id") or 0))
        if path == "api/search":
            return _json(api.search(scope, asked.get("query", "")))
        raise _Rejected(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _post(self, path: str) -> tuple[bytes, str]:
        if path not in ("api/ask", "api/undo"):
            raise _Rejected(HTTPStatus.NOT_FOUND, "there is nothing here")
        token = self.headers.get(TOKEN_HEADER, "")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise _Rejected(HTTPStatus.FORBIDDEN, "only the page itself may do this; reload it")
        asked = self._body()
        scope, api = str(asked.get("scope", "")), self.server.api
        if path == "api/ask":
            return _json(api.ask(scope, str(asked.get("question", ""))))
        return _json(api.undo(scope, _number(asked, "records") or 0))

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > _LARGEST_BODY:
            raise _Rejected(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {_LARGEST_BODY} bytes")
        try:
            asked = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise _Rejected(HTTPStatus.BAD_REQUEST, "send a JSON object") from error
        if not isinstance(asked, dict):
            raise _Rejected(HTTPStatus.BAD_REQUEST, "send a JSON object")
        return asked


def inspect(store: Inspected, *, host: str = "127.0.0.1", port: int = 0, open_browser: bool = True) -> None:
    """Serve the page of a memory until Ctrl-C; print its address and open it.

    Raises:
        ConfigurationError: The host is not this machine's loopback, or the port is taken.
    """
    with InspectorServer(store, host=host, port=port) as server:
        sys.stdout.write(f"{store.title}: {server.url}\n(Ctrl-C ends)\n")
        sys.stdout.flush()
        if open_browser:
            webbrowser.open(server.url_once)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _number(asked: dict[str, Any], name: str) -> int | None:
    """Return a number of the request, None if it has no such field, or reject it."""
    value = asked.get(name)
    if value is None:
        return None
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise _Rejected(HTTPStatus.BAD_REQUEST, f"{name} is {text[:20]!r}, not a number of at least 0")
    return int(text)


def _json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value).encode(), "application/json"
