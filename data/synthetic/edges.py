"""Gold operations of generated dialogues as operations on a graph: every fact an edge, every pet's name a link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from data.banks import GoldOperations
from data.sources import Source
from data.synthetic.triples import animals, edge_of
from memory_r1.types import SAME_AS, Dialogue, Edge, Operation, OperationKind


def with_edges(sources: Sequence[Source]) -> list[Source]:
    """Return generated dialogues with graph operations for gold; dialogues without gold stay as they are.

    Raises:
        ConfigurationError: The gold is of other dialogues, whose sentences cannot be taken apart.
    """
    return [
        source if source.gold is None else replace(source, gold=graph_gold(source.dialogue, source.gold))
        for source in sources
    ]


def graph_gold(dialogue: Dialogue, gold: GoldOperations) -> dict[str, tuple[Operation, ...]]:
    """Return the graph operations by turn id, with the ids that a `MemoryBank` assigns if all are played from empty.

    ADD and UPDATE carry their text as an edge. An UPDATE that names a pet becomes a LINK of the name and the animal, as
    two turns call one pet by two names. Nothing is summarised: no question of the generator asks for it.

    Raises:
        ConfigurationError: A text is no sentence of the generator.
    """
    ids: dict[int, int] = {}  # flat id to graph id
    made = 0
    converted: dict[str, tuple[Operation, ...]] = {}
    for turn in dialogue.turns():
        operations = []
        for operation in gold.get(turn.turn_id, ()):
            text, old = operation.text or "", operation.entry_id or 0
            if operation.kind is OperationKind.ADD:
                old, made = len(ids) + 1, made + 1
                ids[old] = made
                operations.append(_stating(OperationKind.ADD, edge_of(text, turn.speaker)))
            elif operation.kind is OperationKind.UPDATE and (named := animals([text])):
                made += len(named)
                links = (Edge(name, SAME_AS, f"the {animal}") for name, animal in named.items())
                operations += [_stating(OperationKind.LINK, link) for link in links]
            elif operation.kind is OperationKind.UPDATE:
                operations.append(_stating(OperationKind.UPDATE, edge_of(text, turn.speaker), ids[old]))
            else:
                operations.append(replace(operation, entry_id=ids.get(old)))
        converted[turn.turn_id] = tuple(operations)
    return converted


def _stating(kind: OperationKind, edge: Edge, entry_id: int | None = None) -> Operation:
    return Operation(kind, edge.text, entry_id, edge)
