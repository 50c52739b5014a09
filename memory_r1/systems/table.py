"""The table of memory systems by command-line name. To add one, write its module and give it a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.errors import ConfigurationError
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import (
    MemorySystem,
    TokenCounter,
    approximate_tokens,
)
from memory_r1.systems.baselines import FullContext, NoMemory, Oracle
from memory_r1.systems.manager import AddOnly, AddOnlyNewestFirst, ManagedMemory, PromptedManager
from memory_r1.systems.retrieval import Rag
from memory_r1.systems.token_retention import TokenRetention
from memory_r1.systems.token_slots import SlotPolicy


@dataclass(frozen=True, slots=True)
class SystemParts:
    """The parts that a system may need. `recall_per_speaker` is per speaker; no `slot_policy` is the published one."""

    retriever: Retriever | None = None
    manager: MemoryManager | None = None
    recall_per_speaker: int = 30
    count_tokens: TokenCounter = approximate_tokens
    slot_policy: SlotPolicy | None = None


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """How to build a system.

    Attributes:
        build: Builds an empty one.
        needs_retriever: Whether it needs a retriever.
        needs_manager: Whether it needs a Memory Manager.
        takes_slot_policy: Whether a trained policy decides what it holds; without one it takes the published policy.
        prompted: Whether its manager is the untrained base model, which reads worked examples.
        ranks: Whether it recalls best first, so that "the first k" means something; others keep the order of time.
    """

    build: Callable[[SystemParts], MemorySystem]
    needs_retriever: bool = False
    needs_manager: bool = False
    takes_slot_policy: bool = False
    prompted: bool = False
    ranks: bool = True


SYSTEMS: dict[str, SystemSpec] = {
    "none": SystemSpec(lambda parts: NoMemory(count_tokens=parts.count_tokens)),
    "full-context": SystemSpec(lambda parts: FullContext(count_tokens=parts.count_tokens), ranks=False),
    "oracle": SystemSpec(lambda parts: Oracle(count_tokens=parts.count_tokens), ranks=False),
    "rag": SystemSpec(
        lambda parts: Rag(
            _retriever(parts), recall_per_speaker=parts.recall_per_speaker, count_tokens=parts.count_tokens
        ),
        needs_retriever=True,
    ),
    "add-only": SystemSpec(lambda parts: _managed(AddOnly, parts), needs_retriever=True, needs_manager=True),
    "add-only-newest-first": SystemSpec(
        lambda parts: _managed(AddOnlyNewestFirst, parts),
        needs_retriever=True,
        needs_manager=True,
        ranks=False,
    ),
    "prompted-manager": SystemSpec(
        lambda parts: _managed(PromptedManager, parts),
        needs_retriever=True,
        needs_manager=True,
        prompted=True,
    ),
    "memory-r1": SystemSpec(
        lambda parts: _managed(ManagedMemory, parts),
        needs_retriever=True,
        needs_manager=True,
    ),
    "token-retention": SystemSpec(lambda parts: _token_retention(parts), needs_retriever=True, takes_slot_policy=True),
}
"""Every system, by its command-line name."""


def system_spec(name: str) -> SystemSpec:
    """Return the entry of `SYSTEMS`, or raise a ConfigurationError that names the allowed ones."""
    if name not in SYSTEMS:
        raise ConfigurationError(f"memory system {name!r} is unknown; allowed: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def build_system(
    name: str,
    *,
    retriever: Retriever | None = None,
    manager: MemoryManager | None = None,
    recall_per_speaker: int = 30,
    count_tokens: TokenCounter = approximate_tokens,
    slot_policy: SlotPolicy | None = None,
) -> MemorySystem:
    """Build an empty system; it ignores the parts that it does not need.

    Args:
        name: A key of `SYSTEMS`.
        retriever: Ranks the entries to recall.
        manager: Writes the bank.
        recall_per_speaker: Entries recalled per speaker.
        count_tokens: Measures entries against a recall's budget.
        slot_policy: Decides what `token-retention` holds; None for the published policy.

    Raises:
        ConfigurationError: The name is unknown, a needed part is missing, or `recall_per_speaker` is below 1.
    """
    spec = system_spec(name)
    if recall_per_speaker < 1:
        raise ConfigurationError(
            f"recall_per_speaker is {recall_per_speaker}: give the number of entries recalled per speaker, at least 1"
        )
    for part, needed, given in (
        ("retriever", spec.needs_retriever, retriever),
        ("manager", spec.needs_manager, manager),
    ):
        if needed and given is None:
            raise ConfigurationError(f"memory system {name!r} needs a {part}; pass build_system({part}=...)")
    return spec.build(SystemParts(retriever, manager, recall_per_speaker, count_tokens, slot_policy))


def _retriever(parts: SystemParts) -> Retriever:
    assert parts.retriever is not None, "build_system checks what a system needs"
    return parts.retriever


def _managed(kind: type[ManagedMemory], parts: SystemParts) -> ManagedMemory:
    assert parts.manager is not None, "build_system checks what a system needs"
    return kind(
        parts.manager,
        _retriever(parts),
        recall_per_speaker=parts.recall_per_speaker,
        count_tokens=parts.count_tokens,
    )


def _token_retention(parts: SystemParts) -> TokenRetention:
    policy = parts.slot_policy
    if policy is None:
        from memory_r1.systems.retention_policy import RetentionPolicy  # torch, which no other system here needs

        policy = RetentionPolicy.load()
    return TokenRetention(
        policy, _retriever(parts), recall_per_speaker=parts.recall_per_speaker, count_tokens=parts.count_tokens
    )
