"""`AsyncMemory`: the verbs of `Memory` for asyncio, each in a thread, so that concurrent calls share a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from memory_r1.assistant.memory import Memory

P = ParamSpec("P")
R = TypeVar("R")


def _awaited(
    verb: Callable[Concatenate[Memory, P], R],
) -> Callable[Concatenate[AsyncMemory, P], Coroutine[Any, Any, R]]:
    """Return a verb of `Memory` as a coroutine function."""

    @wraps(verb)
    async def run(self: AsyncMemory, *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(verb, self.memory, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    return run


class AsyncMemory:
    """A `Memory` for asyncio.

    Calls never block the event loop. A cancelled call still finishes in its thread.

    Args:
        memory: The memory to use; by default `Memory()`.
        concurrency: Most calls at work, and so the largest batch.
    """

    def __init__(self, memory: Memory | None = None, *, concurrency: int = 32) -> None:
        self.memory = memory if memory is not None else Memory()
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="memory")

    @classmethod
    def from_adapters(cls, **options: Any) -> Self:
        """Open a memory with adapters of one's own, as `Memory.from_adapters` does."""
        return cls(Memory.from_adapters(**options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for the calls at work, then close the file."""
        await asyncio.to_thread(self._threads.shutdown)
        self.memory.close()

    add = _awaited(Memory.add)
    end_session = _awaited(Memory.end_session)
    search = _awaited(Memory.search)
    answer = _awaited(Memory.answer)
    get_all = _awaited(Memory.get_all)
    get = _awaited(Memory.get)
    update = _awaited(Memory.update)
    delete = _awaited(Memory.delete)
    delete_all = _awaited(Memory.delete_all)
    history = _awaited(Memory.history)
    undo = _awaited(Memory.undo)
    redo = _awaited(Memory.redo)
    forget = _awaited(Memory.forget)
    reset = _awaited(Memory.reset)
