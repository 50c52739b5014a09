"""Rewards on the Answer Agent's final answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from memory_r1.agents.prompts import parse_answer


class AnswerReward:
    """Scores the text after the answer marker against the gold answer (Memory-R1, equation 4, when exact match).

    Args:
        name: Key under which the reward is logged.
        score: (prediction, gold) to a number in [0, 1].
    """

    def __init__(self, name: str, score: Callable[[str, str], float]) -> None:
        self.__name__ = name
        self.score = score

    def __call__(
        self, completions: Sequence[list[dict[str, str]]], *, answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """One reward a completion, in order."""
        return [
            self.score(parse_answer(completion[0]["content"]), gold)
            for completion, gold in zip(completions, answer, strict=True)
        ]
