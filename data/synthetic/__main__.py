"""Print the counts of every split and category of generated dialogues as JSON; generate a missing folder first."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from data.labelled import write_labelled
from data.synthetic.generator import SHAPES, SPLITS, counts_of_path, generate_split
from memory_r1.entry import run_main


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m data.synthetic", description=__doc__)
    parser.add_argument("path", type=Path, help="folder or JSONL file to count; a missing folder is generated")
    parser.add_argument("--dialogues", type=int, default=6, help="dialogues generated per split (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator (default: 0)")
    parser.add_argument("--shape", choices=SHAPES, default="synthetic", help="their shape (default: synthetic)")
    options = parser.parse_args(arguments)
    if not options.path.exists() and options.path.suffix != ".jsonl":
        shape = SHAPES[options.shape]
        for split in SPLITS:
            write_labelled(options.path, split, generate_split(split, options.dialogues, options.seed, shape))
    sys.stdout.write(json.dumps(counts_of_path(options.path), indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
