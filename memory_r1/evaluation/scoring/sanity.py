"""Score known answers: the gold itself, and the gold of another question (chance level).

If a metric does not give the gold 1.0, its definition explains why and which value to expect: `expected_gold_score`.
Any other value is a defect of the metric or the data.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from memory_r1.errors import ConfigurationError
from memory_r1.metrics import ANSWER_METRICS, normalize_answer, score_answer
from memory_r1.types import Question

_EQUAL = 1e-9
_MEM0_BLANKS = str.maketrans(".,!?", "    ")
EMPTY_GOLD = "the gold has no token left after the metric's normalisation"
EMPTY_PART = "category 1: a part of the gold between commas has no token left"
EXPLANATION_CUT = "category 3: the gold is cut at the first semicolon, the prediction is not"
NO_REFUSAL = "category 5: the gold is not one of the refusals that count"


def gold_scores(questions: Sequence[Question]) -> dict[str, Any]:
    """Score the golds as predictions: the mean of every metric, by category and overall, and why some are below 1.0.

    Returns:
        `n`, `overall` and `by_category` (metric to mean), `below_one` (metric to reason to number of questions), and
        `unexpected`: (question id, metric, score, expected score) of every score that its definition does not explain.
    """
    scores = [score_answer(question.answer, question.answer, question.category) for question in questions]
    reasons: dict[str, Counter[str]] = {}
    unexpected = []
    for question, row in zip(questions, scores, strict=True):
        for metric, value in row.items():
            expected, reason = expected_gold_score(metric, question.answer, question.category)
            if abs(value - expected) > _EQUAL:
                unexpected.append((question.question_id, metric, value, expected))
            elif reason:
                reasons.setdefault(metric, Counter())[reason] += 1
    below = {metric: dict(counts) for metric, counts in reasons.items()}
    return {**_means(questions, scores), "below_one": below, "unexpected": unexpected}


def shuffled_scores(
    questions: Sequence[Question], *, within_category: bool, repeats: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Score another question's gold as prediction, averaged over `repeats` random permutations: the chance level.

    Args:
        questions: At least two, or two per category with `within_category`; a single question keeps its own gold.
        within_category: Draw from the same category, to measure the value of knowing the kind of answer.
        repeats: Number of permutations.
        seed: Seed of the permutations.

    Raises:
        ConfigurationError: `repeats` is below 1.
    """
    if repeats < 1:
        raise ConfigurationError(f"repeats is {repeats}: give a whole number from 1")
    rng = random.Random(seed)
    pools: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        pools.setdefault(question.category if within_category else "", []).append(number)
    asked, scores = [], []
    for _ in range(repeats):
        for pool in pools.values():
            order = rng.sample(pool, len(pool))
            # A cycle through a random order gives every question another question's gold.
            for number, other in zip(order, order[1:] + order[:1], strict=True):
                question = questions[number]
                asked.append(question)
                scores.append(score_answer(questions[other].answer, question.answer, question.category))
    return {**_means(asked, scores), "repeats": repeats}


def expected_gold_score(metric: str, gold: str, category: str) -> tuple[float, str]:
    """Return the score that `metric` should give the gold itself, and why it is not 1.0 (empty if it is)."""
    if metric == "f1_locomo":
        return _expected_f1_locomo(gold, category)
    # Exact match and SQuAD's F1 count two empty answers as equal.
    tokens = {"f1_mem0": gold.translate(_MEM0_BLANKS).split(), "bleu1": gold.split()}
    return (1.0, "") if tokens.get(metric, [gold]) else (0.0, EMPTY_GOLD)


def _expected_f1_locomo(gold: str, category: str) -> tuple[float, str]:
    words = _words(gold)
    if category == "5":
        refused = any(refusal in gold.lower() for refusal in ("no information available", "not mentioned"))
        return (1.0, "") if refused else (0.0, NO_REFUSAL)
    if not words:
        return 0.0, EMPTY_GOLD
    if category == "1":
        # Every part matches itself, but empty parts match nothing.
        parts = [bool(_words(part)) for part in gold.split(",")]
        return (1.0, "") if all(parts) else (sum(parts) / len(parts), EMPTY_PART)
    if category == "3":
        kept = _words(gold.split(";")[0])
        if len(kept) < len(words):
            return 2 * len(kept) / (len(kept) + len(words)), EXPLANATION_CUT
    return 1.0, ""


def _words(text: str) -> list[str]:
    return [word for word in normalize_answer(text).split() if word != "and"]


def _means(questions: Sequence[Question], scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    by_category: dict[str, list[dict[str, float]]] = {}
    for question, row in zip(questions, scores, strict=True):
        by_category.setdefault(question.category, []).append(row)
    return {
        "n": len(questions),
        "overall": _mean(scores),
        "by_category": {category: {"n": len(rows), **_mean(rows)} for category, rows in sorted(by_category.items())},
    }


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {metric: fmean(row[metric] for row in rows) for metric in ANSWER_METRICS}
