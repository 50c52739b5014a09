"""Replies kept from earlier calls, so that equal requests are paid for once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """The latest `most` replies by request; the oldest are forgotten first.

    Args:
        most: Replies kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: dict[Key, Value] = {}

    def known(self, keys: Iterable[Key]) -> dict[Key, Value]:
        """Those of `keys` that are remembered, with their replies."""
        return {key: self._values[key] for key in keys if key in self._values}

    def keep(self, fresh: Mapping[Key, Value]) -> None:
        """Remember these too, the last of them longest."""
        self._values.update(fresh)
        while len(self._values) > self.most:
            del self._values[next(iter(self._values))]
