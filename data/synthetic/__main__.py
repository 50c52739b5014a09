"""Counts of generated dialogues: `python -m data.synthetic PATH`.

Prints the counts of every split and category of a folder or JSONL file as JSON; a folder that does not exist is written
first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from data.labelled import write_labelled
from data.synthetic.generator import SPLITS, counts_of_path, generate_split
from memory_r1.entry import run_main


def main(arguments: Sequence[str]) -> None:
    """Generate what is to be counted and is not there, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m data.synthetic", description=__doc__)
    parser.add_argument("path", type=Path, help="folder or JSONL file to count; a missing folder is generated")
    parser.add_argument("--dialogues", type=int, default=6, help="dialogues in each split generated (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator (default: 0)")
    options = parser.parse_args(arguments)
    if not options.path.exists() and options.path.suffix != ".jsonl":
        for split in SPLITS:
            write_labelled(options.path, split, generate_split(split, options.dialogues, options.seed))
    sys.stdout.write(json.dumps(counts_of_path(options.path), indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
