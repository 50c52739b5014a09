"""The table of memory systems by command-line name. To add one, write its module and give it a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import Embedder
from memory_r1.memory.forms import GRAPH
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import MemorySystem, TokenCounter, approximate_tokens
from memory_r1.systems.baselines import FullContext, NoMemory, Oracle, SlidingWindow
from memory_r1.systems.graph_manager import GraphMemory
from memory_r1.systems.hierarchical_graph import HierarchicalGraph
from memory_r1.systems.hipporag import HippoRAG, HippoRAG2
from memory_r1.systems.latent_tokens import LatentTokens, TokenWeaver
from memory_r1.systems.manager import AddOnly, AddOnlyNewestFirst, ManagedMemory, PromptedManager
from memory_r1.systems.mem1 import Mem1
from memory_r1.systems.memagent import MemAgent
from memory_r1.systems.memgpt import MemGPT
from memory_r1.systems.memorybank import MemoryBankSystem
from memory_r1.systems.plain_tokens import PlainTokens
from memory_r1.systems.profile import Profile
from memory_r1.systems.retrieval import Bm25, Rag
from memory_r1.systems.spec import Setting, SystemParts, SystemSpec
from memory_r1.systems.temporal_graph import TemporalGraph
from memory_r1.systems.token_retention import TokenRetention
from memory_r1.systems.token_slots import SlotPolicy
from memory_r1.systems.writer import Writer

SYSTEMS: dict[str, SystemSpec] = {
    "none": SystemSpec(lambda parts: NoMemory(count_tokens=parts.count_tokens)),
    "full-context": SystemSpec(lambda parts: FullContext(count_tokens=parts.count_tokens), ranks=False),
    "sliding-window": SystemSpec(
        lambda parts: SlidingWindow(count_tokens=parts.count_tokens, **parts.settings),
        settings={"window_tokens": 2048},
        ranks=False,
    ),
    "oracle": SystemSpec(lambda parts: Oracle(count_tokens=parts.count_tokens), ranks=False),
    "bm25": SystemSpec(
        lambda parts: Bm25(
            Retriever(None, "bm25"), recall_per_speaker=parts.recall_per_speaker, count_tokens=parts.count_tokens
        )
    ),
    "rag": SystemSpec(
        lambda parts: Rag(
            _retriever(parts), recall_per_speaker=parts.recall_per_speaker, count_tokens=parts.count_tokens
        ),
        needs_retriever=True,
    ),
    "profile": SystemSpec(
        lambda parts: Profile(parts.writer, count_tokens=parts.count_tokens), writes=True, ranks=False
    ),
    "plain-tokens": SystemSpec(
        lambda parts: PlainTokens(
            _embedder(parts),
            recall_per_speaker=parts.recall_per_speaker,
            count_tokens=parts.count_tokens,
            dimension=parts.settings["dimension"] or None,
        ),
        needs_retriever=True,
        settings={"dimension": 0},
    ),
    "memorybank": SystemSpec(
        lambda parts: _written(MemoryBankSystem, parts),
        needs_retriever=True,
        writes=True,
        settings={"recalled_per_turn": 6, "forgetting": "threshold", "forget_below": 0.05, "seed": 0},
        ranks=False,
    ),
    "memagent": SystemSpec(
        lambda parts: MemAgent(parts.writer, count_tokens=parts.count_tokens, **parts.settings),
        writes=True,
        settings={"section_tokens": 1000},
    ),
    "mem1": SystemSpec(
        lambda parts: Mem1(parts.writer, count_tokens=parts.count_tokens, **parts.settings),
        writes=True,
        settings={"block_turns": 4},
        ranks=False,
    ),
    "memgpt": SystemSpec(
        lambda parts: _written(MemGPT, parts),
        needs_retriever=True,
        writes=True,
        settings={"context_tokens": 2048, "heartbeats": 1},
        ranks=False,
    ),
    "hierarchical-graph": SystemSpec(
        lambda parts: _written(HierarchicalGraph, parts),
        needs_retriever=True,
        writes=True,
        settings={"hit_sessions": 3, "edge_similarity": 0.7, "turn_similarity": 0.3},
    ),
    "hipporag": SystemSpec(
        lambda parts: _written(HippoRAG, parts),
        needs_retriever=True,
        writes=True,
        settings={"synonym_threshold": 0.8, "damping": 0.5},
    ),
    "hipporag2": SystemSpec(
        lambda parts: _written(HippoRAG2, parts),
        needs_retriever=True,
        writes=True,
        settings={"synonym_threshold": 0.8, "damping": 0.5, "passage_weight": 0.05, "facts": 5},
    ),
    "temporal-graph": SystemSpec(
        lambda parts: _written(TemporalGraph, parts),
        needs_retriever=True,
        writes=True,
        settings={"alike": 0.6, "hops": 3},
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
    "memory-r1-graph": SystemSpec(
        lambda parts: _managed(GraphMemory, parts),
        needs_retriever=True,
        needs_manager=True,
        operations=GRAPH.name,
    ),
    "latent-tokens": SystemSpec(
        lambda parts: LatentTokens(_weaver(parts), count_tokens=parts.count_tokens, **parts.settings),
        needs_weaver=True,
        settings={"pool": 50, "seed": 0},
        ranks=False,
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
    writer: Writer | None = None,
    weaver: TokenWeaver | None = None,
    recall_per_speaker: int = 30,
    count_tokens: TokenCounter = approximate_tokens,
    slot_policy: SlotPolicy | None = None,
    settings: Mapping[str, Setting] | None = None,
) -> MemorySystem:
    """Build an empty system; it ignores the parts that it does not need.

    Args:
        name: A key of `SYSTEMS`.
        retriever: Ranks the entries to recall.
        manager: Writes the bank.
        writer: Writes summaries, facts and the like; None for rules.
        weaver: Compresses turns into memory tokens.
        recall_per_speaker: Entries recalled per speaker.
        count_tokens: Measures entries against a recall's budget.
        slot_policy: Decides what `token-retention` holds; None for the published policy.
        settings: Settings of its own; the others keep the defaults of `SYSTEMS`.

    Raises:
        ConfigurationError: The name or a setting is unknown, a needed part is missing, or a value is out of range.
    """
    spec = system_spec(name)
    if recall_per_speaker < 1:
        raise ConfigurationError(
            f"recall_per_speaker is {recall_per_speaker}: give the number of entries recalled per speaker, at least 1"
        )
    for part, needed, given in (
        ("retriever", spec.needs_retriever, retriever),
        ("manager", spec.needs_manager, manager),
        ("weaver", spec.needs_weaver, weaver),
    ):
        if needed and given is None:
            raise ConfigurationError(f"memory system {name!r} needs a {part}; pass build_system({part}=...)")
    if manager is not None and spec.needs_manager and manager.form.name != spec.operations:
        raise ConfigurationError(
            f"memory system {name!r} needs a manager that writes {spec.operations} operations, found "
            f"{manager.form.name}; pass MemoryManager(form=FORMS[{spec.operations!r}])"
        )
    own = {**spec.settings, **(settings or {})}
    if unknown := own.keys() - spec.settings.keys():
        allowed = ", ".join(spec.settings) or "none"
        raise ConfigurationError(f"memory system {name!r} has no setting {min(unknown)!r}; allowed: {allowed}")
    return spec.build(
        SystemParts(
            retriever=retriever,
            manager=manager,
            writer=writer,
            weaver=weaver,
            recall_per_speaker=recall_per_speaker,
            count_tokens=count_tokens,
            slot_policy=slot_policy,
            settings=own,
        )
    )


def parse_settings(texts: Sequence[str]) -> dict[str, dict[str, Setting]]:
    """Read settings such as "sliding-window.window_tokens=512"; return them by system and name.

    Raises:
        ConfigurationError: A text has another form, or names an unknown system, setting or kind of value.
    """
    found: dict[str, dict[str, Setting]] = {}
    known = {f"{system}.{name}": default for system, spec in SYSTEMS.items() for name, default in spec.settings.items()}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in known:
            raise ConfigurationError(f"setting {text!r} is unknown; give NAME=VALUE with one of {', '.join(known)}")
        kind = type(known[key])
        try:
            system, _, name = key.partition(".")
            found.setdefault(system, {})[name] = kind(value)
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise ConfigurationError(f"setting {key} is {value!r}; give {number}") from None
    return found


def _retriever(parts: SystemParts) -> Retriever:
    assert parts.retriever is not None, "build_system checks what a system needs"
    return parts.retriever


def _embedder(parts: SystemParts) -> Embedder:
    embedder = _retriever(parts).embedder
    if embedder is None:
        raise ConfigurationError("this memory system needs embeddings: give a retriever with an embedder, not 'bm25'")
    return embedder


def _weaver(parts: SystemParts) -> TokenWeaver:
    assert parts.weaver is not None, "build_system checks what a system needs"
    return parts.weaver


def _written(kind: Callable[..., MemorySystem], parts: SystemParts) -> MemorySystem:
    return kind(
        _embedder(parts),
        parts.writer,
        recall_per_speaker=parts.recall_per_speaker,
        count_tokens=parts.count_tokens,
        **parts.settings,
    )


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
