"""One side of the benchmark in its own process, and the parent's handle on it.

Both sides of a comparison live at once and take turns, so that a slow minute of the machine affects both. Each has its
own process, because peak memory can only be measured per process.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import warnings
from multiprocessing.connection import Connection
from typing import Any

from memory_r1.entry import keep_freed_memory
from memory_r1.errors import TrainingError
from recipes.bench.measuring import OUT_OF_MEMORY, Job, Measurement, Settings, Side, Turns

_MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", OUT_OF_MEMORY)


class WorkerFailed(Exception):
    """A side ran out of memory; it has no figures, and the other side goes on."""


class Worker:
    """One side in its own process, loaded and warm when the constructor returns.

    Raises:
        WorkerFailed: It ran out of memory.
        TrainingError: It failed otherwise, after printing its traceback.
    """

    def __init__(self, side: Side, job: Job, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the parent's memory
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
        """End the process, by force if necessary."""
        self._process.join(timeout=5)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _receive(self) -> Any:
        try:
            received = self._connection.recv()
        except EOFError:
            self._process.join()
            received = OUT_OF_MEMORY  # Linux kills a process that takes too much
            if self._process.exitcode != -signal.SIGKILL:
                raise TrainingError(f"the {self.side} side ended early; its message stands above") from None
        if received == OUT_OF_MEMORY:
            raise WorkerFailed(OUT_OF_MEMORY)
        return received


def serve(connection: Connection, side: Side, job: Job, settings: Settings) -> None:
    """Do one job in a fresh process; report running out of memory, and let other errors end it with a traceback."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    logging.basicConfig(level=logging.WARNING, format=f"{side}: %(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)  # from one library to another
    disable_progress_bar()
    keep_freed_memory()  # as in every command of this project, on both sides
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    try:
        _run(Turns(connection), side, job, settings)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(text in str(error).lower() for text in _MEMORY_MESSAGES):
            connection.send(OUT_OF_MEMORY)
        else:
            raise


def _run(turns: Turns, side: Side, job: Job, settings: Settings) -> None:
    from recipes.bench.answering import run_answering, run_reward  # imports torch, which the parent does not need
    from recipes.bench.steps import run_steps

    {"steps": run_steps, "reward": run_reward, "answering": run_answering, "de-duplication": run_answering}[job.kind](
        turns, side, job, settings
    )
