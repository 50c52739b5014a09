"""Wrong gold answers of LoCoMo, from the audit dial481/locomo-audit (February 2026, CC BY-NC 4.0).

A language model made its 156 findings on the 1,540 questions of categories 1 to 4, and people reviewed them. Loaded
from a path or the cache, never shipped.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from data.downloads import PublishedFile
from data.loading import Counts, print_counts
from data.locomo import SPLITS

AUDIT_FILE = PublishedFile(
    name="locomo_audit_errors.json",
    url="https://raw.githubusercontent.com/dial481/locomo-audit/9493fb4b4af4256ed17a18e8fd0b3cfdeec29539/errors.json",
    size=150_552,
    sha256="f298ef46263fada20688a1d672be37d4f488c6da3b19343eea55ae5c1b5fe55e",
)
ERROR_TYPES = (
    "WRONG_CITATION",
    "HALLUCINATION",
    "TEMPORAL_ERROR",
    "ATTRIBUTION_ERROR",
    "AMBIGUOUS",
    "INCOMPLETE",
)
CORRUPTING = tuple(kind for kind in ERROR_TYPES if kind != "WRONG_CITATION")
"""Findings that distort scores; with a wrong citation alone, the answer is right."""

_CONVERSATIONS = (*SPLITS["train"], *SPLITS["validation"], *SPLITS["test"])  # the order of locomo10.json
_QUESTION_ID = re.compile(r"locomo_([0-9])_qa(\d+)")


def load_audit(path: Path | str | None = None, cache: Path | str | None = None, verify: bool = True) -> dict[str, str]:
    """Return the kind of error by question key (`<dialogue_id>/<question_id>`, as in `conv-26/conv-26:2`).

    `path` is the file or its folder; without one, the file comes from the cache, downloaded if missing.

    Raises:
        ChecksumError: `verify` is on and the bytes are not the published ones.
        DataError: There is no such file, it cannot be downloaded, or it is malformed.
    """
    errors: dict[str, str] = {}
    for item in AUDIT_FILE.document(path, cache, verify=verify).items(at_least=1):
        members = item.members(("question_id", "error_type"), closed=False)
        match = _QUESTION_ID.fullmatch(members["question_id"].text())
        if match is None:
            members["question_id"].fail("an id as in locomo_0_qa12")
        if members["error_type"].text() not in ERROR_TYPES:
            members["error_type"].fail(f"one of {', '.join(ERROR_TYPES)}")
        conversation = _CONVERSATIONS[int(match[1])]
        errors[f"{conversation}/{conversation}:{int(match[2])}"] = members["error_type"].text()
    return errors


def find_audit(path: Path | str | None = None, cache: Path | str | None = None) -> dict[str, str] | None:
    """Load the audit beside `path` (locomo10.json or its folder) or from the cache; return None if there is none.

    Raises:
        ChecksumError: The file exists but is not the published one.
        DataError: The file exists but cannot be read.
    """
    folder = AUDIT_FILE.cached(cache).parent if path is None else Path(path)
    file = (folder if folder.is_dir() else folder.parent) / AUDIT_FILE.name
    return load_audit(file) if file.is_file() else None


def audit_counts(path: Path | str, verify: bool = True) -> Counts:
    """Count the findings of each kind and the wrong answers of each split."""
    errors = load_audit(path, verify=verify)
    spoilt = [key.split("/")[0] for key, kind in errors.items() if kind in CORRUPTING]
    return {
        "benchmark": "locomo",
        "findings": dict(Counter(errors.values()).most_common()),
        "wrong_answers": {split: sum(name in members for name in spoilt) for split, members in SPLITS.items()},
    }


if __name__ == "__main__":
    sys.exit(print_counts(audit_counts, f"the audit of LoCoMo ({AUDIT_FILE.name} or a folder that holds it)"))
