"""The frozen Answer Agent in a manager's reward: banks and questions in, answers out, each distinct prompt once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
from memory_r1.errors import MemoryR1Error
from memory_r1.inference.remembered import Remembered
from memory_r1.memory.retriever import RetrievalRequest, Retriever
from memory_r1.types import Answer, MemoryEntry, Question, Recall

logger = logging.getLogger(__name__)

ENTRY_COST = "entry_cost"
"""Name of the reward that charges for a bank's entries, beside the rewards that question the bank."""

# The question, its time and the recalled memories determine a greedy answer.
_Key = tuple[str, str, tuple[MemoryEntry, ...]]


@dataclass(frozen=True, slots=True)
class BankQuestion:
    """A question put to a bank."""

    question: Question
    entries: tuple[MemoryEntry, ...]
    speakers: tuple[str, ...]


class BankRecall:
    """Retrieves from each bank that is asked.

    Args:
        retriever: The retriever the evaluated system uses too.
        recall_per_speaker: Memories recalled per speaker.
    """

    def __init__(self, retriever: Retriever, recall_per_speaker: int) -> None:
        self.retriever = retriever
        self.recall_per_speaker = recall_per_speaker

    def recall(self, asked: Sequence[BankQuestion]) -> list[tuple[MemoryEntry, ...]]:
        """Return the entries recalled for each question, best first."""
        return self.retriever.retrieve_many(
            [
                RetrievalRequest(item.question.question, item.entries, self.recall_per_speaker, item.speakers)
                for item in asked
            ]
        )


class FrozenAnswering(BankRecall):
    """Retrieves from each bank and answers greedily, so equal requests are answered once and cached.

    Args:
        agent: The frozen Answer Agent.
        retriever: The retriever that the evaluated system uses too.
        recall_per_speaker: Memories recalled per speaker.
        remembered: Number of cached answers.
    """

    def __init__(
        self, agent: AnswerAgent, retriever: Retriever, recall_per_speaker: int, remembered: int = 20_000
    ) -> None:
        super().__init__(retriever, recall_per_speaker)
        self.agent = agent
        self.requested = 0
        self.generated = 0
        self._answers: Remembered[_Key, Answer] = Remembered(remembered)
        self._likelihoods: Remembered[tuple[_Key, str], float | None] = Remembered(remembered)

    def answer(self, asked: Sequence[BankQuestion]) -> list[Answer | None]:
        """Answer each question, in order; None if the server gave no answer or the prompt was too long.

        The difference of `requested` and `generated` is what de-duplication saved.
        """
        keys = self._keys(asked)
        known = self._answers.known(keys)
        missing = dict.fromkeys(key for key in keys if key not in known)
        requests = [AnswerRequest(question, Recall(recalled), asked_at) for question, asked_at, recalled in missing]
        answers = self.agent.try_answer(requests) if requests else []
        fresh = {
            key: answer for key, answer in zip(missing, answers, strict=True) if not isinstance(answer, MemoryR1Error)
        }
        failures = [answer for answer in answers if isinstance(answer, MemoryR1Error)]
        if failures:
            logger.warning("%d of %d questions were not answered: %s", len(failures), len(requests), failures[0])
        self._answers.keep(fresh)
        self.requested += len(asked)
        self.generated += len(fresh)
        known |= fresh
        return [known.get(key) for key in keys]

    def likelihood(self, asked: Sequence[BankQuestion]) -> list[float | None]:
        """Return how probable each gold answer is to the Answer Agent; see `AnswerAgent.likelihood`."""
        gold = [item.question.answer for item in asked]
        keys = list(zip(self._keys(asked), gold, strict=True))
        known = self._likelihoods.known(keys)
        missing = list(dict.fromkeys(key for key in keys if key not in known))
        requests = [AnswerRequest(question, Recall(recalled), time) for (question, time, recalled), _ in missing]
        values = self.agent.likelihood(requests, [answer for _, answer in missing])
        fresh = dict(zip(missing, values, strict=True))
        self._likelihoods.keep(fresh)
        known |= fresh
        return [known[key] for key in keys]

    def _keys(self, asked: Sequence[BankQuestion]) -> list[_Key]:
        return [
            (item.question.question, item.question.asked_at, recalled)
            for item, recalled in zip(asked, self.recall(asked), strict=True)
        ]
