"""Insights: lasting statements with scores, and the operations on them that are written when a session ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory_r1.systems.rules import statements
from memory_r1.systems.writer import WritingTask, lines_of, object_of
from memory_r1.types import MemoryEntry

ADD, EDIT, REMOVE, AGREE = "ADD", "EDIT", "REMOVE", "AGREE"
BIRTH, MANY = 2, 10
"""The score of a new insight, and the number of insights from which on a removal weighs more."""
SHOWN, MAX_OPERATIONS = 10, 8
"""Insights that a prompt shows, and operations of a reply."""
HEADER = "Insights:"
"""The line of the prompt before the numbered insights."""
_BY_RULES = 4  # statements of a session that rules keep

INSIGHTS = WritingTask(
    "insights",
    "Keep the numbered insights, which are lasting facts about the speakers, true to what was said: ADD what is new, "
    "EDIT what has changed, REMOVE what no longer holds, AGREE with what was said again. Reply with JSON only: "
    f'{{"operations": [{{"operation": "{ADD}", "text": "Kim has a goat"}}, {{"operation": "{EDIT}", "insight": "1", '
    f'"text": "Lou lives in Rome"}}, {{"operation": "{REMOVE}", "insight": "2"}}, {{"operation": "{AGREE}", '
    '"insight": "3"}]} or {"operations": []}.',
    object_of(
        {
            "operations": {
                "type": "array",
                "maxItems": MAX_OPERATIONS,
                "items": {
                    **object_of(
                        {
                            "operation": {"type": "string", "enum": [ADD, EDIT, REMOVE, AGREE]},
                            "insight": {"type": "string", "enum": [str(number + 1) for number in range(SHOWN)]},
                            "text": {"type": "string", "minLength": 1, "maxLength": 300},
                        }
                    ),
                    "required": ["operation"],
                },
            }
        }
    ),
    max_new_tokens=224,
)


@dataclass(frozen=True, slots=True)
class Change:
    """An operation that can be carried out: its kind, the id of its insight (0 for `ADD`), and its text, if any."""

    kind: str
    item: int = 0
    text: str = ""

    def weight(self, insights: int) -> int:
        """Return by how much it changes the score of its insight, one of so many."""
        if self.kind == REMOVE:
            return -3 if insights >= MANY else -1
        return BIRTH if self.kind == ADD else 1


def insight_lines(said: Sequence[MemoryEntry], shown: Sequence[MemoryEntry]) -> list[str]:
    """Return what a model reads: the session's turns, then the insights, which a small window never cuts."""
    numbered = [f"{number}. {entry.text}" for number, entry in enumerate(shown, 1)]
    return [*lines_of(said), HEADER, *(numbered or ["none"])]


def insights_by_rules(said: Sequence[MemoryEntry]) -> list[dict[str, str]]:
    """Add the last statements of a session; one that is known already is agreed with."""
    told = [f"{entry.speaker}: {statement}" for entry in said for statement in statements(entry.text)]
    return [{"operation": ADD, "text": text} for text in list(dict.fromkeys(told))[-_BY_RULES:]]


def checked(operations: Sequence[Mapping[str, str]], shown: Sequence[MemoryEntry]) -> tuple[list[Change], int]:
    """Return the operations that can be carried out, and the number of the others.

    Refused are a number that was not shown, a second operation on one insight, a second `ADD` of one text, and an `ADD`
    or `EDIT` without a text.
    """
    ids = {str(number): entry.entry_id for number, entry in enumerate(shown, 1)}
    changes: list[Change] = []
    for operation in operations:
        kind, text = operation["operation"], operation.get("text", "").strip()
        item = 0 if kind == ADD else ids.pop(operation.get("insight", ""), None)
        if item is not None and (text or kind in (REMOVE, AGREE)):
            change = Change(kind, item, text if kind in (ADD, EDIT) else "")
            if change not in changes:
                changes.append(change)
    return changes, len(operations) - len(changes)
