"""The code behind a result: the git revision of this checkout and the versions of the main packages."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "memory-r1",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "sentence-transformers",
    "faiss-cpu",
    "bm25s",
)


def git_revision() -> str | None:
    """Return this checkout's commit, with `-dirty` if tracked files have changed, or None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return None
    return f"{revision}-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else revision


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages among `PACKAGES`."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of a git command, or None if git or the checkout is missing."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
