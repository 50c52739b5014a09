"""The Memory Manager's outcome rewards: how well a bank serves its questions.

A reward applies the operations to a copy of the bank, recalls memories again for each question, and scores the frozen
Answer Agent's answer (Memory-R1, section 3.1 and equation 3), the gold answer's probability to that agent, or whether
the recalled entries hold the gold answer. The cost of entries is a separate reward, `EntryCost`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from memory_r1.agents.prompts import UNKNOWN
from memory_r1.memory.bank import entries_from_json
from memory_r1.metrics import holds_answer
from memory_r1.training.frozen_answering import ENTRY_COST, BankQuestion, BankRecall, FrozenAnswering
from memory_r1.training.rows import apply_completion, bank_from_row, questions_from_json
from memory_r1.training.substitution import bank_at_end as substituted
from memory_r1.types import MemoryEntry
from rewards.answers import GivenAnswer, LogMetric, Scorer, log_share

Entries = tuple[MemoryEntry, ...]

BankScorer = Callable[[Sequence[BankQuestion], LogMetric | None], list[float | None]]
"""Maps questions to scores in [0, 1], in order; None if a question could not be scored, NaN if it says nothing about
the bank."""


def by_answer(answering: FrozenAnswering, scorer: Scorer) -> BankScorer:
    """Score what the frozen Answer Agent answers (Memory-R1, section 3.1 and equation 3)."""

    def score(asked: Sequence[BankQuestion], log_metric: LogMetric | None) -> list[float | None]:
        answers = answering.answer(asked)
        given = [
            GivenAnswer(item.question.question, item.question.answer, answer.text)
            for item, answer in zip(asked, answers, strict=True)
            if answer is not None
        ]
        known = iter(scorer(given, log_metric))
        return [None if answer is None else next(known) for answer in answers]

    return score


def by_likelihood(answering: FrozenAnswering) -> BankScorer:
    """Score how probable the gold answer is to the frozen Answer Agent, with nothing decoded."""

    def score(asked: Sequence[BankQuestion], log_metric: LogMetric | None) -> list[float | None]:
        return list(answering.likelihood(asked))

    return score


def by_containment(recall: BankRecall) -> BankScorer:
    """Score 1 if a recalled entry holds the gold answer word by word, else 0; no model is asked.

    A question whose gold answer is "unknown" says nothing here.
    """

    def score(asked: Sequence[BankQuestion], log_metric: LogMetric | None) -> list[float | None]:
        return [
            math.nan
            if item.question.answer.lower() == UNKNOWN
            else float(any(holds_answer(entry.text, item.question.answer) for entry in recalled))
            for item, recalled in zip(asked, recall.recall(asked), strict=True)
        ]

    return score


class OutcomeReward:
    """Mean score over linked and retention questions.

    Every question weighs the same, as at a dialogue's end. (Averaging the mean of each kind let one linked answer
    outweigh the loss of several known facts, which taught a policy to overwrite.)

    A completion that does not parse earns 0, as if nothing could be answered; it is not a NOOP and never pays more than
    one. If the server gave no answer, or an answer did not fit the window or could not be scored, the row earns None
    and counts in `outcome/failed_rows`.

    Args:
        name: Key under which the reward is logged.
        scorer: Scores the questions put to a batch's banks.
    """

    def __init__(self, name: str, scorer: BankScorer) -> None:
        self.__name__ = name
        self.scorer = scorer
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
        logged: Sequence[str] | None = None,
        bank_at_end: Sequence[str] | None = None,
        operations: Sequence[str] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one reward per completion, in order; None if the row failed or no question scores it.

        `logged` and `bank_at_end` decide which bank is asked; see `asked_banks`. The last batch is remembered because
        `EntryCost` calls again with the same list of completions.
        """
        if self._last[0] is completions:
            return self._last[1]
        asked_of = asked_banks(completions, turn, bank, recalled_ids, logged, bank_at_end, operations)
        put = [
            (*questions_from_json(one), *questions_from_json(two)) for one, two in zip(linked, retention, strict=True)
        ]
        asked = [
            [BankQuestion(question, of.entries, tuple(who)) for question in questions] if of.parsed else []
            for of, questions, who in zip(asked_of, put, speakers, strict=True)
        ]
        scores = self._scores(asked, log_metric)
        log_share(log_metric, "outcome/failed_rows", sum(None in row for row in scores), len(scores))
        # A row whose questions say nothing about any bank says it of a completion that cannot be parsed too.
        silent = {place for place, row in enumerate(scores) if row and _mean(row) is None and None not in row}
        nothing = {linked[place] + retention[place] for place in silent}
        rewards = [
            None if not questions or one + two in nothing else _mean(row)
            for row, questions, one, two in zip(scores, put, linked, retention, strict=True)
        ]
        self._last = (completions, rewards)
        return rewards

    def _scores(
        self, asked: Sequence[Sequence[BankQuestion]], log_metric: LogMetric | None
    ) -> list[list[float | None]]:
        """Score the questions of all rows at once; return each row's scores."""
        scores = iter(self.scorer([question for row in asked for question in row], log_metric))
        return [[next(scores) for _ in row] for row in asked]


