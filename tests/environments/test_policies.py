"""Floors by hand, and Belady's rule against every possible choice."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from memory_r1.environments.policies import at_random, belady, each, fifo, lru, shares, used_first
from memory_r1.environments.streams import Stream


def stream(turns: int, *questions: tuple[int, int]) -> Stream:
    return Stream("d", np.ones((turns, 1), dtype=np.float32), tuple(sorted(questions)))


def best_possible(turns: int, questions: tuple[tuple[int, int], ...], slots: int) -> int:
    """Try everything: after each turn, keep any `slots` of what is held and the turn."""

    def best(now: int, held: frozenset[int]) -> int:
        if now == turns:
            return 0
        candidates = held | {now}
        choices = [candidates - {gone} for gone in candidates] if len(candidates) > slots else [candidates]
        return max(
            sum(step == now and turn in kept for step, turn in questions) + best(now + 1, frozenset(kept))
            for kept in choices
        )

    return best(0, frozenset())


def test_belady_answers_as_many_questions_as_the_best_of_all_choices() -> None:
    rng = random.Random(0)
    below_fifo = 0
    for _ in range(150):
        turns, slots = rng.randint(4, 8), rng.randint(1, 3)
        about = rng.sample(range(turns), rng.randint(1, turns))
        questions = tuple((rng.randint(turn, turns - 1), turn) for turn in about)
        case = stream(turns, *questions)
        assert shares(each(belady), [case], slots) == [best_possible(turns, questions, slots) / len(questions)]
        below_fifo += shares(each(fifo), [case], slots) < shares(each(belady), [case], slots)
    assert below_fifo > 30


def test_fifo_drops_the_oldest_and_lru_what_was_used_longest_ago() -> None:
    # Two slots. Turn 0 is asked about after turn 1, so turn 2 pushes out 0 under FIFO and 1 under LRU.
    cases = [stream(3, (1, 0), (2, 0)), stream(3, (1, 0), (2, 1))]
    assert shares(each(fifo), cases, 2) == [0.5, 1.0]
    assert shares(each(lru), cases, 2) == [1.0, 0.5]
    # Turn 1 has answered when turn 2 pushes one out: it gives way, though turn 0 is older.
    one_used = stream(3, (1, 1), (2, 0))
    assert [shares(each(policy), [one_used], 2) for policy in (fifo, used_first)] == [[0.5], [1.0]]


def test_random_drops_any_with_its_seed() -> None:
    cases = [stream(9, (8, 0), (7, 1), (6, 2))] * 200
    first, again, other = (shares(each(at_random(seed)), cases, 3) for seed in (0, 0, 1))
    assert first == again != other
    # Turn 2 survives turns 3 to 6 with probability (2/3)^4, turn 1 3 to 7 with (2/3)^5, turn 0 3 to 8 with (2/3)^6.
    assert np.mean(first) == pytest.approx(sum((2 / 3) ** power for power in (4, 5, 6)) / 3, abs=0.05)
