"""The system holds what its policy decides, and shows it what the environment showed in training."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from memory_r1.errors import ConfigurationError
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.retention_policy import Projection, RetentionNetwork, RetentionPolicy
from memory_r1.systems.table import build_system
from memory_r1.systems.token_retention import TokenRetention
from memory_r1.types import Turn
from tests.fakes import FakeEmbedder, KeepNewest

RETAIN, DISCARD_1, ADD_0, ADD_1 = 0, 2, 3, 4  # with two slots


class Scripted:
    """Takes the given actions, one a turn."""

    slots = 2

    def __init__(self, *actions: int) -> None:
        self.actions = list(actions)
        self.ages: list[list[float]] = []

    def act(self, observation: dict[str, np.ndarray]) -> int:
        self.ages.append(observation["ages"].tolist())
        return self.actions.pop(0)


def turns(count: int) -> list[Turn]:
    rng = random.Random(0)
    words = [f"word{number}" for number in range(16)]
    return [Turn(f"s1:{number}", "Ann", " ".join(rng.sample(words, 3)), "s1") for number in range(count)]


def system(policy: object, recall_per_speaker: int = 9) -> TokenRetention:
    return TokenRetention(policy, Retriever(FakeEmbedder()), recall_per_speaker=recall_per_speaker)  # type: ignore[arg-type]


def held(memory: TokenRetention) -> list[str]:
    return [turn_id for entry in memory.entries("a") for turn_id in entry.source_turn_ids]


def test_each_decision_does_what_it_says() -> None:
    policy = Scripted(ADD_0, RETAIN, ADD_1, ADD_0, DISCARD_1, ADD_1)
    memory = system(policy)
    after = []
    for turn in turns(6):
        memory.observe(turn, "a")
        after.append(held(memory))
    # Slots are numbered in the order in which their turns were heard.
    assert after == [["s1:0"], ["s1:0"], ["s1:0", "s1:2"], ["s1:2", "s1:3"], ["s1:2"], ["s1:2", "s1:5"]]
    assert policy.ages == [[0, 0], [1, 0], [2, 0], [3, 1], [2, 1], [3, 0]]
    assert [event.kind for event in memory.records("a")[3].events] == ["DELETE", "ADD"]


def test_it_holds_no_more_than_its_slots_and_says_so_after_a_thousand_turns(tmp_path: Path) -> None:
    policy = KeepNewest(6)
    memory = system(policy)
    memory.observe_many([(turn, "a") for turn in turns(500)])
    memory.save(tmp_path / "memory")
    memory.load(tmp_path / "memory")
    memory.observe_many([(turn, "a") for turn in turns(500)])
    assert held(memory) == [f"s1:{number}" for number in range(494, 500)]
    assert policy.seen[-1]["ages"].tolist() == [6, 5, 4, 3, 2, 1]
    assert len(memory.recall("word1", "a").items) == 6


def test_a_trained_policy_holds_the_same_turns_as_in_its_environment() -> None:
    pytest.importorskip("gymnasium")
    from memory_r1.environments.streams import Stream
    from memory_r1.environments.token_retention import TokenRetentionEnv

    spoken = turns(60)
    embeddings = FakeEmbedder().embed([turn.text for turn in spoken])
    torch.manual_seed(3)
    policy = RetentionPolicy(RetentionNetwork(8, 16), Projection.fit(embeddings, 8), slots=4)
    with torch.no_grad():  # so that it adds, replaces and lets go
        policy.network.worth.weight *= 20
    memory = system(policy)
    env = TokenRetentionEnv([Stream("d", policy.projection.apply(embeddings), ((59, 59),))], slots=4)
    sets = set()
    for turn in spoken:
        env.step(int(policy.act_projected({name: array[None] for name, array in env.observe().items()})[0]))
        memory.observe(turn, "a")
        expected = sorted(place for place in env.held if place is not None)
        assert held(memory) == [f"s1:{place}" for place in expected]
        sets.add(tuple(expected))
    assert len(sets) > 10


def test_it_needs_embeddings_and_an_embedder_that_its_policy_knows() -> None:
    with pytest.raises(ConfigurationError, match="reads embeddings: give a retriever of mode"):
        build_system("token-retention", retriever=Retriever(None, "bm25"), slot_policy=KeepNewest())
    published = build_system("token-retention", retriever=Retriever(FakeEmbedder()))
    with pytest.raises(ConfigurationError, match="embeddings of 384 values, found 64"):
        published.observe(turns(1)[0], "a")
