"""Token memory: embeddings by index, the nearest by dot product, and a dimension that is the encoder's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memory_r1.errors import ConfigurationError, StoreError
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.plain_tokens import PlainTokens, TokenMemory
from memory_r1.systems.table import build_system
from memory_r1.types import Turn
from tests.fakes import FakeEmbedder


def test_the_nearest_token_comes_with_its_embedding() -> None:
    memory, embedder = TokenMemory(FakeEmbedder(), 64), FakeEmbedder()
    assert memory.retrieve("cat") is None
    assert [memory.add(text) for text in ("my cat likes fish", "I moved to Rome")] == [0, 1]
    token = memory.retrieve("moved to Rome")
    assert token is not None
    assert (token.index, token.text) == (1, "I moved to Rome")
    assert np.array_equal(token.embedding, embedder.embed(["I moved to Rome"])[0])
    assert token.similarity == pytest.approx(float(token.embedding @ embedder.embed(["moved to Rome"])[0]))


def test_an_updated_token_is_found_by_its_new_text_at_its_old_index() -> None:
    memory = TokenMemory(FakeEmbedder())
    for text in ("my cat likes fish", "I moved to Rome"):
        memory.add(text)
    memory.update(0, "chess on Mondays")
    token = memory.retrieve("chess")
    assert token is not None and (token.index, token.text, len(memory)) == (0, "chess on Mondays", 2)
    for index in (-1, 2):
        with pytest.raises(StoreError, match=f"no token has index {index}: the memory holds 2"):
            memory.update(index, "nothing")


def test_a_declared_dimension_that_is_not_the_encoders_is_refused() -> None:
    message = "declared dimension of a token is 128, but the encoder's embeddings have 64: declare 64, or leave it out"
    with pytest.raises(ConfigurationError, match=message):
        TokenMemory(FakeEmbedder(), 128)
    with pytest.raises(ConfigurationError, match=message):
        build_system("plain-tokens", retriever=Retriever(FakeEmbedder()), settings={"dimension": 128})


def told(embedder: FakeEmbedder) -> PlainTokens:
    system = PlainTokens(embedder, recall_per_speaker=1)
    for number, text in enumerate(["my cat likes fish", "I moved to Rome", "fish is fine"], start=1):
        system.observe(Turn(f"D1:{number}", "Ann", text), "a")
    return system


def test_the_system_recalls_by_dot_product_from_embeddings_in_its_log(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    told(embedder).save(tmp_path / "memory.db")
    system = PlainTokens(FakeEmbedder(), recall_per_speaker=1)
    system.load(tmp_path / "memory.db")
    assert [entry.text for entry in system.recall("fish is fine", "a").items] == ["fish is fine"]
    assert system._embedder.calls == [["fish is fine"]]  # type: ignore[attr-defined]  # the query and no turn


def test_embeddings_of_another_encoder_are_refused(tmp_path: Path) -> None:
    told(FakeEmbedder()).save(tmp_path / "memory.db")
    other = FakeEmbedder()
    other.identity = "another model"
    system = PlainTokens(other, recall_per_speaker=1)
    system.load(tmp_path / "memory.db")
    with pytest.raises(StoreError, match="scope 'a' come from the encoder 'hashed words', not from 'another mode"):
        system.recall("fish", "a")


def test_a_forgotten_token_leaves_neither_text_nor_embedding(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    system = told(embedder)
    (vector,) = embedder.embed(["Ann: I moved to Rome"])
    system.save(tmp_path / "before.db")
    system.forget("a", {2})
    system.save(tmp_path / "after.db")
    held = [vector.tobytes() in (tmp_path / name).read_bytes() for name in ("before.db", "after.db")]
    assert held == [True, False]
    assert len(system.recall("moved to Rome", "a").items) == 1
