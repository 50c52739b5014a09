"""Keep replies of earlier calls, so that equal requests are paid for once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """The latest `most` replies by request; the oldest go first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: dict[Key, Value] = {}

    def known(self, keys: Iterable[Key]) -> dict[Key, Value]:
        """Return the remembered replies among `keys`."""
        return {key: self._values[key] for key in keys if key in self._values}

    def keep(self, fresh: Mapping[Key, Value]) -> None:
        """Remember these replies too, dropping the oldest beyond `most`."""
        self._values.update(fresh)
        while len(self._values) > self.most:
            del self._values[next(iter(self._values))]
