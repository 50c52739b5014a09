"""Scores of untrained baselines, which any trained system must beat on generated dialogues."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from data.synthetic.generator import UNKNOWN
from memory_r1.metrics import f1_squad
from memory_r1.types import Dialogue, Question, Turn


def floors(dialogues: Sequence[Dialogue], train: Sequence[Dialogue]) -> dict[str, float]:
    """Return the mean SQuAD F1 of untrained answers, and how often a copied turn holds the answer.

    `none` always answers "unknown". `most_frequent` gives the commonest answer of `train`. `newest_turn_f1` copies the
    turn that shares most words with the question (the newest of equals; a turn's words include its speaker), and
    `newest_turn_holds` is how often that turn contains the answer.
    """
    answers = Counter(question.answer for dialogue in train for question in dialogue.questions)
    commonest = min(answers, key=lambda answer: (-answers[answer], answer))
    rows = [(question, _newest_turn(question, dialogue)) for dialogue in dialogues for question in dialogue.questions]
    return {
        "none": _mean([f1_squad(UNKNOWN, question.answer) for question, _ in rows]),
        "most_frequent": _mean([f1_squad(commonest, question.answer) for question, _ in rows]),
        "newest_turn_f1": _mean([f1_squad(turn.text, question.answer) for question, turn in rows]),
        "newest_turn_holds": _mean([float(question.answer.lower() in turn.text.lower()) for question, turn in rows]),
    }


def _newest_turn(question: Question, dialogue: Dialogue) -> Turn:
    asked = _words(question.question)
    scored = [(len(asked & _words(f"{turn.speaker} {turn.text}")), i) for i, turn in enumerate(dialogue.turns())]
    return dialogue.turns()[max(scored)[1]]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
