"""The Memory Manager's outcome reward: what can be answered from the bank that its operations leave.

Operations are applied to a copy of the bank, memories are retrieved again for each question, the frozen Answer Agent
answers all of them in one batch, and the answers are scored (Memory-R1, section 3.1 and equation 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memory_r1.training.answering import BankQuestion, FrozenAnswering
from memory_r1.training.rows import apply_completion, bank_from_row, questions_from_json
from memory_r1.types import Answer, MemoryEntry, Question
from rewards.answers import GivenAnswer, Scorer
from rewards.rowwise import ROW_FAILURES, LogMetric, each_row, log_share


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
    """Mean score over linked and retention questions, less the cost of live entries.

    Every question weighs the same, as at a dialogue's end. (Averaging two means, one a side, let a single linked answer
    pay for losing several known facts, which taught a policy to overwrite.)

    A completion that cannot be parsed earns what the unchanged bank would if nothing could be answered from it: it is
    no NOOP, and never pays more than one. A row that fails (a malformed column, a bank that cannot be searched or
    shown, a question without an answer, or an answer that could not be scored) earns None, is logged and counted, and
    loses nothing for the others.

    Args:
        name: Key under which the reward is logged.
        scorer: Scores the answers of a batch.
        answering: The frozen Answer Agent with its retriever.
        entry_cost: Cost of each live entry in the bank after the operations.
    """

    def __init__(self, name: str, scorer: Scorer, answering: FrozenAnswering, entry_cost: float) -> None:
        self.__name__ = name
        self.scorer = scorer
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
        bank_at_end: Sequence[str | None] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward a completion, in order; None for a row that failed or that no question scores.

        `bank_at_end` is the bank of a branch that was played on after its completion: then that one is asked.
        """
        ends = bank_at_end if bank_at_end is not None else [None] * len(completions)
        texts = [completion[0]["content"] for completion in completions]
        rows = zip(texts, turn, bank, recalled_ids, linked, retention, speakers, ends, strict=True)
        outcomes, failed = each_row(self.__name__, self._apply, rows)
        scores = iter(self._scores([item for item in outcomes if isinstance(item, _Outcome)], log_metric))
        rewards: list[float | None] = []
        for outcome in outcomes:
            if isinstance(outcome, _Outcome):
                reward = self._reward(outcome, [next(scores) for _ in outcome.questions])
                failed += reward is None
                rewards.append(reward)
            else:
                rewards.append(outcome)
        log_share(log_metric, "outcome/failed_rows", failed, len(outcomes))
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
        bank_at_end: str | None,
    ) -> _Outcome | float | None:
        """The outcome of one completion, the reward of a parse failure, or None where no question scores it."""
        checked, after = apply_completion(completion, turn, bank, recalled_ids)
        if bank_at_end is not None:
            after = bank_from_row(bank_at_end)
        if checked.failure is not None:
            return -self.entry_cost * len(after)
        outcome = _Outcome(
            after.entries(), questions_from_json(linked), questions_from_json(retention), tuple(speakers)
        )
        return outcome if outcome.questions else None

    def _scores(self, outcomes: Sequence[_Outcome], log_metric: LogMetric | None) -> list[float | None]:
        """Scores of all questions of all outcomes, answered in one batch and scored in one; None for a failed one."""
        asked = [question for outcome in outcomes for question in outcome.questions]
        answers = self._answers(outcomes)
        given = [
            GivenAnswer(item.question.question, item.question.answer, answer.text)
            for item, answer in zip(asked, answers, strict=True)
            if answer is not None
        ]
        scores = iter(self.scorer(given, log_metric))
        return [None if answer is None else next(scores) for answer in answers]

    def _answers(self, outcomes: Sequence[_Outcome]) -> list[Answer | None]:
        """An answer to each question of all outcomes, in one batch; where that fails, each outcome is asked by itself.

        So a bank that cannot be searched or shown (an entry without a readable date, say) costs its own row alone.
        """
        try:
            return self.answering.answer([question for outcome in outcomes for question in outcome.questions])
        except ROW_FAILURES:
            apart, _ = each_row(self.__name__, self.answering.answer, [(outcome.questions,) for outcome in outcomes])
        return [
            answer
            for outcome, answers in zip(outcomes, apart, strict=True)
            for answer in (answers or [None] * len(outcome.questions))
        ]

    def _reward(self, outcome: _Outcome, scores: Sequence[float | None]) -> float | None:
        """`scores` are those of the linked questions, then of the retention questions; with one missing, None."""
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            return None  # the mean of the others would be no fair reward
        return sum(known) / len(known) - self.entry_cost * len(outcome.entries)
