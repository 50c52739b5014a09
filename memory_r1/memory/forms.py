"""The forms in which a Memory Manager writes operations: on the texts of a bank, or on the edges of a graph.

In the graph form an operation is `{"op": "ADD", "subject": "Ann", "relation": "lives in", "object": "Rome", "time":
"2023"}`, where `time` may be left out, and an UPDATE has an `id` too. Two more operations are `{"op": "LINK", "entity":
"Gus", "same_as": "the goat"}` and `{"op": "ABSTRACT", "ids": [1, 2], "text": "..."}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memory_r1.types import OperationKind

MAX_OPERATIONS = 8
"""Operations per turn; any more are refused."""

NUMBERS = ("id", "ids")
"""Keys that name entries by their numbers in the prompt; all others have texts."""
OPTIONAL = "time"
"""The one key that may be left out."""
_EDGE = ("subject", "relation", "object", OPTIONAL)


@dataclass(frozen=True, slots=True)
class OperationForm:
    """How operations are written: the keys of each, beside `op`."""

    name: str
    keys: Mapping[OperationKind, tuple[str, ...]]


FLAT = OperationForm(
    "flat",
    {
        OperationKind.ADD: ("text",),
        OperationKind.UPDATE: ("id", "text"),
        OperationKind.DELETE: ("id",),
        OperationKind.NOOP: (),
    },
)
GRAPH = OperationForm(
    "graph",
    {
        OperationKind.ADD: _EDGE,
        OperationKind.UPDATE: ("id", *_EDGE),
        OperationKind.DELETE: ("id",),
        OperationKind.NOOP: (),
        OperationKind.LINK: ("entity", "same_as"),
        OperationKind.ABSTRACT: ("ids", "text"),
    },
)
FORMS = {form.name: form for form in (FLAT, GRAPH)}
"""Every form, by its name in recipes."""


def operations_schema(shown: int, form: OperationForm = FLAT) -> dict[str, Any]:
    """Return the JSON schema of a completion on one turn whose prompt shows `shown` memories, for constrained decoding.

    Without a memory there is nothing to update, delete or summarise.
    """
    text, number = {"type": "string", "minLength": 1}, {"enum": list(range(1, shown + 1))}
    numbers = {"id": number, "ids": {"type": "array", "items": number, "minItems": 1, "maxItems": max(1, shown)}}
    choices = [
        {
            "type": "object",
            "properties": {"op": {"const": kind.value}, **{key: numbers.get(key, text) for key in keys}},
            "required": ["op", *(key for key in keys if key != OPTIONAL)],
            "additionalProperties": False,
        }
        for kind, keys in form.keys.items()
        if shown or not {*keys}.intersection(NUMBERS)
    ]
    return {"type": "array", "items": {"anyOf": choices}, "minItems": 1, "maxItems": MAX_OPERATIONS}
