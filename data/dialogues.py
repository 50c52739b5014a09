"""Users' own dialogues, which `memory_r1.dialogues` reads and writes.

`python -m data.dialogues PATH` checks a file and prints its counts as JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data.loading import Counts, count, print_counts
from memory_r1.dialogues import read_dialogues


def counts_of_file(path: Path | str) -> Counts:
    """The counts of a JSONL file; own dialogues have one split, named `all`.

    Raises:
        DataError: as `memory_r1.dialogues.read_dialogues`.
    """
    return {"benchmark": "dialogues", "splits": {"all": count(read_dialogues(path))}}


if __name__ == "__main__":
    sys.exit(print_counts(counts_of_file, "a JSONL file of dialogues"))
