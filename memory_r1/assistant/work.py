"""Work with the model, under one lock and in batches across users: store turns, answer questions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.assistant.batching import Batcher
from memory_r1.assistant.system import GuardedMemory, Said, Written
from memory_r1.errors import MemoryR1Error, PromptTooLongError
from memory_r1.systems.window import Query, recall_within
from memory_r1.types import Answer, Recall


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
            self._system.key(write.scope)
        written = iter(self._system.write_turns([(turn, write.scope) for write in writes for turn in write.turns]))
        return [[next(written) for _ in write.turns] for write in writes]

    def _answer_batch(self, queries: Sequence[Query]) -> list[tuple[Recall, Answer] | Exception]:
        agent = self._agent
        rooms = [agent.room(query.request(Recall(()))) for query in queries]
        fit = [
            replace(query, budget_tokens=room)
            for query, room in zip(queries, rooms, strict=True)
            if room is None or room > 0
        ]
        recalls = recall_within(self._system, agent, fit)
        answers = agent.try_answer([query.request(recall) for query, recall in zip(fit, recalls, strict=True)])
        done = iter(zip(recalls, answers, strict=True))
        results: list[tuple[Recall, Answer] | Exception] = []
        for room in rooms:
            if room is not None and room < 1:
                results.append(PromptTooLongError("the question fills the model's window: ask a shorter one"))
                continue
            recall, answer = next(done)
            results.append(answer if isinstance(answer, MemoryR1Error) else (recall, answer))
        return results
