"""`memory-r1 inspect`: look into a memory store in the browser."""

from __future__ import annotations

from pathlib import Path


def inspect(store: Path, writable: bool = False, port: int = 0, browser: bool = True) -> None:
    """Open a local page that shows what a memory store holds and how it came to hold it.

    The page steps through the log: the memories after each turn, what the turn changed, every version of a memory,
    and a search. Only this machine can reach it. The store is read-only unless --writable allows to undo the last edit.
    --port 0 takes a free port; --no-browser only prints the address.

    Example: memory-r1 inspect outputs/eval/memory.db
    """
    from contextlib import closing

    from memory_r1.inspector.server import inspect as serve
    from memory_r1.inspector.store import StoreFile

    with closing(StoreFile(store, writable=writable)) as opened:
        serve(opened, port=port, open_browser=browser)
