"""Resume an interrupted evaluation: check that its folder holds the same run."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memory_r1.errors import ConfigurationError
from memory_r1.evaluation.records import MEMORY, OPERATIONS, PREDICTIONS, RUN, RunInfo, read_run, write_run

LOCK = "running.lock"
_IDENTITY = ("benchmark", "split", "system", "model", "manager", "answer", "seed")
# An audit of the gold changes no answer, the source of a setting nothing, and the batch size at most the last bit of a
# number: a run may resume with other values of these.
_FREE_OPTIONS = frozenset({"batch_size", "config_sha256", "audit", "settings_from"})

logger = logging.getLogger(__name__)


def config_hash(run: RunInfo) -> str:
    """Return the SHA-256 of everything that can change a score; equal hashes mean the same run."""
    return hashlib.sha256(json.dumps(identity(run), sort_keys=True).encode()).hexdigest()


def open_folder(folder: Path, run: RunInfo) -> RunInfo:
    """Make `folder` the folder of `run`, or check that it already is.

    Returns:
        `run`, with the record of its banks from an earlier call.

    Raises:
        ConfigurationError: The folder holds another run; the message names the differences and the remedies.
    """
    if not (folder / RUN).exists():
        rows = [name for name in (MEMORY, OPERATIONS, PREDICTIONS) if (folder / name).exists()]
        if rows:
            raise ConfigurationError(
                f"{folder} holds {' and '.join(rows)} but no {RUN}, so their run is unknown: "
                "choose another output folder, or delete this one"
            )
        write_run(folder, run)
        return run
    earlier = read_run(folder)
    before, now = identity(earlier), identity(run)
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if differing:
        found = "; ".join(f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}" for key in differing)
        raise ConfigurationError(
            f"{folder} holds another run ({found}): choose another output folder, delete this one to start afresh, "
            "or resume with the settings of its run.json"
        )
    if (folder / OPERATIONS).exists() and not (folder / MEMORY).exists():
        raise ConfigurationError(
            f"{folder} holds {OPERATIONS} but no {MEMORY}: an earlier version began it and left no log to resume "
            "from. It can still be rescored and reported; choose another output folder, or --restart this one"
        )
    if earlier.git_revision != run.git_revision:
        logger.warning("%s was begun with revision %s, goes on with %s", folder, earlier.git_revision, run.git_revision)
    return replace(run, banks=earlier.banks)


@contextmanager
def alone_in(folder: Path, what: str = "evaluation") -> Iterator[None]:
    """Hold a folder, since two runs in it would do the same work twice; `what` names them.

    Raises:
        ConfigurationError: Another run holds it.
    """
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise ConfigurationError(
            f"another {what} is running in {folder}: wait for it, or choose another output folder"
        ) from None


def discard_folder(folder: Path) -> None:
    """Delete an evaluation folder if it exists; raise a ConfigurationError if it does not look like one."""
    if not folder.exists():
        return
    if not (folder / RUN).exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} holds files but no {RUN}, so it is not an evaluation: delete it yourself")
    shutil.rmtree(folder)


def identity(run: RunInfo) -> dict[str, Any]:
    """Return the fields that identify a run, as JSON reads them back."""
    options = {f"config.{key}": value for key, value in run.config.items() if key not in _FREE_OPTIONS}
    fields: dict[str, Any] = json.loads(json.dumps({name: getattr(run, name) for name in _IDENTITY} | options))
    return fields


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
