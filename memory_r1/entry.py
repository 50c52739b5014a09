"""Start and end a command: environment, exit status and one-line errors."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

from memory_r1.errors import MemoryR1Error

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells report it (128 + SIGINT)."""

_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Accelerate counts physical cores, which containers often hide, and then falls back to one thread.
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
    # Threads that spin at a barrier halve the speed, or worse, once another process competes for a core.
    "OMP_WAIT_POLICY": "PASSIVE",
    # TRL warns about the experimental hook that prefix sharing uses; a contract test covers that hook.
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)
_KEPT = 2**31 - 1  # bytes, the largest int

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if sys.platform == "linux" else ()


def run_main(
    main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None, *, lower: str | None = None
) -> int:
    """Call `main` with the command's arguments and return its exit status (None counts as 0).

    `lower` names the options to lower if memory runs out. If given, `main` runs in a child process on Linux, so that
    the parent can explain why the system killed it.

    A `MemoryR1Error` or `OSError` becomes `error: ...` on stderr and status 1; with `--debug` it propagates with its
    traceback. Other exceptions are defects and always propagate. The environment must be set before libraries such as
    transformers read it, so commands import them inside functions.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    keep_freed_memory()
    if lower is not None and sys.platform == "linux":
        status = _run_apart(arguments, lower)
        if status is not None:
            return status
    try:
        return main(arguments) or 0
    except (MemoryR1Error, OSError) as error:
        if "--debug" in arguments:
            raise
        sys.stderr.write(f"error: {' '.join(plain(str(error)).split())}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def plain(text: str) -> str:
    """Return a text on one line, without characters that steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def keep_freed_memory() -> None:
    """Make glibc's allocator keep the memory that tensors free; do nothing elsewhere.

    By default it returns every large block to the system, which then maps and zeroes pages for the next layer's
    tensors. That takes a quarter of a forward pass on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(parameter, _KEPT)


def _run_apart(arguments: Sequence[str], lower: str) -> int | None:
    """Fork while the process is small; return None in the child, and the child's exit status in the parent.

    The parent forwards signals to the child, and the child dies with the parent.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    awaited = {signal.SIGCHLD, *_FORWARDED}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before prctl took effect
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        received = signal.sigwaitinfo(awaited)
        # A terminal sends Ctrl-C to the child too; only signals sent by a process (si_code <= 0) need forwarding.
        if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
            os.kill(child, received.si_signo)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _, wait_status, usage = ended
    status = os.waitstatus_to_exitcode(wait_status)
    if status >= 0:
        return status
    sys.stderr.write(f"error: {_last_words(arguments, signal.Signals(-status), usage.ru_maxrss * 1024, lower)}\n")
    return 128 - status


def _last_words(arguments: Sequence[str], number: signal.Signals, peak: int, lower: str) -> str:
    """Return the message for a process ended by signal `number`; `peak` is its peak memory in bytes."""
    words = [part for word in arguments for part in word.split("=", 1)]
    recipe = next((after for option, after in pairwise(words) if option == "--config"), sys.argv[0])
    ended = f"{recipe}: the process was ended by {number.name}; its memory peaked at {peak / 1e9:.1f} GB"
    if number != signal.SIGKILL:
        return ended
    why = f"the system kills a process that runs out of memory: lower {lower} (--dry-run estimates the need per step)"
    return f"{ended}; {why}"
