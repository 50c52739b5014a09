"""`Memory`: add what was said, search it, ask about it, and see or take back what became of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from memory_r1.assistant.guards import Guards
from memory_r1.assistant.loading import LANGUAGE_MODEL, Agents, load_agents, packaged_agents
from memory_r1.assistant.messages import (
    Messages,
    read_limit,
    read_messages,
    read_question,
    read_text,
    read_time,
    scope_of,
    seconds_between,
)
from memory_r1.assistant.results import Added, Answered, MemoryList
from memory_r1.assistant.stored import StoredMemory, default_store, make_file
from memory_r1.assistant.system import GuardedMemory
from memory_r1.assistant.view import refused
from memory_r1.assistant.work import Work
from memory_r1.systems.window import Query

IN_MEMORY = ":memory:"


class Memory(StoredMemory):
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
        StoreError: The file cannot be made, or is not a memory's.
    """

    def __init__(
        self,
        store: str | Path | None = None,
        *,
        agents: Agents | None = None,
        guards: Guards | None = None,
        session_gap: timedelta = timedelta(minutes=30),
    ) -> None:
        agents, guards = agents or packaged_agents(), guards or Guards()
        self._session_gap = session_gap.total_seconds()
        self._system = GuardedMemory(
            agents.manager,
            guards,
            recall_per_speaker=agents.recall_per_speaker,
            count_tokens=agents.answer.model.count_tokens,
        )
        if store != IN_MEMORY:
            path = default_store() if store is None else Path(store).expanduser()
            make_file(path)
            self._system.load(path, create=True)
        super().__init__(self._system.assistant_log, guards)
        self._work = Work(self._system, agents.answer)

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
        state = self.log.state(scope)
        if state.said_at and not state.ended and seconds_between(state.said_at, said_at) > self._session_gap:
            self._system.end_session(scope, state.said_at)
            state = self.log.state(scope)
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
        self._system.end_session(scope, self.log.state(scope).said_at)

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

    def _erase(self, scope: str, items: list[int] | None) -> int:
        with self._work.lock:
            return self._system.forget(scope, items)
