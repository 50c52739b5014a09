"""Chat calls to an OpenAI-compatible server, with limits, retries, time-outs and typed errors."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, omit

from memory_r1.errors import ConfigurationError, EndpointError

Messages = list[dict[str, str]]

# Statuses that the client retries, besides every 5xx: time-outs, conflicts, too many requests.
PASSING_STATUSES = frozenset({408, 409, 429})
LONGEST_PAUSE = 120.0  # seconds for which the client obeys a server that asks it to wait
SHOWN = 200  # characters of a server's message that an error repeats


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
        timeout: Seconds that one attempt may take on average.
        retries: Attempts after the first one; the openai client pauses in between, or as long as the server asks.
        concurrency: Most requests at a time.
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
        cool_down: float = 30.0,
    ) -> None:
        self.base_url = check_address(base_url)
        self.model = model
        self.key_variable = key_variable
        self.timeout = timeout
        self.retries = retries
        self.concurrency = concurrency
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
        """Return a reply, or an error in its place, for each conversation, in order.

        The caller needs no event loop; a running one, as in a notebook, waits.

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

        options: dict[str, Any] = {"model": model or self.model, "max_tokens": max_tokens, "temperature": temperature}
        options |= {} if seed is None else {"seed": seed}
        options |= {"extra_body": extra} if extra else {}

        async def one(
            messages: Messages, client: AsyncOpenAI, taking_turns: asyncio.Semaphore
        ) -> ChatReply | EndpointError:
            async with taking_turns:
                if self._was_down and monotonic() < self._asked_again_at:
                    failed = self._failed_in_a_row
                    return NotAskedError(f"{self.base_url}: not asked: {failed} requests in a row had failed")
                try:
                    reply = await self._ask(client, messages, options)
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
            number: int, messages: Messages, client: AsyncOpenAI, taking_turns: asyncio.Semaphore
        ) -> ChatReply | EndpointError:
            reply = await one(messages, client, taking_turns)
            on_reply(number, reply)
            return reply

        async def run() -> list[ChatReply | EndpointError]:
            turns = asyncio.Semaphore(self.concurrency)
            async with self._client() as client:  # one for all requests, to reuse connections
                return await asyncio.gather(*(told(*each, client, turns) for each in enumerate(conversations)))

        if not _runs_a_loop():
            return asyncio.run(run())
        with ThreadPoolExecutor(1) as thread:  # this one can run no second loop
            return thread.submit(asyncio.run, run()).result()

    @property
    def _was_down(self) -> bool:
        return self._failed_in_a_row >= self.concurrency

    async def _ask(self, client: AsyncOpenAI, messages: Messages, options: Mapping[str, Any]) -> ChatReply:
        """Ask once and, unless the server was down, as often again as allowed."""
        retries = 0 if self._was_down else self.retries
        completions = client.with_options(max_retries=retries).chat.completions.with_raw_response
        headers = {} if self._key() else {"Authorization": omit}
        seconds = (retries + 1) * self.timeout + retries * LONGEST_PAUSE
        try:
            # The client bounds single reads, which a server that drips bytes never exceeds.
            async with asyncio.timeout(seconds):
                response = await completions.create(
                    messages=messages,  # type: ignore[arg-type]  # plain dictionaries, as every server takes them
                    extra_headers=headers,
                    **options,
                )
        except TimeoutError as error:
            raise ServerDownError(f"{self.base_url}: no reply within {seconds:g} seconds") from error
        except APIStatusError as error:
            down = error.status_code >= 500 or error.status_code in PASSING_STATUSES
            message = f"{self.base_url}: HTTP {error.status_code}: {self._shown(error.response.text)}"
            raise (ServerDownError if down else EndpointError)(message) from error
        except APIConnectionError as error:
            cause = error.__cause__ or error
            raise ServerDownError(f"{self.base_url}: {type(cause).__name__}: {self._shown(str(cause))}") from error
        return self._read(response.content)

    def _read(self, content: bytes) -> ChatReply:
        try:
            completion = json.loads(content)
            text = completion["choices"][0]["message"]["content"]
            usage = completion.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            found = self._shown(content.decode(errors="replace"))
            raise ServerDownError(f"{self.base_url}: not a chat completion: {found}") from error
        if not isinstance(text, str):
            found = self._shown(content.decode(errors="replace"))
            raise ServerDownError(f"{self.base_url}: the reply holds no text: {found}")
        return ChatReply(text, *counts)

    def _client(self) -> AsyncOpenAI:
        # Requests queue for the semaphore, not for a connection: waiting there would count towards the time-out.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self.concurrency)
        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key() or "unset",  # the client insists on one; `_ask` leaves it out of the request
            http_client=httpx2.AsyncClient(
                timeout=self.timeout, trust_env=not is_loopback(self.base_url), verify=self._tls, limits=limits
            ),
        )

    def _key(self) -> str | None:
        """The key, if there is one and nobody on the way can read it."""
        private = self.base_url.startswith("https://") or is_loopback(self.base_url)
        return os.environ.get(self.key_variable) or None if private else None

    def _shown(self, text: str) -> str:
        """Shorten a server's message to one line, and redact the key."""
        key = os.environ.get(self.key_variable)
        line = " ".join((text.replace(key, "[key]") if key else text).split())
        return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


class ServerDownError(EndpointError):
    """No attempt reached a working server; if the server refuses a request, that is a plain `EndpointError`."""


class NotAskedError(EndpointError):
    """A request was not sent, because the server counts as down."""


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


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
