"""Banks are written once: a finished write phase is kept under the hash of all that decided it, and taken over later.

A folder of the cache holds `operations.jsonl`, from which the banks are rebuilt without asking a model, and
`banks.json`: what was hashed, and the checksum of the operations.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.records import OPERATIONS, RunInfo, write_run
from memory_r1.evaluation.resume import identity
from memory_r1.jsonl import read_json, read_rows, rewrite_rows, write_json
from memory_r1.types import Dialogue
from memory_r1.weights import hash_file

BANKS = "banks.json"

# What says how banks are read or which questions are asked, and what is no more than a name for the turns played, which
# are hashed themselves. Everything else counts, so that an option nobody thought of here is never mixed up.
_NOT_WRITING = frozenset(
    {
        *("benchmark", "split", "answer"),
        *("config.answer_sha256", "config.answer_style", "config.answer_tokens", "config.top_k"),
        *("config.budget_tokens", "config.window_tokens", "config.cut_rule"),
        *("config.sessions", "config.limit", "config.data_sha256"),
    }
)
# Named by their content where it is known, so that they may move.
_BY_CONTENT = {
    "model": "config.model_sha256",
    "manager": "config.manager_sha256",
    "config.embedder": "config.embedder_sha256",
}
_WRITING_CODE = ("agents", "memory", "systems")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BankCache:
    """Where the banks of one run lie or will lie; `decisive` is what the name of that folder is the hash of."""

    folder: Path
    decisive: dict[str, Any]

    @classmethod
    def of(cls, cache: Path, run: RunInfo, dialogues: Iterable[Dialogue]) -> BankCache:
        """The place in the folder `cache` of the banks that `run` writes on `dialogues`."""
        fields = {name: value for name, value in identity(run).items() if name not in _NOT_WRITING}
        for name, content in _BY_CONTENT.items():
            if fields.get(content):
                fields.pop(name, None)
        decisive = {**fields, "turns_sha256": _turns_hash(dialogues), "code_sha256": _code_hash()}
        key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        return cls(cache / key[:16], decisive)

    def take(self, folder: Path, run: RunInfo, rebuild: bool) -> RunInfo:
        """Put the banks kept here into the evaluation `folder`, if it has none and `rebuild` is not asked for.

        Returns:
            `run` with `banks` telling where they come from, as in the folder's `run.json`.

        Raises:
            ConfigurationError: `rebuild` is asked for, but the folder took its banks over earlier.
        """
        if (folder / OPERATIONS).exists():
            if rebuild and run.banks.get("reused"):
                raise ConfigurationError(
                    f"{folder} took its banks over from {self.folder.parent}: restart it to write them anew"
                )
            return run
        found = not rebuild and self._is_whole()
        run = replace(run, banks={"key": self.folder.name, "reused": found})
        write_run(folder, run)
        if found:
            rewrite_rows(folder / OPERATIONS, read_rows(self.folder / OPERATIONS))
            logger.info("banks: taken over from %s, no model is asked for them", self.folder)
        return run

    def keep(self, folder: Path, run: RunInfo) -> None:
        """Keep the banks that `folder` holds, unless they came from here or other code began to write them."""
        if run.banks.get("reused") or run.banks.get("key") != self.folder.name:
            return
        scratch = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.part")
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(folder / OPERATIONS, scratch / OPERATIONS)
            record = {"decided_by": self.decisive, "operations_sha256": hash_file(scratch / OPERATIONS)}
            write_json(scratch / BANKS, record)
            if self.folder.exists():
                shutil.rmtree(self.folder)
            scratch.rename(self.folder)
        except OSError:
            if not self.folder.exists():
                raise
            logger.info("%s: another run has kept the same banks meanwhile", self.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _is_whole(self) -> bool:
        """Whether finished banks lie here, as they were written; damaged ones are told and written anew."""
        if not (self.folder / BANKS).is_file():
            return False
        try:
            whole = bool(read_json(self.folder / BANKS).get("operations_sha256") == hash_file(self.folder / OPERATIONS))
        except (DataError, OSError):
            whole = False
        if not whole:
            logger.warning("%s is damaged: its banks are written anew", self.folder)
        return whole


def _turns_hash(dialogues: Iterable[Dialogue]) -> str:
    """SHA-256 of all that a system is told before the first question."""
    digest = hashlib.sha256()
    for dialogue in dialogues:
        digest.update(json.dumps(asdict(replace(dialogue, questions=())), sort_keys=True).encode())
    return digest.hexdigest()


def _code_hash() -> str:
    """SHA-256 of the modules that write banks: a prompt that was reworded makes other banks."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for path in sorted(path for name in _WRITING_CODE for path in (package / name).rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
