"""Calls from many threads, computed together: whoever gets the lock next does the work of all who wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Call(Generic[Request, Result]):
    request: Request
    outcome: Result | Exception | None = None


class Batcher(Generic[Request, Result]):
    """Runs single requests in batches.

    Args:
        run: Computes a batch: one result, or an exception in its place, for each request.
        lock: Held while `run` works; batchers that share a model share it.
    """

    def __init__(self, run: Callable[[Sequence[Request]], Sequence[Result | Exception]], lock: threading.Lock) -> None:
        self._run = run
        self._lock = lock
        self._waiting: list[_Call[Request, Result]] = []
        self._gate = threading.Lock()

    def submit(self, request: Request) -> Result:
        """Return the result of one request, or raise its exception, after the batch that it falls into."""
        call: _Call[Request, Result] = _Call(request)
        with self._gate:
            self._waiting.append(call)
        try:
            with self._lock:
                if call.outcome is None:  # no other thread has done it meanwhile
                    with self._gate:
                        calls = [each for each in self._waiting if each.outcome is None]
                    for each, outcome in zip(calls, self._outcomes(calls), strict=True):
                        each.outcome = outcome
        finally:
            with self._gate:
                self._waiting.remove(call)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        assert call.outcome is not None, "a batch has a result for every request"
        return call.outcome

    def _outcomes(self, calls: Sequence[_Call[Request, Result]]) -> Sequence[Result | Exception]:
        """Run a batch; if it fails, run each request alone, so that nobody pays for another's."""
        try:
            return self._run([call.request for call in calls])
        except Exception as error:  # raised again in the thread of each request that it belongs to
            if len(calls) == 1:
                return [error]
            return [outcome for call in calls for outcome in self._outcomes([call])]
