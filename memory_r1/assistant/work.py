"""Work with the model, under one lock and in batches across users: store turns, answer questions.

Calls from many threads are computed together: whoever gets the lock next does the work of all who wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.assistant.system import GuardedMemory, Said, Written, key_of
from memory_r1.errors import MemoryR1Error
from memory_r1.systems.window import Query, fitted, recall_within
from memory_r1.types import Answer, Recall

Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Call(Generic[Request, Result]):
    request: Request
    outcome: Result | Exception | None = None


class Batcher(Generic[Request, Result]):
    """Runs single requests in batches.

    Args:
        run: Computes a batch: one result, or an exception in its place, for each request.
        lock: Held while `run` works; batchers that share a model share it.
    """

    def __init__(self, run: Callable[[Sequence[Request]], Sequence[Result | Exception]], lock: threading.Lock) -> None:
        self._run = run
        self._lock = lock
        self._waiting: list[_Call[Request, Result]] = []
        self._gate = threading.Lock()

    def submit(self, request: Request) -> Result:
        """Return the result of one request, or raise its exception, after the batch that it falls into."""
        call: _Call[Request, Result] = _Call(request)
        with self._gate:
            self._waiting.append(call)
        try:
            with self._lock:
                if call.outcome is None:  # no other thread has done it meanwhile
                    with self._gate:
                        calls = [each for each in self._waiting if each.outcome is None]
                    for each, outcome in zip(calls, self._outcomes(calls), strict=True):
                        each.outcome = outcome
        finally:
            with self._gate:
                self._waiting.remove(call)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        assert call.outcome is not None, "a batch has a result for every request"
        return call.outcome

    def _outcomes(self, calls: Sequence[_Call[Request, Result]]) -> Sequence[Result | Exception]:
        """Run a batch; if it fails, run each request alone, so that nobody pays for another's."""
        try:
            return self._run([call.request for call in calls])
        except Exception as error:  # raised again in the thread of each request that it belongs to
            if len(calls) == 1:
                return [error]
            return [outcome for call in calls for outcome in self._outcomes([call])]


@dataclass(frozen=True, slots=True)
class Write:
    """The turns of one call, said by or to one user."""

    scope: str
    turns: tuple[Said, ...]


class Work:
    """What needs the model or the retriever, which serve one thread at a time.

    Args:
        system: The memory system.
        agent: Answers questions.
    """

    def __init__(self, system: GuardedMemory, agent: AnswerAgent) -> None:
        self.lock = threading.Lock()
        self._system = system
        self._agent = agent
        self._writes = Batcher(self._write_batch, self.lock)
        self._answers = Batcher(self._answer_batch, self.lock)

    def write(self, scope: str, turns: tuple[Said, ...]) -> list[Written]:
        """Store the turns of one call, all or none."""
        return self._writes.submit(Write(scope, turns)) if turns else []

    def answer(self, query: Query) -> tuple[Recall, Answer]:
        """Answer a question; return what was recalled for it, too."""
        return self._answers.submit(query)

    def _write_batch(self, writes: Sequence[Write]) -> list[list[Written]]:
        for write in writes:
            key_of(self._system.assistant_log, write.scope)
        written = iter(self._system.write_turns([(turn, write.scope) for write in writes for turn in write.turns]))
        return [[next(written) for _ in write.turns] for write in writes]

    def _answer_batch(self, queries: Sequence[Query]) -> list[tuple[Recall, Answer] | Exception]:
        fit = [fitted(query, self._agent) for query in queries]
        asked = [query for query in fit if isinstance(query, Query)]
        recalls = recall_within(self._system, self._agent, asked)
        answers = self._agent.try_answer([query.request(recall) for query, recall in zip(asked, recalls, strict=True)])
        done = iter(zip(recalls, answers, strict=True))
        results: list[tuple[Recall, Answer] | Exception] = []
        for query in fit:
            if isinstance(query, Query):
                recall, answer = next(done)
                results.append(answer if isinstance(answer, MemoryR1Error) else (recall, answer))
            else:
                results.append(query)
        return results
