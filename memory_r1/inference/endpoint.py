"""Chat calls to an OpenAI-compatible server, with limits, retries, time-outs and typed errors."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx2

from memory_r1.errors import ConfigurationError, EndpointError

Messages = list[dict[str, str]]

# Statuses worth a retry, besides every 5xx: time-outs, conflicts, too many requests.
PASSING_STATUSES = frozenset({408, 409, 425, 429})
LONGEST_PAUSE = 30.0  # seconds
SHOWN = 200  # characters of a server's message quoted in an error


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A server's reply and its token counts (0 if the server gives none)."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Endpoint:
    """One model behind an OpenAI-compatible `/chat/completions`, as served by `vllm serve`.

    The key is read from the environment at each call, sent only over TLS or to this machine, and kept out of errors and
    logs. Redirects are not followed, and calls to this machine bypass proxies.

    Args:
        base_url: Address with the API version, e.g. `http://127.0.0.1:8000/v1`.
        model: The server's name for the model.
        key_variable: Environment variable that holds the key; if unset, none is sent.
        timeout: Seconds that one attempt may take in total.
        retries: Attempts after the first one.
        concurrency: Most requests at a time.
        backoff: Seconds before the first retry; doubled each time, with jitter.
        cool_down: Seconds for which `chat_many` spares a server that is down.

    Raises:
        ConfigurationError: `base_url` is not an http(s) address without credentials.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 3,
        concurrency: int = 16,
        backoff: float = 0.5,
        cool_down: float = 30.0,
    ) -> None:
        self.base_url = check_address(base_url)
        self.model = model
        self.key_variable = key_variable
        self.timeout = timeout
        self.retries = retries
        self.concurrency = concurrency
        self.backoff = backoff
        self.cool_down = cool_down
        self._failed_in_a_row = 0
        self._asked_again_at = 0.0
        # Read the certificates only once: that takes longer than a call to this machine.
        self._tls = httpx2.create_ssl_context()

    def chat_many(
        self,
        conversations: Sequence[Messages],
        *,
        max_tokens: int,
        temperature: float,
        seed: int | None = None,
        model: str | None = None,
        extra: Mapping[str, Any] | None = None,
        on_reply: Callable[[int, ChatReply | EndpointError], None] = lambda number, reply: None,
    ) -> list[ChatReply | EndpointError]:
        """Return a reply, or an error in its place, for each conversation, in order. The caller needs no event loop.

        The server counts as down once `concurrency` conversations in a row, in this batch or earlier ones, have failed
        on all attempts. For `cool_down` seconds no batch sends anything (`NotAskedError`). Afterwards each conversation
        gets one attempt; until one succeeds, each failure starts another pause. A request that the server refuses does
        not count as a failure here.

        Args:
            conversations: Each a list of messages, oldest first.
            max_tokens: Longest reply.
            temperature: 0 is greedy.
            seed: The server's sampling seed.
            model: Replaces the endpoint's model, e.g. by a LoRA module.
            extra: Additional request fields that this server knows.
            on_reply: Called with each conversation's number and reply as soon as the reply arrives.
        """

        options = self._options(max_tokens, temperature, seed, model, extra)

        async def one(
            messages: Messages, client: httpx2.AsyncClient, taking_turns: asyncio.Semaphore
        ) -> ChatReply | EndpointError:
            async with taking_turns:
                if self._was_down and monotonic() < self._asked_again_at:
                    failed = self._failed_in_a_row
                    return NotAskedError(f"{self.base_url}: not asked: {failed} requests in a row had failed")
                try:
                    reply = await self._ask(client, {**options, "messages": messages})
                except ServerDownError as error:
                    self._failed_in_a_row += 1
                    if self._was_down:
                        self._asked_again_at = monotonic() + self.cool_down
                    return error
                except EndpointError as error:
                    self._failed_in_a_row = 0
                    return error
                self._failed_in_a_row = 0
                return reply

        async def told(
            number: int, messages: Messages, client: httpx2.AsyncClient, taking_turns: asyncio.Semaphore
        ) -> ChatReply | EndpointError:
            reply = await one(messages, client, taking_turns)
            on_reply(number, reply)
            return reply

        async def run() -> list[ChatReply | EndpointError]:
            turns = asyncio.Semaphore(self.concurrency)
            async with self._client() as client:  # one for all requests, to reuse connections
                return await asyncio.gather(*(told(*each, client, turns) for each in enumerate(conversations)))

        return asyncio.run(run())

    @property
    def _was_down(self) -> bool:
        return self._failed_in_a_row >= self.concurrency

    def _options(
        self,
        max_tokens: int,
        temperature: float,
        seed: int | None,
        model: str | None,
        extra: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Return the request body without its conversation."""
        options: dict[str, Any] = {**(extra or {}), "model": model or self.model, "max_tokens": max_tokens}
        options["temperature"] = temperature
        return options if seed is None else {**options, "seed": seed}

    async def _ask(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> ChatReply:
        # One attempt shows whether a server that was down is back.
        retries = 0 if self._was_down else self.retries
        for attempt in range(retries + 1):
            try:
                return await self._attempt(client, body)
            except _Passing as failure:
                if attempt == retries:
                    raise ServerDownError(f"{failure} (attempt {attempt + 1}, the last)") from failure
                await asyncio.sleep(self._pause(attempt, failure.wait))
        raise AssertionError("unreachable: the loop returns or raises")

    async def _attempt(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> ChatReply:
        try:
            # The client's own time-outs bound single reads, which a server that drips bytes never exceeds.
            async with asyncio.timeout(self.timeout):
                response = await client.post(f"{self.base_url}/chat/completions", json=body, headers=self._headers())
        except TimeoutError as error:
            raise _Passing(f"{self.base_url}: no reply within {self.timeout:g} seconds") from error
        except httpx2.HTTPError as error:
            raise _Passing(f"{self.base_url}: {type(error).__name__}: {self._shown(str(error))}") from error
        status = response.status_code
        if status >= 500 or status in PASSING_STATUSES:
            message = f"{self.base_url}: HTTP {status}: {self._shown(response.text)}"
            raise _Passing(message, _seconds(response.headers.get("retry-after")))
        if status != 200:
            raise EndpointError(f"{self.base_url}: HTTP {status}: {self._shown(response.text)}")
        return self._read(response)

    def _read(self, response: httpx2.Response) -> ChatReply:
        try:
            content = response.json()
            text = content["choices"][0]["message"]["content"]
            usage = content.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Passing(f"{self.base_url}: not a chat completion: {self._shown(response.text)}") from error
        if not isinstance(text, str):
            raise _Passing(f"{self.base_url}: the reply holds no text: {self._shown(response.text)}")
        return ChatReply(text, *counts)

    def _client(self) -> httpx2.AsyncClient:
        local = is_loopback(self.base_url)
        # Requests queue for the semaphore, not for a connection: waiting there would count towards the time-out.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self.concurrency)
        return httpx2.AsyncClient(timeout=self.timeout, trust_env=not local, verify=self._tls, limits=limits)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_variable)
        private = self.base_url.startswith("https://") or is_loopback(self.base_url)
        return {"Authorization": f"Bearer {key}"} if key and private else {}

    def _shown(self, text: str) -> str:
        """Shorten a server's message to one line, and redact the key."""
        key = os.environ.get(self.key_variable)
        line = " ".join((text.replace(key, "[key]") if key else text).split())
        return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Return an exponential back-off in seconds, with jitter so that requests that failed together spread out."""
        pause = self.backoff * 2**attempt * random.uniform(0.5, 1.0)
        return min(LONGEST_PAUSE, max(pause, asked or 0.0))


class ServerDownError(EndpointError):
    """No attempt reached a working server; if the server refuses a request, that is a plain `EndpointError`."""


class NotAskedError(EndpointError):
    """A request was not sent, because the server counts as down."""


class _Passing(Exception):
    """A failure that a retry may mend; `wait` is the pause that the server asks for, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def check_address(base_url: str) -> str:
    """Return the address without a trailing slash.

    Raises:
        ConfigurationError: It is not an http(s) address, or it holds credentials, which would end up in logs.
    """
    allowed = "allowed: http(s)://host[:port]/v1, the key in an environment variable"
    try:
        url = httpx2.URL(base_url)
    except (httpx2.InvalidURL, TypeError) as error:
        raise ConfigurationError(f"server address: found no address, {allowed}") from error
    if url.userinfo:
        raise ConfigurationError(f"server address: found credentials in it, {allowed}")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigurationError(f"server address: found '{base_url}', {allowed}")
    return base_url.rstrip("/")


def is_loopback(base_url: str) -> bool:
    """Return whether an address names this machine."""
    host = httpx2.URL(base_url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(header: str | None) -> float | None:
    try:
        return float(header) if header else None
    except ValueError:
        return None
