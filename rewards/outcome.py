"""The Memory Manager's outcome reward: what can be answered from the bank that its operations leave.

Operations are applied to a copy of the bank, memories are retrieved again for each question, the frozen Answer Agent
answers all of them in one batch, and the answers are scored (Memory-R1, section 3.1 and equation 3). What the bank's
entries cost is a reward of its own, `EntryCost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from memory_r1.memory.bank import entries_from_json
from memory_r1.training.answering import ENTRY_COST, BankQuestion, FrozenAnswering
from memory_r1.training.rows import apply_completion, questions_from_json
from memory_r1.types import MemoryEntry
from rewards.answers import GivenAnswer, LogMetric, Scorer, log_share

Entries = tuple[MemoryEntry, ...]


class OutcomeReward:
    """Mean score over linked and retention questions.

    Every question weighs the same, as at a dialogue's end. (Averaging two means, one a side, let a single linked answer
    pay for losing several known facts, which taught a policy to overwrite.)

    A completion that does not parse earns 0, as if nothing could be answered; it is not a NOOP and never pays more than
    one. If the server gave no answer, or an answer did not fit the window or could not be scored, the row earns None
    and counts in `outcome/failed_rows`.

    Args:
        name: Key under which the reward is logged.
        scorer: Scores the answers of a batch.
        answering: The frozen Answer Agent with its retriever.
    """

    def __init__(self, name: str, scorer: Scorer, answering: FrozenAnswering) -> None:
        self.__name__ = name
        self.scorer = scorer
        self.answering = answering
        self._last: tuple[object, list[float | None]] = (None, [])

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
        bank_at_end: Sequence[str] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward a completion, in order; None for a row that failed or that no question scores.

        `bank_at_end` is the bank of a branch that was played on after its completion: then that one is asked. The last
        batch is remembered, since `EntryCost` asks again for the list of completions that this was called with.
        """
        if self._last[0] is completions:
            return self._last[1]
        left = banks_after(completions, turn, bank, recalled_ids)
        ends = left if bank_at_end is None else [entries_from_json(end) for end in bank_at_end]
        put = [
            (*questions_from_json(one), *questions_from_json(two)) for one, two in zip(linked, retention, strict=True)
        ]
        asked = [
            [] if entries is None else [BankQuestion(question, end or (), tuple(who)) for question in questions]
            for entries, end, questions, who in zip(left, ends, put, speakers, strict=True)
        ]
        scores = self._scores(asked, log_metric)
        log_share(log_metric, "outcome/failed_rows", sum(None in row for row in scores), len(scores))
        rewards = [_mean(row) if questions else None for row, questions in zip(scores, put, strict=True)]
        self._last = (completions, rewards)
        return rewards

    def _scores(
        self, asked: Sequence[Sequence[BankQuestion]], log_metric: LogMetric | None
    ) -> list[list[float | None]]:
        """Scores of each row's questions, answered in one batch and scored in one; None for one that failed."""
        questions = [question for row in asked for question in row]
        answers = self.answering.answer(questions)
        given = [
            GivenAnswer(item.question.question, item.question.answer, answer.text)
            for item, answer in zip(questions, answers, strict=True)
            if answer is not None
        ]
        known = iter(self.scorer(given, log_metric))
        scores = iter([None if answer is None else next(known) for answer in answers])
        return [[next(scores) for _ in row] for row in asked]


class EntryCost:
    """Minus a cost for each live entry after the operations, or at the end of a played branch.

    It is charged once, however many outcome rewards a recipe has. A completion that does not parse pays for the
    unchanged bank. None if no outcome reward scores the row: without questions, emptying the bank must not pay.

    Args:
        cost: Cost per entry.
        outcomes: The recipe's outcome rewards.
    """

    def __init__(self, cost: float, outcomes: Sequence[OutcomeReward]) -> None:
        self.__name__ = ENTRY_COST
        self.cost = cost
        self.outcomes = outcomes

    def __call__(
        self,
        completions: Sequence[list[dict[str, str]]],
        *,
        turn: Sequence[str],
        bank: Sequence[str],
        recalled_ids: Sequence[Sequence[int]],
        bank_at_end: Sequence[str] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward of at most 0 a completion, in order."""
        columns |= {"turn": turn, "bank": bank, "recalled_ids": recalled_ids, "bank_at_end": bank_at_end}
        outcomes = [outcome(completions, **columns) for outcome in self.outcomes]
        if bank_at_end is None:
            left = banks_after(completions, turn, bank, recalled_ids)
            live = [
                entries_from_json(before) if after is None else after for after, before in zip(left, bank, strict=True)
            ]
        else:
            live = [entries_from_json(end) for end in bank_at_end]
        return [
            None if all(score is None for score in scores) else -self.cost * len(entries)
            for entries, *scores in zip(live, *outcomes, strict=True)
        ]


def banks_after(
    completions: Sequence[list[dict[str, str]]],
    turn: Sequence[str],
    bank: Sequence[str],
    recalled_ids: Sequence[Sequence[int]],
) -> list[Entries | None]:
    """The entries that each completion's operations leave; None for one that does not parse, which is no NOOP."""
    rows = zip(completions, turn, bank, recalled_ids, strict=True)
    return [_bank_after(chat[0]["content"], said, before, tuple(shown)) for chat, said, before, shown in rows]


@lru_cache(maxsize=512)  # a batch's worth: several rewards read the same banks, and completions of a group are alike
def _bank_after(completion: str, turn: str, bank: str, recalled_ids: tuple[int, ...]) -> Entries | None:
    checked, after = apply_completion(completion, turn, bank, recalled_ids)
    return after.entries() if checked.failure is None else None


def _mean(scores: Sequence[float | None]) -> float | None:
    """0 where nothing was asked; None where a score is missing, since the mean of the others would be no fair one."""
    known = [score for score in scores if score is not None]
    return sum(known) / max(1, len(known)) if len(known) == len(scores) else None
