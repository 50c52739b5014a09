"""`Memory`: add what was said, search it, ask about it, and see or take back what became of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from memory_r1.assistant.guards import Guards
from memory_r1.assistant.history import changes_of
from memory_r1.assistant.loading import LANGUAGE_MODEL, Agents, load_agents, packaged_agents
from memory_r1.assistant.messages import (
    Messages,
    read_limit,
    read_messages,
    read_metadata,
    read_question,
    read_text,
    read_time,
    scope_of,
    seconds_between,
)
from memory_r1.assistant.results import Added, Answered, Change, Count, MemoryItem, MemoryList, Message
from memory_r1.assistant.system import GuardedMemory
from memory_r1.assistant.view import View, refused, unknown_id
from memory_r1.assistant.work import Work
from memory_r1.errors import DataError
from memory_r1.memory.record import Event, Record
from memory_r1.systems.state import ScopeState
from memory_r1.systems.window import Query
from memory_r1.types import MemoryEntry, OperationKind

IN_MEMORY = ":memory:"


def default_store() -> Path:
    """Return `memory_r1/memory.db` in the user's data folder (`XDG_DATA_HOME`, else `~/.local/share`)."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "memory_r1" / "memory.db"


class Memory:
    """What is known about each user, in one SQLite file.

    Every verb concerns one user, whom `user_id` or a memory's id names; none sees another's. A `Memory` may be used by
    many threads: what they add or ask at the same time is computed in one batch. Several processes may share a file.

    Args:
        store: The file, made if missing; ":memory:" keeps nothing. By default it lies in the user's data folder.
        agents: Who writes and answers; by default the adapters that come with the package.
        guards: What messages and the operations on them may do.
        session_gap: A message that comes longer after the last one starts a new session.

    Raises:
        ModelError: No adapters come with this installation.
        StoreError: The file is not a memory's.
    """

    def __init__(
        self,
        store: str | Path | None = None,
        *,
        agents: Agents | None = None,
        guards: Guards | None = None,
        session_gap: timedelta = timedelta(minutes=30),
    ) -> None:
        self.guards = guards or Guards()
        self._agents = agents or packaged_agents()
        self._session_gap = session_gap.total_seconds()
        self._system = GuardedMemory(
            self._agents.manager,
            self.guards,
            recall_per_speaker=self._agents.recall_per_speaker,
            count_tokens=self._agents.answer.model.count_tokens,
        )
        if store != IN_MEMORY:
            path = default_store() if store is None else Path(store).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._system.load(path, create=True)
        self._view = View(self._system)
        self._work = Work(self._system, self._agents.answer)

    @classmethod
    def from_adapters(
        cls,
        *,
        manager: str | Path,
        answer: str | Path,
        store: str | Path | None = None,
        model: str = LANGUAGE_MODEL.name,
        dtype: str | None = None,
        embedder: str | None = None,
        device: str | None = None,
        guards: Guards | None = None,
        session_gap: timedelta = timedelta(minutes=30),
    ) -> Self:
        """Open a memory with adapters of one's own; see `load_agents` for them, and the class for the rest."""
        agents = load_agents(manager, answer, model, dtype=dtype, embedder=embedder, device=device)
        return cls(store, agents=agents, guards=guards, session_gap=session_gap)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._system.log.close()

    def add(
        self,
        messages: Messages,
        *,
        user_id: str,
        at: str | datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        infer: bool = True,
    ) -> Added:
        """Tell the memory what was said; return the operations that the Memory Manager did on it.

        All messages are stored together or, if an error is raised, none.

        Args:
            messages: A text that the user said, or messages with `role`, `content` and perhaps the speaker's `name` and
                a `turn_id` to find them by in the log. Systems and tools are not heard; of a content in parts, only
                texts are.
            user_id: Whose memory it is.
            at: When it was said, a datetime or ISO 8601; by default now.
            metadata: JSON values to keep with the memories that come of it.
            infer: If false, store each message as it is, without asking the model.

        Raises:
            DataError: A message or `at` has another form, or there are too many messages.
            EndpointError: The model's server gave no usable reply.
        """
        scope, said_at = scope_of(user_id), read_time(at)
        state = self._system.state(scope)
        if state.said_at and not state.ended and seconds_between(state.said_at, said_at) > self._session_gap:
            self._system.end_session(scope, state.said_at)
            state = self._system.state(scope)
        heard = read_messages(
            messages,
            self.guards,
            state.bank.entries(),
            session_id=f"s{state.sessions}",
            at=said_at,
            metadata=metadata,
            verbatim=not infer,
        )
        written = self._work.write(scope, heard.turns)
        done = [operation for each in written for operation in self._view.done(scope, each)]
        not_done = [operation for each in written for operation in refused(each.record)]
        return Added(results=done, refused=not_done, masked=[*heard.masked], shortened=heard.shortened)

    def end_session(self, *, user_id: str) -> None:
        """End the user's session: the next message is read without those before it, and limits start anew."""
        scope = scope_of(user_id)
        self._system.end_session(scope, self._system.state(scope).said_at)

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        limit: int | None = None,
        filters: Mapping[str, Any] | None = None,
        top_k: int | None = None,
    ) -> MemoryList:
        """Return the memories that fit a query, best first by embeddings and words together.

        Args:
            query: What to look for.
            user_id: Whose memories; or `filters={"user_id": ...}`.
            limit: Most memories to return, by default 20; `top_k` is the same.

        Raises:
            DataError: The query is no text or empty, or the limit is no number.
        """
        scope, query = scope_of(user_id, filters), read_question("query", query)
        most = read_limit(limit, top_k)
        with self._work.lock:
            found = self._system.search(query, scope, 20 if most is None else most)
        results = self._view.items(scope, [entry for entry, _ in found])
        for item, (_, score) in zip(results, found, strict=True):
            item["score"] = score
        return MemoryList(results=results)

    def answer(self, question: str, *, user_id: str, at: str | datetime | None = None) -> Answered:
        """Answer a question from the user's memories; nothing is stored.

        Args:
            question: The question.
            user_id: Whose memories.
            at: When it is asked; by default now.

        Raises:
            DataError: The question is no text or empty, or `at` is no time.
            EndpointError: The model's server gave no usable reply.
            PromptTooLongError: The question leaves no room for memories in the model's window.
        """
        started = time.perf_counter()
        scope, asked_at = scope_of(user_id), read_time(at)
        asked = read_question("question", self.guards.line(read_text("question", question)))
        recall, answer = self._work.answer(Query(asked, scope, scope, now=asked_at, asked_at=asked_at))
        recalled = {entry.entry_id: entry for entry in recall.items}
        return Answered(
            answer=answer.text,
            relied_on=self._view.items(scope, [recalled[each] for each in answer.distilled if each in recalled]),
            recalled=self._view.items(scope, recall.items),
            seconds=time.perf_counter() - started,
        )

    def get_all(
        self,
        *,
        user_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        limit: int | None = None,
        top_k: int | None = None,
    ) -> MemoryList:
        """Return the user's memories, oldest first; all, or the first `limit`."""
        scope = scope_of(user_id, filters)
        return MemoryList(results=self._view.items(scope, self._system.entries(scope)[: read_limit(limit, top_k)]))

    def get(self, memory_id: str, *, user_id: str | None = None) -> MemoryItem | None:
        """Return one memory, or None if there is none with this id."""
        found = self._view.find(memory_id, user_id)
        entry = found and found[2].bank.find(found[1])
        return self._view.items(found[0], [entry])[0] if found and entry else None

    def update(
        self,
        memory_id: str,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        data: str | None = None,
        user_id: str | None = None,
    ) -> Message:
        """Replace the text of a memory, add to its metadata, or both; `data` is the older name of `text`.

        Raises:
            DataError: No live memory has this id, neither text nor metadata is given, the text is empty or too long, or
                the metadata is not JSON.
        """
        if text is not None and data is not None:
            raise DataError("text and data are two names of one text: give one of them")
        said, added = (text if data is None else data), read_metadata(metadata)
        if said is None and metadata is None:
            raise DataError("there is nothing to update: give a text, metadata, or both")
        new = None if said is None else self._memory_text(said)
        scope, item = self._view.known(memory_id, user_id)
        now = read_time(None)

        def decide(entry: MemoryEntry) -> Event:
            version = {
                "text": entry.text if new is None else new,
                "speaker": entry.speaker,
                "timestamp": now,
                "turn_ids": list(entry.source_turn_ids),
            }
            return Event(OperationKind.UPDATE, item, version | ({"metadata": added} if added else {}))

        self._edit(memory_id, scope, item, decide)
        return Message(message="Memory updated successfully!")

    def delete(self, memory_id: str, *, user_id: str | None = None) -> Message:
        """Delete a memory; its history stays, and `undo` brings it back.

        Raises:
            DataError: No live memory has this id.
        """
        scope, item = self._view.known(memory_id, user_id)
        self._edit(memory_id, scope, item, lambda entry: Event(OperationKind.DELETE, item))
        return Message(message="Memory deleted successfully!")

    def delete_all(self, user_id: str) -> Message:
        """Delete all memories of a user; histories stay, and `undo` brings back one at a time."""
        scope = scope_of(user_id)
        if self._system.entries(scope):
            self._system.log.write(
                [
                    (
                        scope,
                        lambda now: Record(
                            events=tuple(Event(OperationKind.DELETE, each.entry_id) for each in now.bank.entries())
                        ),
                    )
                ]
            )
        return Message(message="Memories deleted successfully!")

    def history(self, memory_id: str, *, user_id: str | None = None) -> list[Change]:
        """Return all that happened to a memory, oldest first, with the message that caused it.

        Raises:
            DataError: There never was a memory with this id.
        """
        scope, item = self._view.known(memory_id, user_id)
        return changes_of(memory_id, self._system.log.history(scope, item))

    def undo(self, *, user_id: str, count: int = 1) -> Count:
        """Take back the latest `count` operations on the user's memories, newest first, and say how many stood."""
        undone = self._system.log.undo(scope_of(user_id), count)
        return Count(message="Operations undone.", count=undone)

    def redo(self, *, user_id: str, count: int = 1) -> Count:
        """Restore the latest undone operations, if nothing was done since."""
        return Count(message="Operations restored.", count=self._system.log.redo(scope_of(user_id), count))

    def forget(self, memory_id: str | None = None, *, user_id: str | None = None) -> Count:
        """Erase a memory, or all of a user's, for good: texts, history, source messages, down to the file's bytes.

        Raises:
            DataError: There never was a memory with this id.
            ScopeError: Neither a memory nor a user is named.
            StoreError: Another process is using the file; the memory is erased, but bytes of it may be left.
        """
        scope, item = (scope_of(user_id), None) if memory_id is None else self._view.known(memory_id, user_id)
        with self._work.lock:
            return Count(
                message="Memories erased for good.", count=self._system.forget(scope, None if item is None else [item])
            )

    def reset(self) -> Message:
        """Erase the memories of all users for good."""
        for scope in self._system.log.scopes():
            self.forget(user_id=scope)
        return Message(message="All memories erased for good.")

    def _memory_text(self, text: object) -> str:
        """Return a caller's text as it is stored."""
        said, longest = read_text("text", text), self.guards.max_memory_characters
        stored = self.guards.memory(said) if longest is None or len(said) <= longest else ""
        if not stored.strip():
            raise DataError(f"text has {len(said)} characters: give from 1 to {longest or 'any number'}")
        return stored

    def _edit(self, memory_id: str, scope: str, item: int, event: Callable[[MemoryEntry], Event]) -> None:
        """Write the event that `event` makes of the live entry, in one transaction."""

        def decide(now: ScopeState) -> Record:
            entry = now.bank.find(item)
            if entry is None:
                raise unknown_id(memory_id)
            return Record(events=(event(entry),))

        self._system.log.write([(scope, decide)])
