"""`python -m data [FOLDER]`: are the benchmarks' files there, and whole?

Without a folder, whatever can be downloaded and is not there yet comes into the cache; a folder is only looked at. What
a user has to bring is named with the place where it is to be had. An error, and status 1, where a file is damaged or
cannot be downloaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data.downloads import PublishedFile, cache_folder
from data.locomo import LOCOMO_FILE
from data.locomo_audit import AUDIT_FILE
from data.longmemeval import ORACLE_FILE, S_NAMES, S_URL, SPLITS_FILE
from data.msc import CONVERSATIONS_FILE, OFFICIAL_NAME, OFFICIAL_URL, QUESTIONS_FILE
from memory_r1.entry import run_main
from memory_r1.errors import DataError

FETCHED = {
    "LoCoMo": LOCOMO_FILE,
    "LoCoMo, audited gold": AUDIT_FILE,
    "LongMemEval, oracle": ORACLE_FILE,
    "LongMemEval, splits": SPLITS_FILE,
}
"""What anyone can download; the names of the rows that are printed."""
DEVELOPMENT = {
    "MSC, approximate: conversations": CONVERSATIONS_FILE,
    "MSC, approximate: questions": QUESTIONS_FILE,
}
"""What cannot be downloaded, but is verified where it is."""
BROUGHT = {"LongMemEval, S": (S_NAMES, S_URL), "MSC, official": ((OFFICIAL_NAME,), OFFICIAL_URL)}
"""What the user brings unverified: the names it may have, and where it is to be had."""


def main(arguments: Sequence[str]) -> int:
    """Print a line for every file; DataError when one is damaged or cannot be downloaded."""
    parser = argparse.ArgumentParser(prog="python -m data", description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?", help="a folder to look at (default: the cache, and fill it)")
    folder: Path | None = parser.parse_args(arguments).folder
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: found no such folder, allowed: the folder where the benchmarks' files lie")
    where = folder or cache_folder() / "data"
    bad = 0
    for name, file in FETCHED.items():
        if folder is None or (folder / file.name).is_file():
            bad += not _say(name, file, folder)
        else:
            _missing(name, (file.name,), file.url)
    for name, file in DEVELOPMENT.items():
        found = _first(where, (file.name,))
        if found is not None:
            bad += not _say(name, file, found)
    for name, (names, url) in BROUGHT.items():
        found = _first(where, names)
        if found is None:
            _missing(name, names, url)
        else:
            sys.stdout.write(f"{name}: there, not verified ({found})\n")
    if bad:
        raise DataError(f"{where}: {bad} of the files above cannot be used; each line says what to do")
    return 0


def _say(name: str, file: PublishedFile, path: Path | None) -> bool:
    """Read the file at `path` (None: from the cache, fetched first); say whether it is whole."""
    try:
        file.read(path)
    except DataError as error:
        sys.stdout.write(f"{name}: {error}\n")
        return False
    sys.stdout.write(f"{name}: whole\n")
    return True


def _missing(name: str, names: Sequence[str], url: str) -> None:
    sys.stdout.write(f"{name}: not here; get {url} and put it there as {' or '.join(names)}\n")


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these files that is in the folder, or in its folder `msc`."""
    candidates = [place / name for place in (folder, folder / "msc") for name in names]
    return next((path for path in candidates if path.is_file()), None)


if __name__ == "__main__":
    sys.exit(run_main(main))
