"""Judges, local or behind a server, and a cache of their replies on disk, so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from memory_r1.errors import EndpointError, PromptTooLongError, StoreError
from memory_r1.inference.endpoint import ChatReply, Endpoint, NotAskedError, ServerDownError
from memory_r1.inference.language_model import Completion, LanguageModel, Messages
from memory_r1.packaged_models import cache_folder

Outcome = Completion | EndpointError | PromptTooLongError | None
"""The outcome of a request; None if it was not sent because earlier ones had failed."""

REPLIES = "replies.sqlite3"


class JudgeModel(Protocol):
    """A model that judges greedily. Replies are cached by its name, so equal names must mean equal replies."""

    @property
    def name(self) -> str:
        """The name that identifies the model."""
        ...

    def ask(
        self, conversations: Sequence[Messages], max_tokens: int, on_outcome: Callable[[int, Outcome], None]
    ) -> None:
        """Pass each conversation's number and outcome to `on_outcome` as soon as it is known."""
        ...


class ServerJudge:
    """A judge behind an OpenAI-compatible server, with its endpoint's limits, retries, key and circuit breaker."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        """The server's name for the model."""
        return self.endpoint.model

    def ask(
        self, conversations: Sequence[Messages], max_tokens: int, on_outcome: Callable[[int, Outcome], None]
    ) -> None:
        def hand_over(number: int, reply: ChatReply | EndpointError) -> None:
            if isinstance(reply, ChatReply):
                on_outcome(number, Completion(reply.text, reply.prompt_tokens, reply.completion_tokens))
            else:
                on_outcome(number, None if isinstance(reply, NotAskedError) else reply)

        self.endpoint.chat_many(conversations, max_tokens=max_tokens, temperature=0.0, on_reply=hand_over)


class LocalJudge:
    """A language model in this process as a judge.

    Args:
        model: Generates the replies.
        name: See `JudgeModel.name`; include the hash of the weights if the folder may be retrained.
        batch_size: Number of conversations per call of `model`.
    """

    def __init__(self, model: LanguageModel, name: str, batch_size: int = 16) -> None:
        self.model = model
        self.name = name
        self.batch_size = batch_size

    def ask(
        self, conversations: Sequence[Messages], max_tokens: int, on_outcome: Callable[[int, Outcome], None]
    ) -> None:
        for start in range(0, len(conversations), self.batch_size):
            batch = conversations[start : start + self.batch_size]
            outcomes: Sequence[Outcome]
            try:
                outcomes = self.model.generate(batch, max_new_tokens=max_tokens, temperature=0.0)
            except PromptTooLongError:  # one long prompt fails the whole batch
                outcomes = [self._alone(messages, max_tokens) for messages in batch]
            for number, outcome in enumerate(outcomes, start=start):
                on_outcome(number, outcome)

    def _alone(self, messages: Messages, max_tokens: int) -> Outcome:
        try:
            return self.model.generate([messages], max_new_tokens=max_tokens, temperature=0.0)[0]
        except PromptTooLongError as error:
            return error


class ReplyCache:
    """Replies by the hash of their request, in one SQLite file shared by several processes.

    Args:
        folder: Folder of the file; by default `judge` in the cache folder.

    Raises:
        StoreError: The file is damaged or cannot be written; every method may raise this.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = cache_folder() / "judge" if folder is None else Path(folder)
        self.path = self.folder / REPLIES
        with self._errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            try:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS replies (sha256 TEXT PRIMARY KEY, judge TEXT NOT NULL, "
                    "reply TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL)"
                )
            except BaseException:
                self._connection.close()
                raise

    def get(self, sha256: str) -> Completion | None:
        """Return the cached reply to a request, or None."""
        query = "SELECT reply, prompt_tokens, completion_tokens FROM replies WHERE sha256 = ?"
        with self._errors():
            row = self._connection.execute(query, (sha256,)).fetchone()
            return None if row is None else Completion(json.loads(row[0]), row[1], row[2])

    def keep(self, sha256: str, judge: str, reply: Completion) -> None:
        """Store a reply; if two processes asked at the same time, the first reply counts."""
        # As JSON, since SQLite does not accept lone surrogates.
        row = (sha256, judge, json.dumps(reply.text), reply.prompt_tokens, reply.completion_tokens)
        with self._errors():
            self._connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise StoreError(
                f"the judge's replies in {self.path} cannot be read or written ({error}): delete the file (the judge "
                "is then asked again) or name another folder"
            ) from error


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """A judge's reply to a request with its source, or the failure."""

    completion: Completion | None
    source: Literal["asked", "cache", "none"]
    failure: Literal["unreachable", "rejected"] | None = None
    detail: str = ""


class CachedJudge:
    """A judge that gets each request only once, from all processes that share the cache."""

    def __init__(self, model: JudgeModel, cache: ReplyCache) -> None:
        self.model = model
        self.cache = cache

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def digest(self, messages: Messages, max_tokens: int) -> str:
        """Return the SHA-256 of everything that determines the reply: the model, the messages and the token limit."""
        return hashlib.sha256(json.dumps([self.name, messages, max_tokens]).encode()).hexdigest()

    def ask(
        self, conversations: Sequence[Messages], max_tokens: int, on_reply: Callable[[int, JudgeReply], None]
    ) -> None:
        """Pass each conversation's number and reply to `on_reply` as soon as it is cached.

        Equal conversations are asked once. Failures are not cached, so a later call asks again.
        """
        numbers: dict[str, list[int]] = {}
        for number, messages in enumerate(conversations):
            numbers.setdefault(self.digest(messages, max_tokens), []).append(number)
        missing = []
        for digest, equal in numbers.items():
            known = self.cache.get(digest)
            if known is None:
                missing.append(digest)
            for number in equal if known is not None else ():
                on_reply(number, JudgeReply(known, "cache"))

        def receive(position: int, outcome: Outcome) -> None:
            first, *others = numbers[missing[position]]
            reply = _reply(outcome)
            if reply.completion is not None:
                self.cache.keep(missing[position], self.name, reply.completion)
            on_reply(first, reply)
            for number in others:
                kept = JudgeReply(reply.completion, "none" if reply.failure else "cache", reply.failure, reply.detail)
                on_reply(number, kept)

        if missing:
            self.model.ask([conversations[numbers[digest][0]] for digest in missing], max_tokens, receive)


def _reply(outcome: Outcome) -> JudgeReply:
    if isinstance(outcome, Completion):
        return JudgeReply(outcome, "asked")
    if outcome is None:
        return JudgeReply(None, "none", "unreachable", "not asked: the requests before had failed")
    down = isinstance(outcome, ServerDownError)
    return JudgeReply(None, "asked", "unreachable" if down else "rejected", str(outcome))
