"""What the verbs of `Memory` return: plain dictionaries, in mem0's shapes where mem0 has the verb.

All times are ISO 8601.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict


class MemoryItem(TypedDict):
    """One live memory.

    `created_at` and `updated_at` are when its first and its newest version were said; `actor_id` is who said the
    newest. `score`, in a search, is the cosine similarity to the query, or None if the recall uses no embeddings.
    """

    id: str
    memory: str
    hash: str
    metadata: Mapping[str, Any] | None
    created_at: str
    updated_at: str
    user_id: str
    actor_id: str
    score: NotRequired[float | None]


class MemoryList(TypedDict):
    """Memories of one user."""

    results: list[MemoryItem]


class OperationDone(TypedDict):
    """One operation on the memory: `event` is ADD, UPDATE or DELETE, and `memory` its text (of a DELETE, the old one).

    `previous_memory` is the text before an UPDATE.
    """

    id: str
    memory: str
    event: str
    previous_memory: NotRequired[str]


class OperationRefused(TypedDict):
    """An operation that the model proposed and that was not done: the reason, and the operation as JSON.

    If the model wrote no readable operations, its whole completion stands here.
    """

    reason: str
    operation: str


class Added(TypedDict):
    """What an `add` did.

    `masked` names the kinds of the secrets that were masked, and `shortened` counts the messages that were cut to the
    allowed length.
    """

    results: list[OperationDone]
    refused: list[OperationRefused]
    masked: list[str]
    shortened: int


class Answered(TypedDict):
    """An answer: the memories that it relies on, all that were recalled for it, and the seconds that it took."""

    answer: str
    relied_on: list[MemoryItem]
    recalled: list[MemoryItem]
    seconds: float


class Change(TypedDict):
    """One event in the history of a memory, oldest first.

    `event` is ADD, UPDATE, DELETE, UNDO, REDO or FORGET. `source` is the message that caused it, or None if a call did.
    """

    id: str
    memory_id: str
    old_memory: str | None
    new_memory: str | None
    event: str
    created_at: str
    updated_at: str
    is_deleted: bool
    actor_id: str | None
    source: str | None


class Message(TypedDict):
    """A sentence that says what was done."""

    message: str


class Count(TypedDict):
    """A sentence that says what was done, and how many times."""

    message: str
    count: int
