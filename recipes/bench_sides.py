"""The parent's handle on one side of the benchmark: starts its process, gives it turns, keeps what it reports."""

from __future__ import annotations

import multiprocessing
import signal
from typing import Any

from memory_r1.errors import TrainingError
from recipes.bench_worker import OUT_OF_MEMORY, Job, Measurement, Settings, Side, serve


class WorkerFailed(Exception):
    """A side could not do its job, for want of memory; it has no figures, and the other side goes on."""


class Worker:
    """One side in a process of its own, loaded and warm when the constructor returns.

    Raises:
        WorkerFailed: It ran out of memory.
        TrainingError: It ended otherwise; its traceback stands above.
    """

    def __init__(self, side: Side, job: Job, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would begin with the parent's memory
        self.side = side
        self.measurements: list[Measurement] = []
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, side, job, settings), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.notes: dict[str, Any] = self._receive()
        except BaseException:
            self.stop()
            raise

    def measure(self) -> None:
        """Give this side a turn."""
        self._connection.send("go")
        self.measurements.append(self._receive())

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.join(timeout=5)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _receive(self) -> Any:
        try:
            received = self._connection.recv()
        except EOFError:
            self._process.join()
            received = OUT_OF_MEMORY  # how Linux ends a process that takes more than there is
            if self._process.exitcode != -signal.SIGKILL:
                raise TrainingError(f"the {self.side} side ended early; its message stands above") from None
        if received == OUT_OF_MEMORY:
            raise WorkerFailed(OUT_OF_MEMORY)
        return received
