"""Rewards on the Answer Agent's final answer, and the scorers shared with the Memory Manager's outcome reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memory_r1.agents.prompts import parse_answer

LogMetric = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer with its question and the gold answer."""

    question: str
    gold: str
    prediction: str


Scorer = Callable[[Sequence[GivenAnswer], LogMetric | None], list[float | None]]
"""Maps a batch of answers to scores in [0, 1], in order; None if an answer could not be scored."""


def one_by_one(score: Callable[[str, str], float]) -> Scorer:
    """Turn a metric of (prediction, gold) into a scorer."""

    def scorer(answers: Sequence[GivenAnswer], log_metric: LogMetric | None) -> list[float | None]:
        return [score(answer.prediction, answer.gold) for answer in answers]

    return scorer


def log_share(log_metric: LogMetric | None, name: str, part: int, whole: int) -> None:
    """Log `part / whole` under `name`; do nothing without a log, as in validation."""
    if log_metric is not None:
        log_metric(name, part / max(1, whole))


class AnswerReward:
    """Score the text after the answer marker against the gold answer (Memory-R1, equation 4, for exact match).

    Args:
        name: Key under which the reward is logged.
        scorer: Scores the answers of a batch.
    """

    def __init__(self, name: str, scorer: Scorer) -> None:
        self.__name__ = name
        self.scorer = scorer

    def __call__(
        self,
        completions: Sequence[list[dict[str, str]]],
        *,
        question: Sequence[str],
        answer: Sequence[str],
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one reward per completion, in order; None if the scorer could not score it."""
        predictions = [parse_answer(completion[0]["content"]) for completion in completions]
        answers = [GivenAnswer(*row) for row in zip(question, answer, predictions, strict=True)]
        return self.scorer(answers, log_metric)
