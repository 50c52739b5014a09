"""The environment: what actions do, what is observed, what pays."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env

from memory_r1.environments.streams import Stream
from memory_r1.environments.token_retention import TokenRetentionEnv
from memory_r1.errors import ConfigurationError

RETAIN, DISCARD_0, ADD_0, ADD_1 = 0, 1, 3, 4  # with two slots


def stream(turns: int = 5, questions: tuple[tuple[int, int], ...] = ((1, 0), (3, 0), (3, 2))) -> Stream:
    return Stream("d", np.eye(turns, dtype=np.float32) + 1, questions)


def test_gymnasium_finds_nothing_wrong() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|-infinity|render).*")
        check_env(TokenRetentionEnv([stream(), stream()], slots=3))


def test_an_episode_by_hand() -> None:
    env = TokenRetentionEnv([stream()], slots=2)
    seen, _ = env.reset(seed=0)
    assert np.array_equal(seen["turn"], stream().embeddings[0])
    assert (seen["ages"].tolist(), seen["uses"].tolist(), seen["slots"].any()) == ([0, 0], [0, 0], False)
    actions = [ADD_1, RETAIN, ADD_0, RETAIN, DISCARD_0]
    steps = [env.step(action) for action in actions]
    # Turn 0 is held in slot 1 when it is asked about after turns 1 and 3, and turn 2 in slot 0 after turn 3.
    assert [reward for _, reward, *_ in steps] == [0, 1, 0, 2, 0]
    assert [done for _, _, done, _, _ in steps] == [False] * 4 + [True]
    assert [(after["ages"].tolist(), after["uses"].tolist()) for after, *_ in steps] == [
        ([0, 1], [0, 0]),
        ([0, 2], [0, 1]),
        ([1, 3], [0, 1]),
        ([2, 4], [1, 2]),
        ([0, 5], [0, 2]),
    ]
    assert np.array_equal(steps[3][0]["slots"], stream().embeddings[[2, 0]])
    assert not steps[-1][0]["turn"].any()
    assert steps[-1][4] == {"answered": 3, "asked": 3}


def test_a_turn_replaced_or_discarded_pays_no_more_and_its_uses_are_gone() -> None:
    for action in (ADD_0, DISCARD_0):
        env = TokenRetentionEnv([stream()], slots=2)
        env.reset()
        rewards = [env.step(taken)[1] for taken in (ADD_0, RETAIN, action, RETAIN)]
        assert rewards == [0, 1, 0, 1 if action == ADD_0 else 0]


def test_nothing_of_the_future_is_observed() -> None:
    one, other = (
        Stream("d", np.concatenate([np.ones((3, 4)), rest]), questions)
        for rest, questions in ((np.zeros((2, 4)), ((1, 0), (3, 3))), (np.full((2, 4), 9.0), ((1, 0), (4, 2))))
    )
    envs = [TokenRetentionEnv([each], slots=2) for each in (one, other)]
    for action in (ADD_0, ADD_1, RETAIN):
        first, second = (env.observe() for env in envs)
        assert all(np.array_equal(first[name], second[name]) for name in first)
        assert np.array_equal(envs[0].action_masks(), envs[1].action_masks())
        for env in envs:
            env.step(action)


def test_the_mask_leaves_the_first_empty_slot_and_what_is_held() -> None:
    env = TokenRetentionEnv([stream()], slots=3)
    env.reset()
    assert env.action_masks().tolist() == [True, *[False] * 3, True, False, False]
    env.step(4 + 1)  # add in the second slot
    assert env.action_masks().tolist() == [True, False, True, False, True, True, False]


def test_reset_draws_a_stream_by_seed_or_takes_the_one_named() -> None:
    streams = [Stream(str(number), np.full((2, 1), number), ((1, 0),)) for number in range(50)]
    env = TokenRetentionEnv(streams, slots=1)
    drawn = [env.reset(seed=seed)[0]["turn"].item() for seed in (0, 1, 2, 0, 1, 2)]
    assert drawn[:3] == drawn[3:] and len(set(drawn)) > 1
    assert env.reset(options={"stream": 7})[0]["turn"].item() == 7


@pytest.mark.parametrize(
    ("streams", "slots"), [([], 2), ([stream()], 0), ([stream(), Stream("e", np.ones((3, 2)), ((1, 0),))], 2)]
)
def test_no_stream_no_slot_and_mixed_sizes_are_refused(streams: list[Stream], slots: int) -> None:
    with pytest.raises(ConfigurationError, match="at least one stream, all of one size, and at least one slot"):
        TokenRetentionEnv(streams, slots)
