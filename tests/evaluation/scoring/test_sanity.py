from __future__ import annotations

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.evaluation.scoring import sanity
from memory_r1.evaluation.scoring.sanity import (
    EMPTY_GOLD,
    EMPTY_PART,
    EXPLANATION_CUT,
    NO_REFUSAL,
    expected_gold_score,
    gold_scores,
    shuffled_scores,
)
from memory_r1.metrics import ANSWER_METRICS, score_answer
from memory_r1.types import Question
from tests.real_data import needs, real_folder


def question(number: int, answer: str, category: str) -> Question:
    return Question(f"q{number}", "?", answer, category)


@pytest.mark.parametrize(
    ("metric", "gold", "category", "expected", "reason"),
    [
        ("exact_match", "the", "4", 1.0, ""),
        ("f1_squad", "the", "4", 1.0, ""),
        ("f1_mem0", "the", "4", 1.0, ""),
        ("f1_mem0", "?!", "4", 0.0, EMPTY_GOLD),
        ("bleu1", "the", "4", 1.0, ""),
        ("bleu1", " ", "4", 0.0, EMPTY_GOLD),
        ("f1_locomo", "the", "4", 0.0, EMPTY_GOLD),
        ("f1_locomo", "red, blue", "1", 1.0, ""),
        ("f1_locomo", "red, and, blue", "1", 2 / 3, EMPTY_PART),
        ("f1_locomo", "red, and, blue", "4", 1.0, ""),
        # [likely no] of [likely no since she hates it]: 2*2 / (2+6).
        ("f1_locomo", "Likely no; since she hates it", "3", 0.5, EXPLANATION_CUT),
        ("f1_locomo", "Likely no;", "3", 1.0, ""),
        ("f1_locomo", "Not mentioned", "5", 1.0, ""),
        ("f1_locomo", "blue", "5", 0.0, NO_REFUSAL),
    ],
)
def test_gold_scores_what_the_definition_says(
    metric: str, gold: str, category: str, expected: float, reason: str
) -> None:
    assert expected_gold_score(metric, gold, category) == (pytest.approx(expected), reason)
    assert score_answer(gold, gold, category)[metric] == pytest.approx(expected)


def test_golds_as_predictions_are_averaged_and_shortfalls_counted() -> None:
    questions = [
        question(1, "red", "1"),
        question(2, "red, and", "1"),
        question(3, "yes; it rains", "3"),
        question(4, "...", "4"),
    ]
    found = gold_scores(questions)
    assert found["unexpected"] == []
    assert found["below_one"] == {
        "f1_locomo": {EMPTY_PART: 1, EXPLANATION_CUT: 1, EMPTY_GOLD: 1},
        "f1_mem0": {EMPTY_GOLD: 1},
    }
    # 1, 1/2, 2*1/(1+3), 0.
    assert found["overall"]["f1_locomo"] == pytest.approx(0.5)
    assert (found["n"], found["by_category"]["1"]["n"], found["by_category"]["1"]["f1_locomo"]) == (4, 2, 0.75)


def test_a_metric_that_leaves_its_definition_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanity, "score_answer", lambda *_: dict.fromkeys(ANSWER_METRICS, 0.5))
    found = gold_scores([question(1, "red", "4")])
    assert found["unexpected"][0] == ("q1", "exact_match", 0.5, 1.0)
    assert len(found["unexpected"]) == len(ANSWER_METRICS)


def test_shuffling_gives_every_question_the_gold_of_another() -> None:
    questions = [question(number, f"word{number}", "1" if number < 6 else "2") for number in range(9)]
    for within in (False, True):
        found = shuffled_scores(questions, within_category=within, repeats=3)
        assert set(found["overall"].values()) == {0.0}
        assert (found["n"], found["repeats"]) == (27, 3)


def test_no_shuffling_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="repeats is 0: give a whole number from 1"):
        shuffled_scores([question(1, "red", "1"), question(2, "blue", "1")], within_category=False, repeats=0)


def test_shuffling_within_a_category_stays_there() -> None:
    # Within category 1 all golds are the same; across categories at least half of the draws differ.
    questions = [
        question(number, "blue" if number < 4 else f"word{number}", str(1 + number // 4)) for number in range(8)
    ]
    within = shuffled_scores(questions, within_category=True, repeats=5)
    across = shuffled_scores(questions, within_category=False, repeats=5)
    assert (within["by_category"]["1"]["exact_match"], within["by_category"]["2"]["exact_match"]) == (1.0, 0.0)
    assert 0.0 < across["by_category"]["1"]["exact_match"] < 1.0
    assert shuffled_scores(questions, within_category=False, repeats=5) == across
    assert shuffled_scores(questions, within_category=False, repeats=5, seed=1) != across


@needs("locomo10.json")
def test_gold_answers_of_the_real_test_set() -> None:
    from data.locomo import load_locomo, locomo_split

    questions = [
        q for dialogue in locomo_split(load_locomo(real_folder("locomo10.json")), "test") for q in dialogue.questions
    ]
    found = gold_scores(questions)
    assert (found["n"], found["unexpected"]) == (1307, [])
    # Six golds of category 3 continue after a semicolon, where only the gold is cut.
    assert found["below_one"] == {"f1_locomo": {EXPLANATION_CUT: 6}}
    assert {metric: value for metric, value in found["overall"].items() if value != 1.0} == {
        "f1_locomo": pytest.approx(0.99698, abs=1e-5)
    }
