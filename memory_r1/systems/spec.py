"""What the table of memory systems says of each, and the parts from which it builds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.memory.forms import FLAT
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import MemorySystem, TokenCounter, approximate_tokens
from memory_r1.systems.latent_tokens import TokenWeaver
from memory_r1.systems.token_slots import SlotPolicy
from memory_r1.systems.writer import Writer

Setting = int | float | str


@dataclass(frozen=True, slots=True)
class SystemParts:
    """The parts that a system may need.

    `recall_per_speaker` is per speaker, no `slot_policy` is the published one, `settings` are the system's own.
    """

    retriever: Retriever | None = None
    manager: MemoryManager | None = None
    writer: Writer | None = None
    weaver: TokenWeaver | None = None
    recall_per_speaker: int = 30
    count_tokens: TokenCounter = approximate_tokens
    slot_policy: SlotPolicy | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """How to build a system.

    Attributes:
        build: Builds an empty one.
        needs_retriever: Whether it needs a retriever, or that retriever's embedder.
        needs_manager: Whether it needs a Memory Manager.
        needs_weaver: Whether it needs a weaver of memory tokens.
        takes_slot_policy: Whether a trained policy decides what it holds; without one it takes the published policy.
        prompted: Whether its manager is the untrained base model, which reads worked examples.
        operations: The form of its manager's operations, a key of `FORMS`.
        writes: Whether it writes with a `Writer`; without a model, by rules.
        settings: The settings of its own, with their defaults.
        ranks: Whether it recalls best first, so that "the first k" means something; others keep the order of time.
    """

    build: Callable[[SystemParts], MemorySystem]
    needs_retriever: bool = False
    needs_manager: bool = False
    needs_weaver: bool = False
    takes_slot_policy: bool = False
    prompted: bool = False
    operations: str = FLAT.name
    writes: bool = False
    settings: Mapping[str, Setting] = field(default_factory=dict)
    ranks: bool = True

    @property
    def takes_manager_adapter(self) -> bool:
        """Whether its manager may be a trained one."""
        return self.needs_manager and not self.prompted
