"""How a command starts and ends: environment, exit status, and errors as one line."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence

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


def run_main(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Call `main` with the command's arguments and return its exit status (None: 0).

    A `MemoryR1Error`, or what the file system refuses (`OSError`), becomes `error: ...` on stderr and status 1, unless
    `--debug` is among the arguments: then it is raised on, with its traceback. Other exceptions are defects and always
    are. The environment is set before `main` imports what reads it, so a command imports transformers and the like
    inside its functions.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    keep_freed_memory()
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
