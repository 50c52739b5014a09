"""Users' own dialogues: `python -m data.dialogues PATH` checks a file and prints its counts as JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from data.loading import Counts, count, print_counts
from memory_r1.dialogue_file import read_dialogues


def counts_of_file(path: Path | str) -> Counts:
    """Count a JSONL file, as the one split `all`; raise like `memory_r1.dialogue_file.read_dialogues`."""
    return {"benchmark": "dialogues", "splits": {"all": count(read_dialogues(path))}}


if __name__ == "__main__":
    sys.exit(print_counts(counts_of_file, "a JSONL file of dialogues"))
