"""Recall for questions within the window of the Answer Agent's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
from memory_r1.errors import PromptTooLongError
from memory_r1.systems.base import MemorySystem, RecallRequest
from memory_r1.types import Recall


@dataclass(frozen=True, slots=True)
class Query:
    """A question to a scope.

    Attributes:
        question: Its text.
        scope: Whose memories are recalled.
        name: Names the question in errors.
        now: Time of the recall, ISO 8601.
        asked_at: Time that the prompt shows, or empty for none.
        budget_tokens: Most tokens of the recalled entries; None for no limit.
    """

    question: str
    scope: str
    name: str
    now: str = ""
    asked_at: str = ""
    budget_tokens: int | None = None

    def request(self, recall: Recall) -> AnswerRequest:
        """Return the request to the Answer Agent."""
        return AnswerRequest(self.question, recall, self.asked_at)


def fitted(query: Query, agent: AnswerAgent) -> Query | PromptTooLongError:
    """Return a query whose budget is what the model's window leaves for memories, or an error if that is nothing."""
    room = agent.room(query.request(Recall(())))
    if room is not None and room < 1:
        return PromptTooLongError("the question fills the model's window: ask a shorter one")
    return replace(query, budget_tokens=room)


def recall_within(system: MemorySystem, agent: AnswerAgent, queries: Sequence[Query]) -> list[Recall]:
    """Recall memories so that every prompt fits the model's window.

    A budget covers only the entries. If a prompt is still too long, for example because of a heading per speaker, its
    memories are recalled again with a smaller budget, so that the system's own rule decides what to cut.

    Raises:
        PromptTooLongError: The system exceeds a budget of 0 tokens.
    """
    requests = [RecallRequest(query.question, query.scope, query.now, query.budget_tokens) for query in queries]
    recalls = system.recall_many(requests)
    left = list(range(len(queries)))
    while left:
        rooms = {place: agent.room(queries[place].request(recalls[place])) for place in left}
        left = []
        for place, room in rooms.items():
            budget = requests[place].budget_tokens
            if room is None or room >= 0 or budget is None:
                continue
            if budget == 0:
                raise PromptTooLongError(
                    f"memory system {system.name!r} recalls more for {queries[place].name!r} than its budget of 0 "
                    "tokens"
                )
            requests[place] = replace(requests[place], budget_tokens=max(0, budget + room))
            left.append(place)
        if left:
            again = system.recall_many([requests[place] for place in left])
            for place, recall in zip(left, again, strict=True):
                recalls[place] = recall
    return recalls
