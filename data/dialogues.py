"""Users' own dialogues (`memory_r1.dialogues` reads and writes them), and the counts every loader prints.

`python -m data.dialogues PATH` checks a file and prints its counts as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from memory_r1.dialogues import read_dialogues
from memory_r1.errors import MemoryR1Error
from memory_r1.types import Dialogue

Counts = dict[str, object]


def count(dialogues: Sequence[Dialogue]) -> Counts:
    """How many dialogues, sessions, turns and questions there are, and how many questions of each category."""
    categories = Counter(question.category for dialogue in dialogues for question in dialogue.questions)
    return {
        "dialogues": len(dialogues),
        "sessions": sum(len(dialogue.sessions) for dialogue in dialogues),
        "turns": sum(len(dialogue.turns()) for dialogue in dialogues),
        "questions": categories.total(),
        "categories": dict(sorted(categories.items())),
    }


def counts_of_file(path: Path | str) -> Counts:
    """The counts of a JSONL file; own dialogues have one split, named `all`.

    Raises:
        DataError: as `memory_r1.dialogues.read_dialogues`.
    """
    return {"benchmark": "dialogues", "splits": {"all": count(read_dialogues(path))}}


def print_counts(counts_of: Callable[[Path], Counts], what: str, arguments: Sequence[str] | None = None) -> int:
    """The command behind `python -m data.<loader> PATH`: counts as JSON, or an error in one line and status 1."""
    parser = argparse.ArgumentParser(description=f"Print the counts of {what} as JSON.")
    parser.add_argument("path", type=Path, help=what)
    path = parser.parse_args(arguments).path
    try:
        counts = counts_of(path)
    except MemoryR1Error as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(counts, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(print_counts(counts_of_file, "a JSONL file of dialogues"))
