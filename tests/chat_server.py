"""A local stand-in for an OpenAI-compatible chat server, well-behaved or broken as a test needs."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""Status and content: JSON, raw bytes, or an iterator of bytes to send slowly."""


def reply(text: str, prompt_tokens: int = 0, completion_tokens: int = 0) -> Answer:
    """Build a chat completion as servers send it."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


class ChatServer:
    """Serves on a free loopback port inside a `with` block; `requests` records (body, headers) of each call.

    Args:
        answer: Maps a request's (body, headers) to its answer; called from several threads.
        keep_alive: Leave connections open for further requests (HTTP/1.1).
        requests_a_connection: Close a connection without notice after this many requests; 0 never does.
        pause_ms: Milliseconds that a client is asked to wait before it tries again; short, so that no test waits.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any], dict[str, str]], Answer],
        *,
        keep_alive: bool = False,
        requests_a_connection: int = 0,
        pause_ms: int = 1,
    ) -> None:
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.connections = self.open_connections = 0
        kept, counts, lock = self.requests, self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"

            def setup(self) -> None:
                super().setup()
                self.served = 0
                with lock:
                    counts.connections += 1
                    counts.open_connections += 1

            def finish(self) -> None:
                super().finish()
                with lock:
                    counts.open_connections -= 1

            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = {key.title(): value for key, value in self.headers.items()}
                kept.append((body, headers))
                status, content = answer(body, headers)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client may give up
                    self._send(status, content)
                self.served += 1
                if self.served == requests_a_connection:
                    self.close_connection = True

            def _send(self, status: int, content: Any) -> None:
                self.send_response(status)
                self.send_header("Retry-After-Ms", str(pause_ms))
                if isinstance(content, Iterator):
                    self.end_headers()
                    for part in content:
                        self.wfile.write(part)
                        self.wfile.flush()
                        time.sleep(0.05)
                    return
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
