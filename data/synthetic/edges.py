"""Gold operations of generated dialogues as operations on a graph: every fact an edge, every pet's name a link."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from data.banks import GoldOperations
from data.sources import Source
from data.synthetic.values import VALUES
from data.synthetic.wording import phrases
from memory_r1.errors import ConfigurationError
from memory_r1.types import SAME_AS, Dialogue, Edge, Operation, OperationKind

_DATE = re.compile(r",? (?:on )?(\d{1,2} [A-Z][a-z]+)$")
_PARTS = ("car_make", "car_colour", "drink_base", "drink_flavour", "date")
_ATTRIBUTES = {
    value: (attribute, split)
    for attribute, splits in VALUES.items()
    if attribute not in (*_PARTS, "pet_name")
    for split, values in splits.items()
    for value in values
}
_VALUE = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _ATTRIBUTES), key=len, reverse=True)) + r")\b")
_ENTRY = re.compile(r"(\{[nx]\}) ?(.+?) (?:(the) )?(\{a?v\})(.*)")


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

    ADD and UPDATE carry the edge that their text says. An UPDATE that names a pet becomes a LINK of the name and the
    animal, as two turns call one pet by two names. Nothing is summarised: no question of the generator asks for it.

    Raises:
        ConfigurationError: A text has no value of the generator.
    """
    texts: dict[int, str] = {}  # by flat id
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
            elif operation.kind is OperationKind.UPDATE and (link := _link(text, texts[old])) is not None:
                made += 1
                operations.append(_stating(OperationKind.LINK, link))
            elif operation.kind is OperationKind.UPDATE:
                operations.append(_stating(OperationKind.UPDATE, edge_of(text, turn.speaker), ids[old]))
            else:
                operations.append(replace(operation, entry_id=ids.get(old)))
            texts[old] = text
        converted[turn.turn_id] = tuple(operations)
    return converted


def edge_of(text: str, speaker: str) -> Edge:
    """Return the edge that an entry of the generator says, from its speaker, or a pet by its name, to the value.

    Where more follows the value, or the sentence begins with another word, the attribute's plainest phrase stands in.

    Raises:
        ConfigurationError: The text has no value of the generator.
    """
    date = _DATE.search(text)
    bare = text[: date.start()] if date else text
    value = next(reversed(_VALUE.findall(bare)), None)
    if value is None:
        raise ConfigurationError(
            f"gold operation {text!r} is no sentence of the generator, so it has no edge; use dataset: synthetic or "
            "synthetic-aliases, or banks: manager"
        )
    attribute, split = _ATTRIBUTES[value]
    subject = speaker if attribute != "den" else text.split(" ", 1)[0]
    relation, article, after = _plainest(attribute, split)
    said = re.fullmatch(rf"{re.escape(subject)} ?(.+?) (?:(an?|the) )?{re.escape(value)}", bare)
    if said:
        relation, article, after = said[1], said[2] or "", ""
    elif article == "a":
        article = "an" if re.search(rf"\ban {re.escape(value)}", bare) else "a"
    thing = f"{article} {value}{after}" if article else f"{value}{after}"
    return Edge(subject, relation, thing, date[1] if date else "")


def _plainest(attribute: str, split: str) -> tuple[str, str, str]:
    """Return relation, article and what follows the value in the first phrase that begins with its subject.

    Phrases in which nothing follows the value come first.
    """
    entries = (re.sub(r",? ?(on )?\{d\}", "", phrase.entry) for phrase in phrases(split)[attribute]["s"])
    found = [match for entry in entries if (match := _ENTRY.fullmatch(entry))]
    best = min(found, key=lambda match: bool(match[5]))
    return best[2], best[3] or ("a" if best[4] == "{av}" else ""), best[5]


def _stating(kind: OperationKind, edge: Edge, entry_id: int | None = None) -> Operation:
    return Operation(kind, edge.text, entry_id, edge)


def _link(text: str, old: str) -> Edge | None:
    """Return the link that an entry makes if it adds a pet's name to the old one."""
    named = re.fullmatch(r" (?:called|named) (.+)", text.removeprefix(old))
    animal = next((value for value in _VALUE.findall(old) if _ATTRIBUTES[value][0] == "pet"), None)
    return Edge(named[1], SAME_AS, f"the {animal}") if named and animal else None
