"""How a command starts and ends: environment, exit status, and errors as one line."""

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
    # Accelerate counts physical cores, which containers often do not tell, and then falls back to one thread.
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
    # Threads that spin at a barrier halve the speed, or worse, as soon as another process wants a core.
    "OMP_WAIT_POLICY": "PASSIVE",
    # TRL warns of the hook through which completions share their prompt's pass; the contract test watches over it.
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)
_KEPT = 2**31 - 1  # bytes: all that an int holds

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if sys.platform == "linux" else ()


def run_main(
    main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None, *, lower: str | None = None
) -> int:
    """Call `main` with the command's arguments and return its exit status (None: 0).

    With `lower`, the names of the options to lower where memory does not suffice, `main` runs in a process of its own,
    so that a word is left of one that the system kills (on Linux; elsewhere `lower` changes nothing).

    A `MemoryR1Error`, or what the file system refuses (`OSError`), becomes `error: ...` on stderr and status 1, unless
    `--debug` is among the arguments: then it is raised on, with its traceback. Other exceptions are defects and always
    are. The environment is set before `main` imports what reads it, so a command imports transformers and the like
    inside its functions.
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
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def keep_freed_memory() -> None:
    """Have the allocator keep what tensors free, where it is glibc's.

    By default it gives every large block back to the system, and the next layer's tensors are mapped, zeroed page by
    page and given back again: a quarter of the time of a forward on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(parameter, _KEPT)


def _run_apart(arguments: Sequence[str], lower: str) -> int | None:
    """Fork, while the process is small: None in the child, and in the parent the child's exit status once it ends.

    The parent hands on the signals that are sent to it, and the child does not outlive it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    awaited = {signal.SIGCHLD, *_FORWARDED}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before the system knew
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        received = signal.sigwaitinfo(awaited)
        # Ctrl-C has reached the child as well: a terminal, unlike a process, signals all that it has started.
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
    """What to say of a process that a signal ended, at a peak memory in bytes."""
    words = [part for word in arguments for part in word.split("=", 1)]
    recipe = next((after for option, after in pairwise(words) if option == "--config"), sys.argv[0])
    ended = f"{recipe}: the process was ended by {number.name}; its memory peaked at {peak / 1e9:.1f} GB"
    if number != signal.SIGKILL:
        return ended
    why = f"the system kills what needs more than there is: lower {lower} (--dry-run says what a step needs)"
    return f"{ended}; {why}"
