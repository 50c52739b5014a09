"""Check that the benchmark files are present and intact; without a folder, download missing ones into the cache.

Files that cannot be downloaded are listed with their source. Exit with an error and status 1 if a file is damaged or
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
"""Files that can be downloaded, by printed name."""
DEVELOPMENT = {
    "MSC, approximate: conversations": CONVERSATIONS_FILE,
    "MSC, approximate: questions": QUESTIONS_FILE,
}
"""Files that cannot be downloaded but are verified if present."""
BROUGHT = {"LongMemEval, S": (S_NAMES, S_URL), "MSC, official": ((OFFICIAL_NAME,), OFFICIAL_URL)}
"""Unverified files that the user brings: allowed names and source."""


def main(arguments: Sequence[str]) -> int:
    """Print one line per file; raise DataError if one is damaged or cannot be downloaded."""
    parser = argparse.ArgumentParser(prog="python -m data", description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder to check (default: fill and check the cache)")
    folder: Path | None = parser.parse_args(arguments).folder
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: found no such folder, allowed: the folder with the benchmark files")
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
        raise DataError(f"{where}: {bad} of the files above cannot be used; follow the advice on their lines")
    return 0


def _say(name: str, file: PublishedFile, path: Path | None) -> bool:
    """Print and return whether the file at `path` is intact; None fetches it into the cache first."""
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
    """Return the first of these files found in the folder or its subfolder `msc`."""
    candidates = [place / name for place in (folder, folder / "msc") for name in names]
    return next((path for path in candidates if path.is_file()), None)


if __name__ == "__main__":
    sys.exit(run_main(main))
