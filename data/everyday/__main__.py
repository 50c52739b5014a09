"""Check the everyday chats and print their counts: `python -m data.everyday`.

Prints the counts of every split, what answers without memory are worth (data/floors.py), and how many masked 5-grams of
validation and test stand in the training chats too, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from data.everyday import FOLDER, SPLITS, load_everyday
from data.everyday.checks import complaints, masked_grams, shared_between
from data.floors import floors
from data.loading import count
from memory_r1.entry import run_main
from memory_r1.errors import DataError


def main(arguments: Sequence[str]) -> None:
    """Check every chat and the splits against each other; DataError with the first complaint."""
    argparse.ArgumentParser(prog="python -m data.everyday", description=__doc__).parse_args(arguments)
    chats = {split: load_everyday(split) for split in SPLITS}
    found = [
        f"{item.dialogue.dialogue_id}: {complaint}"
        for items in chats.values()
        for item in items
        for complaint in complaints(item)
    ]
    found += shared_between(chats)
    if found:
        raise DataError(f"{FOLDER}: {len(found)} complaints, the first: {found[0]}")
    dialogues = {split: [item.dialogue for item in items] for split, items in chats.items()}
    train_grams = masked_grams(chats["train"])
    held = {split: masked_grams(chats[split]) for split in ("validation", "test")}
    report = {
        "benchmark": "everyday",
        "splits": {split: count(items) for split, items in dialogues.items()},
        "floors": {split: floors(dialogues[split], dialogues["train"]) for split in ("validation", "test")},
        "masked 5-grams also in train": {
            split: round(len(grams & train_grams) / len(grams), 4) for split, grams in held.items()
        },
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
