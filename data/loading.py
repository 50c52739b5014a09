"""Code shared by the benchmark loaders.

A loader reads a path (a file or its folder; without one, the cache) into dialogues. Errors name the file, the line or
field, what was found and what is allowed. `python -m data.<loader> PATH` prints the counts of every split and category.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.json_field import JsonField
from memory_r1.types import Dialogue

Counts = dict[str, object]


def count(dialogues: Sequence[Dialogue]) -> Counts:
    """Count dialogues, sessions, turns and questions, and the questions per category."""
    categories = Counter(question.category for dialogue in dialogues for question in dialogue.questions)
    return {
        "dialogues": len(dialogues),
        "sessions": sum(len(dialogue.sessions) for dialogue in dialogues),
        "turns": sum(len(dialogue.turns()) for dialogue in dialogues),
        "questions": categories.total(),
        "categories": dict(sorted(categories.items())),
    }


def print_counts(counts_of: Callable[[Path], Counts], what: str, arguments: Sequence[str] | None = None) -> int:
    """Run `python -m data.<loader> PATH`: print counts as JSON, or a one-line error with status 1."""
    parser = argparse.ArgumentParser(description=f"Print the counts of {what} as JSON.")
    parser.add_argument("path", type=Path, help=what)

    def main(arguments: Sequence[str]) -> None:
        counts = counts_of(parser.parse_args(arguments).path)
        sys.stdout.write(json.dumps(counts, indent=2) + "\n")

    return run_main(main, arguments)


def check_name(what: str, name: str, allowed: Iterable[str], hint: str = "") -> None:
    """Raise ConfigurationError unless `name` is allowed; `what` is its kind, and `hint` ends the error."""
    if name not in allowed:
        raise ConfigurationError(f"found {what} {name!r}, allowed: {', '.join(allowed)}{hint}")


def parse_answer(field: JsonField, repairs: Counter[str]) -> str:
    """A gold answer; one that is a whole number becomes text and is counted as a repair."""
    if type(field.value) is int:  # `true` is none
        repairs["integer_answers"] += 1
        return str(field.value)
    return field.text()
