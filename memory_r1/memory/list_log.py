"""The log in a list, for rollouts and for systems that no file keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from memory_r1.memory.log import Log, S, check_scope
from memory_r1.memory.record import Record


class ListLog(Log[S]):
    """A log in memory.

    Args:
        start: The state before the first record of a scope.
        states: Scopes that start from another state, as in a rollout.
    """

    def __init__(self, start: S, states: Mapping[str, S] | None = None) -> None:
        super().__init__(start)
        self._states = dict(states or {})
        self._records: dict[str, list[Record]] = {}
        self._fresh: list[str] = []  # scopes that the current transaction has appended to

    def scopes(self) -> tuple[str, ...]:
        return tuple(sorted(scope for scope, records in self._records.items() if records))

    def records(self, scope: str, since: int = 0) -> tuple[Record, ...]:
        check_scope(scope)
        with self._lock:
            return tuple(self._records.get(scope, ())[since:])

    def _start_of(self, scope: str) -> S:
        return self._states.get(scope, self.start)

    def _append(self, scope: str, number: int, record: Record) -> None:
        self._records.setdefault(scope, []).append(record)
        self._fresh.append(scope)

    def _erase(self, scope: str, redacted: Sequence[Record] | None, items: Collection[int]) -> None:
        if redacted is None:
            self._records.pop(scope, None)
            self._states.pop(scope, None)
        else:
            self._records[scope] = list(redacted)

    def _reading(self) -> AbstractContextManager[object]:
        return self._lock

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._fresh = []
        try:
            yield
        except BaseException:
            for scope in self._fresh:
                self._records[scope].pop()
            self._folded.clear()
            raise
