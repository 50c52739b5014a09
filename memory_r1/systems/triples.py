"""Open triples: a fact as subject, relation and object, and how a model or rules find them in a turn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from memory_r1.systems.rules import statements
from memory_r1.systems.writer import WritingTask, object_of
from memory_r1.types import Turn

MAX_TRIPLES = 4
_SHORT = {"type": "string", "minLength": 1, "maxLength": 120}

TRIPLES = WritingTask(
    "triples",
    "List the facts that the last line states, each as subject, relation and object, with names, and the day since "
    'when it holds if that is told. Reply with JSON only: {"triples": [{"subject": "Kim", "relation": "works at", '
    '"object": "the palace", "time": "2017-05-06"}]} or {"triples": []}.',
    object_of(
        {
            "triples": {
                "type": "array",
                "items": object_of(
                    {
                        "subject": _SHORT,
                        "relation": _SHORT,
                        "object": _SHORT,
                        "time": {"type": "string", "maxLength": 40},
                    }
                ),
                "maxItems": MAX_TRIPLES,
            }
        }
    ),
    max_new_tokens=128,
)

_OF_ONESELF = re.compile(
    r"\b(?:I|[Ww]e)(?P<be>'m| am|'re| are|'ve)? (?:(?:just|also|now|still|really|recently|finally) )*"
    r"(?P<verb>[a-z]+(?: (?:not|been|got|going|used))?"
    r"(?: (?:in|at|to|on|for|with|from|by|of|about|into|up|as|called))*) (?P<object>[^,;:]+)"
)
_BEING = {"'m": "is ", " am": "is ", "'re": "is ", " are": "is ", "'ve": "has "}
_OF_ONES_OWN = re.compile(
    r"\b(?:[Mm]y|[Oo]ur) (?P<verb>[a-z][\w' -]*? (?:is called|is|are|was|has|lives in|works at)) (?P<object>[^,;:]+)"
)
_PRESENTLY = re.compile(r" (?:now|nowadays|currently|these days)$")
_DETERMINER = re.compile(r"^(?:an?|the|my|our|this|that) ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Triple:
    """One fact; `time` is the ISO 8601 day since when it holds, empty if it was not told."""

    subject: str
    relation: str
    object: str
    time: str = ""

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Self:
        """Return the triple of a reply that conforms to `TRIPLES.schema`, without spaces at its ends."""
        return cls(**{name: str(part).strip() for name, part in value.items()})

    @property
    def text(self) -> str:
        """The triple as a sentence."""
        return f"{self.subject} {self.relation} {self.object}"

    @property
    def payload(self) -> dict[str, str]:
        """The triple as JSON values, which `read` reads again."""
        return asdict(self)


def triples_by_rules(turn: Turn) -> list[Triple]:
    """Return what plain patterns find: "I live in Rome" and "My cat is called Momo", one triple a sentence at most.

    The subject is the speaker, and the verb stays as it was said.
    """
    found = []
    for sentence in statements(turn.text):
        told = sentence.rstrip(".! ")
        match = _OF_ONES_OWN.search(told) or _OF_ONESELF.search(told)
        if match is None:
            continue
        relation = _BEING.get(match.groupdict().get("be") or "", "") + match["verb"]
        if thing := _PRESENTLY.sub("", _DETERMINER.sub("", match["object"]).strip())[:120]:
            found.append(Triple(turn.speaker, relation[:120], thing))
    return found[:MAX_TRIPLES]


def triples_prompt(turn: Turn, previous: Sequence[Turn]) -> list[str]:
    """Return the lines of a turn and those before it, the day first, since "next Friday" counts from it."""
    day = [f"Today is {turn.timestamp[:10]}."] if turn.timestamp else []
    return [*day, *(f"{said.speaker}: {said.text}" for said in (*previous, turn))]
