"""memory_r1: two LoRA agents that learn, by reinforcement, to manage a memory bank and to answer from it.

`from memory_r1 import Memory` gives their use as an assistant's memory; only that loads the libraries behind it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memory_r1.assistant.asynchronous import AsyncMemory
    from memory_r1.assistant.guards import Guards
    from memory_r1.assistant.memory import Memory

__version__ = "0.1.0"
__all__ = ["AsyncMemory", "Guards", "Memory", "__version__"]

_HOMES = {"AsyncMemory": "asynchronous", "Guards": "guards", "Memory": "memory"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"memory_r1.assistant.{_HOMES[name]}"), name)
