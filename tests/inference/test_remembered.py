"""Replies are cached up to a bound; the oldest is dropped first."""

from __future__ import annotations

from memory_r1.inference.remembered import Remembered


def test_only_what_was_kept_is_known() -> None:
    remembered: Remembered[str, int] = Remembered(10)
    remembered.keep({"a": 1, "b": 2})
    remembered.keep({"b": 3})
    assert remembered.known(["b", "c", "b"]) == {"b": 3}


def test_the_oldest_are_forgotten_first() -> None:
    remembered: Remembered[int, int] = Remembered(3)
    remembered.keep({1: 1, 2: 2})
    remembered.keep({3: 3, 4: 4})
    assert remembered.known(range(5)) == {2: 2, 3: 3, 4: 4}
    remembered.keep(dict.fromkeys(range(10, 20), 0))
    assert list(remembered.known(range(20))) == [17, 18, 19]
