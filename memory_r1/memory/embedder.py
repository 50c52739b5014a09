"""Embed texts as unit vectors, each text only once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from memory_r1.errors import ModelError
from memory_r1.weights import hash_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Embedder(Protocol):
    """Turns texts into vectors whose inner product is their similarity."""

    @property
    def dimension(self) -> int:
        """The length of a vector, E."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return one unit vector per text, in order: float32, shape (len(texts), E)."""
        ...

    @property
    def identity(self) -> str:
        """The name of the mapping: embedders with equal identities give equal vectors."""
        ...

    def remember(self, vectors: Mapping[bytes, np.ndarray]) -> None:
        """Add vectors of shape (E,), by `text_key`, that this model made earlier."""
        ...

    def clear(self) -> None:
        """Drop all cached vectors, so that no forgotten text survives in the cache."""
        ...


def text_key(text: str) -> bytes:
    """Return the SHA-256 of a text, the key of its vector."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class SentenceEmbedder:
    """A sentence-transformers model, loaded on first use, with a cache of vectors.

    The cache is keyed by the SHA-256 of a text. Past `max_cached` vectors it drops the oldest.
    """

    def __init__(self, model: str | Path, batch_size: int = 64, max_cached: int = 200_000, device: str = "cpu") -> None:
        """Name the model by a folder, which is read without network access, or by a hub id."""
        self._name = str(model)
        self._batch_size = batch_size
        self._max_cached = max_cached
        self._device = device
        self._model: SentenceTransformer | None = None
        self._cache: dict[bytes, np.ndarray] = {}

    @property
    def dimension(self) -> int:
        dimension = self._loaded().get_embedding_dimension()
        if dimension is None:
            raise ModelError(f"the model {self._name} does not tell the length of its vectors; use a sentence model")
        return dimension

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed the texts; only those missing from the cache reach the model, in one call.

        Raises:
            ModelError: The model cannot be loaded.
        """
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        keys = [text_key(text) for text in texts]
        unseen = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._cache}
        if unseen:
            self._cache.update(zip(unseen, self._encode(list(unseen.values())), strict=True))
        rows = np.stack([self._cache[key] for key in keys])
        while len(self._cache) > self._max_cached:
            del self._cache[next(iter(self._cache))]
        return rows

    @property
    def identity(self) -> str:
        """The hash of the model's weights or, without local safetensors, its name."""
        folder = Path(self._name)
        return (hash_weights(folder) if folder.is_dir() else None) or self._name

    def remember(self, vectors: Mapping[bytes, np.ndarray]) -> None:
        self._cache.update(vectors)

    def clear(self) -> None:
        self._cache.clear()

    def _encode(self, texts: list[str]) -> np.ndarray:
        # encode() sorts by length itself, so batches hold little padding.
        rows = self._loaded().encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(rows, dtype=np.float32)

    def _loaded(self) -> SentenceTransformer:
        if self._model is None:
            from sentence_transformers import SentenceTransformer

            try:
                self._model = SentenceTransformer(
                    self._name, device=self._device, local_files_only=Path(self._name).is_dir()
                )
            except (OSError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                raise ModelError(
                    f"the sentence model {self._name} cannot be loaded ({reason}); "
                    "give a sentence-transformers folder or hub id"
                ) from error
        return self._model
