"""Streams of turns with questions in between: what a bounded token memory meets in one episode."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from memory_r1.errors import DataError
from memory_r1.types import Dialogue


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The turns of a dialogue, and when it is asked about them.

    Attributes:
        name: The dialogue's id.
        embeddings: One per turn, (T, E).
        questions: Pairs (step, turn), by step: after the decision on turn `step`, a question about turn `turn` (both
            from 0) pays 1 if that turn is held.
    """

    name: str
    embeddings: np.ndarray
    questions: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.questions:
            raise DataError(f"stream {self.name!r} asks nothing; give a dialogue with a question about a single turn")
        for step, turn in self.questions:
            if not 0 <= turn <= step < len(self.embeddings):
                raise DataError(
                    f"stream {self.name!r}: a question at step {step} about turn {turn}, allowed: steps up to "
                    f"{len(self.embeddings) - 1}, and turns up to the step"
                )


def stream_of(dialogue: Dialogue, embeddings: np.ndarray, seed: int) -> Stream:
    """Make a stream of a dialogue: each question comes once, at a step drawn evenly from those after its evidence.

    Questions with no evidence turn or several are left out, and so is a second question about one turn: then Belady's
    rule is the best that any policy can do (`policies.belady`).

    Args:
        dialogue: The dialogue.
        embeddings: One per turn, (T, E).
        seed: Draws the steps, together with the dialogue's id.

    Raises:
        DataError: There is not one embedding per turn, or no question is left.
    """
    place = {turn.turn_id: index for index, turn in enumerate(dialogue.turns())}
    if len(place) != len(embeddings):
        raise DataError(f"dialogue {dialogue.dialogue_id!r}: {len(embeddings)} embeddings for {len(place)} turns")
    rng = random.Random(f"{seed} {dialogue.dialogue_id}")
    asked: dict[int, int] = {}
    for question in dialogue.questions:
        if len(question.evidence) == 1 and (turn := place[question.evidence[0]]) not in asked:
            last = len(place) - 1
            asked[turn] = rng.randint(min(turn + 1, last), last)
    return Stream(dialogue.dialogue_id, embeddings, tuple(sorted((step, turn) for turn, step in asked.items())))