class EntryCost:
    """A negative reward for each live entry of the bank that is asked.

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
        logged: Sequence[str] | None = None,
        bank_at_end: Sequence[str] | None = None,
        operations: Sequence[str] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one reward of at most 0 per completion, in order."""
        columns |= {"turn": turn, "bank": bank, "recalled_ids": recalled_ids}
        columns |= {"logged": logged, "operations": operations}
        outcomes = [outcome(completions, bank_at_end=bank_at_end, **columns) for outcome in self.outcomes]
        asked_of = asked_banks(completions, turn, bank, recalled_ids, logged, bank_at_end, operations)
        return [
            None if all(score is None for score in scores) else -self.cost * len(of.entries)
            for of, *scores in zip(asked_of, *outcomes, strict=True)
        ]


class AskedBank(NamedTuple):
    """The bank that scores a completion, and whether the completion could be parsed."""

    entries: Entries
    parsed: bool


def asked_banks(
    completions: Sequence[list[dict[str, str]]],
    turn: Sequence[str],
    bank: Sequence[str],
    recalled_ids: Sequence[Sequence[int]],
    logged: Sequence[str] | None = None,
    bank_at_end: Sequence[str] | None = None,
    operations: Sequence[str] | None = None,
) -> list[AskedBank]:
    """Return the bank that each completion is credited with.

    It is the one right after its operations; with `logged`, the one at the dialogue's end if they replaced the logged
    ones (`training/substitution.py`); with `bank_at_end`, the one of a branch that was played on.
    """
    nothing: Sequence[str | None] = [None] * len(completions)
    rows = zip(completions, turn, bank, recalled_ids, operations or nothing, strict=True)
    if bank_at_end is not None:
        return [
            AskedBank(entries_from_json(end), _parses(chat[0]["content"], said, before, tuple(shown), form))
            for (chat, said, before, shown, form), end in zip(rows, bank_at_end, strict=True)
        ]
    return [
        _asked_bank(chat[0]["content"], said, before, tuple(shown), form, end)
        for (chat, said, before, shown, form), end in zip(rows, logged or nothing, strict=True)
    ]


def banks_after(
    completions: Sequence[list[dict[str, str]]],
    turn: Sequence[str],
    bank: Sequence[str],
    recalled_ids: Sequence[Sequence[int]],
    operations: Sequence[str] | None = None,
) -> list[Entries | None]:
    """Return the entries right after each completion's operations; None for one that cannot be parsed."""
    asked_of = asked_banks(completions, turn, bank, recalled_ids, operations=operations)
    return [of.entries if of.parsed else None for of in asked_of]


@lru_cache(maxsize=512)  # about one batch: several rewards read the same banks, and a group repeats completions
def _asked_bank(
    completion: str,
    turn: str,
    bank: str,
    recalled_ids: tuple[int, ...],
    operations: str | None = None,
    logged: str | None = None,
) -> AskedBank:
    checked, after = apply_completion(completion, turn, bank, recalled_ids, operations)
    entries = after.entries() if logged is None else substituted(bank_from_row(bank), after, logged)
    return AskedBank(entries, checked.failure is None)


def _parses(completion: str, turn: str, bank: str, recalled_ids: tuple[int, ...], operations: str | None) -> bool:
    return _asked_bank(completion, turn, bank, recalled_ids, operations).parsed


def _mean(scores: Sequence[float | None]) -> float | None:
    """Average the scores: 0 if nothing was asked; None if one is missing, since the mean of the rest would be unfair,
    or if no question says anything about the bank."""
    if None in scores:
        return None
    told = [score for score in scores if score is not None and not math.isnan(score)]
    if scores and not told:
        return None
    return sum(told) / max(1, len(told))
