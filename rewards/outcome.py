"""The Memory Manager's outcome reward: what can be answered from the bank that its operations leave.

Operations are applied to a copy of the bank, memories are retrieved again for each question, the frozen Answer Agent
answers all of them in one batch, and the answers are scored (Memory-R1, section 3.1 and equation 3).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memory_r1.errors import MemoryR1Error
from memory_r1.memory.operations import check_completion
from memory_r1.training.answering import BankQuestion, FrozenAnswering
from memory_r1.training.rows import bank_from_row, questions_from_json, turn_from_json
from memory_r1.types import MemoryEntry, Question

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The bank one completion leaves and the questions put to it; None where the row could not be used."""

    entries: tuple[MemoryEntry, ...]
    linked: tuple[Question, ...]
    retention: tuple[Question, ...]
    speakers: tuple[str, ...]

    @property
    def questions(self) -> list[BankQuestion]:
        return [BankQuestion(question, self.entries, self.speakers) for question in (*self.linked, *self.retention)]


class OutcomeReward:
    """Mean score on linked questions and mean score on retention questions, averaged, less the cost of live entries.

    A completion that cannot be parsed earns what the unchanged bank would if nothing could be answered from it: it is
    no NOOP, and never pays more than one. A row that fails (a malformed column, say) earns None,
    is logged and counted, and loses nothing for the others.

    Args:
        name: Key under which the reward is logged.
        score: (prediction, gold) to a number in [0, 1].
        answering: The frozen Answer Agent with its retriever.
        entry_cost: Cost of each live entry in the bank after the operations.
    """

    def __init__(
        self, name: str, score: Callable[[str, str], float], answering: FrozenAnswering, entry_cost: float
    ) -> None:
        self.__name__ = name
        self.score = score
        self.answering = answering
        self.entry_cost = entry_cost

    def __call__(
        self,
        completions: Sequence[list[dict[str, str]]],
        *,
        turn: Sequence[str],
        bank: Sequence[str],
        recalled_ids: Sequence[Sequence[int]],
        linked: Sequence[str],
        retention: Sequence[str],
        speakers: Sequence[Sequence[str]],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward a completion, in order; None for a row that failed or that no question scores."""
        rows = zip(completions, turn, bank, recalled_ids, linked, retention, speakers, strict=True)
        outcomes: list[_Outcome | float | None] = []
        failed = 0
        for completion, *row in rows:
            try:
                outcomes.append(self._apply(completion[0]["content"], *row))
            except (MemoryR1Error, ValueError, KeyError, TypeError) as error:
                logger.warning("%s: a row was left out: %s", self.__name__, error)
                outcomes.append(None)
                failed += 1
        asked = [question for outcome in outcomes if isinstance(outcome, _Outcome) for question in outcome.questions]
        answers = iter(self.answering.answer(asked))
        rewards: list[float | None] = []
        for outcome in outcomes:
            if isinstance(outcome, _Outcome):
                scores = [self.score(next(answers).text, item.question.answer) for item in outcome.questions]
                rewards.append(self._reward(outcome, scores))
            else:
                rewards.append(outcome)
        if log_metric is not None:
            log_metric("outcome/failed_rows", failed / max(1, len(outcomes)))
        return rewards

    def _apply(
        self,
        completion: str,
        turn: str,
        bank: str,
        recalled_ids: Sequence[int],
        linked: str,
        retention: str,
        speakers: Sequence[str],
    ) -> _Outcome | float | None:
        """The outcome of one completion, the reward of a parse failure, or None where no question scores it."""
        checked = check_completion(completion, recalled_ids)
        after = bank_from_row(bank)
        if checked.failure is not None:
            return -self.entry_cost * len(after)
        after.apply(checked.accepted, turn_from_json(turn))
        outcome = _Outcome(
            after.entries(), questions_from_json(linked), questions_from_json(retention), tuple(speakers)
        )
        return outcome if outcome.questions else None

    def _reward(self, outcome: _Outcome, scores: Sequence[float]) -> float:
        """`scores` are those of the linked questions, then of the retention questions."""
        split = len(outcome.linked)
        parts = [sum(part) / len(part) for part in (scores[:split], scores[split:]) if part]
        return sum(parts) / len(parts) - self.entry_cost * len(outcome.entries)
