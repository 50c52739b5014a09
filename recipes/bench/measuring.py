"""The jobs of the benchmark's two sides, their turns, and the meter of time and memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

Side = Literal["ours", "stock"]
Kind = Literal["steps", "reward", "answering", "de-duplication"]

OUT_OF_MEMORY = "out of memory"
_CLEAR, _MEMORY = Path("/proc/self/clear_refs"), Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings shared by all measurements of a run; `threads` 0 leaves the choice to PyTorch."""

    model: str
    dtype: str
    embedder: str
    threads: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job that both sides do `repeats` times: D = `prompts` prompts of P = `prompt` tokens, G = `generations`
    completions each, C = `completion` tokens per completion. Manager and answer prompts keep their natural length:
    `prompt` is 0, and they hold K = `recalled` memories.
    """

    kind: Kind
    repeats: int
    prompt: int = 0
    generations: int = 1
    completion: int = 1
    prompts: int = 1
    recalled: int = 0

    @property
    def unmeasured(self) -> int:
        """Warm-up steps before the first turn: one if steps are cheap enough to be repeated often."""
        return int(self.repeats >= 3)

    @property
    def steps(self) -> int:
        """Steps to run."""
        return self.unmeasured + self.repeats


@dataclass(slots=True)
class Measurement:
    """One turn of one side, by part (`rollout`, `logprob`, `step`, ...): seconds, bytes above the loaded model (None if
    the system does not report them), tokens run through the layers, and tokens projected onto the vocabulary.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    projected: dict[str, float] = field(default_factory=dict)


def forward_tokens(side: Side, prompts: Sequence[int], generations: int, completion: int) -> int:
    """Return the tokens that one pass runs through the layers: stock repeats each prompt G times, ours does not.

    Args:
        side: The side, "ours" or "stock".
        prompts: Lengths of the D distinct prompts, in tokens.
        generations: G.
        completion: C, the length of every completion, in tokens.
    """
    repeated = generations if side == "stock" else 1
    return sum(repeated * prompt + generations * completion for prompt in prompts)


class Turns:
    """The worker's end of the connection: at each go it measures once and reports."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def ready(self, **notes: Any) -> None:
        """Report that this side is loaded and warm; `notes` describe its set-up."""
        self.connection.send(notes)

    def wait(self) -> None:
        """Wait for this side's turn."""
        _trim_heap()  # the other side needs the memory
        self.connection.recv()

    def report(self, measurement: Measurement) -> None:
        """Report the turn's measurement."""
        self.connection.send(measurement)


class Meter:
    """Clock and peak memory of one device; memory counts from the last `settle`."""

    def __init__(self, device: Any) -> None:
        self.on_gpu = device.type == "cuda"
        self.can_restart = True
        self.settle()

    def settle(self) -> None:
        """Count from the memory resident now; weights mapped from a file are resident only after a first pass."""
        self.restart()
        self.baseline = self._now()

    def restart(self) -> float:
        """Forget the peak so far; return the time."""
        import torch

        if self.on_gpu:
            torch.cuda.empty_cache()  # the other side shares the card
            torch.cuda.reset_peak_memory_stats()
        else:
            self.can_restart = restart_peak()
        return self.time()

    def time(self) -> float:
        """Wait for all work on the device; return the clock in seconds."""
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> int | None:
        """Return the peak since the restart, in bytes above the baseline; None if the system cannot tell."""
        now = self._now()
        return None if now is None or self.baseline is None else max(0, now - self.baseline)

    def _now(self) -> int | None:
        import torch

        if self.on_gpu:
            return int(torch.cuda.max_memory_allocated())
        return resident_peak() if self.can_restart else None


def restart_peak() -> bool:
    """Reset the peak of this process to the memory resident now; return whether the system could."""
    _trim_heap()
    try:
        _CLEAR.write_text("5")  # Linux, see proc(5)
    except OSError:
        return False
    return True


def resident_peak(process: int | str = "self") -> int | None:
    """Return the most memory that a process has had resident, in bytes; None if it ended or the system cannot tell."""
    # Not `ru_maxrss`: it starts at the parent process's size and cannot be reset.
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def device() -> Any:
    """Return the GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def available_bytes() -> int | None:
    """Return the bytes that a measurement may still take without swapping; None if the system does not report them."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    if not _MEMORY.is_file():
        return None
    line = next(line for line in _MEMORY.read_text(encoding="ascii").splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def _trim_heap() -> None:
    """Return freed memory to the system if the C library can, so that peaks exclude earlier parts."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
