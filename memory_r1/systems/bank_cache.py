"""A cache of banks: a dialogue that a manager played is stored under a hash of everything that determines its bank.

Training and evaluation share the cache. Each file is a store with one scope, the dialogue's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from memory_r1.errors import StoreError
from memory_r1.memory.log import Log
from memory_r1.memory.record import Record
from memory_r1.memory.sqlite_log import SqliteLog
from memory_r1.models import adapter_hash, model_hash, resolve_embedder, resolve_model, weights_hash
from memory_r1.systems.player import turns_of
from memory_r1.systems.state import ScopeState
from memory_r1.types import Dialogue

_CODE = ("agents", "inference", "memory", "systems", "types.py")

logger = logging.getLogger(__name__)


class BankCache:
    """Logs of dialogues in a folder.

    Args:
        folder: The folder.
        system: Name of the memory system that writes the logs.
        settings: Everything else that determines a bank, except the turns and the code, which the cache adds itself.
    """

    def __init__(self, folder: Path, system: str, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.system = system
        self.key = _sha256(json.dumps({"system": system, **settings, "code": _code_hash()}, sort_keys=True))

    @classmethod
    def of_manager(
        cls,
        folder: Path,
        *,
        system: str = "memory-r1",
        model: str,
        dtype: str,
        manager: str | None,
        embedder: str,
        recall_per_speaker: int,
        max_new_tokens: int,
        constrained: bool = False,
        writer: object = None,
        settings: Mapping[str, Any] | None = None,
    ) -> BankCache:
        """Open the cache of banks that a model writes. Models are identified by content, so their folders may move.

        Args:
            folder: Folder of the cache.
            system: Name of the memory system.
            model: The base model: name, hub id or folder.
            dtype: Precision of the base model.
            manager: Adapter folder; None for the base model.
            embedder: The sentence model: name, hub id or folder.
            recall_per_speaker: Memories recalled per speaker for the manager.
            max_new_tokens: Longest completion, in tokens.
            constrained: Whether completions are held to the JSON of operations.
            writer: What identifies the writer, as JSON; None for none.
            settings: Settings of the system's own.
        """
        all_settings = {
            "model": model_hash(resolve_model(model)) or model,
            "dtype": dtype,
            "manager": adapter_hash(manager) if manager else None,
            "embedder": weights_hash(resolve_embedder(embedder)) or embedder,
            "recall_per_speaker": recall_per_speaker,
            "max_new_tokens": max_new_tokens,
            "constrained": constrained,
            "writer": writer,
            "settings": dict(settings or {}),
        }
        return cls(folder, system, all_settings)

    def path(self, dialogue: Dialogue) -> Path:
        """Return the path of a dialogue's bank, which need not exist."""
        told = json.dumps(asdict(replace(dialogue, questions=())), sort_keys=True)
        return self.folder / f"{_sha256(self.key + told)[:24]}.db"

    def kept(self, log: Log[ScopeState], dialogues: Iterable[Dialogue]) -> dict[str, tuple[Record, ...]]:
        """Return the cached records of the dialogues that `log` does not hold yet, by dialogue."""
        missing = [each for each in dialogues if not log.records(each.dialogue_id)]
        return {each.dialogue_id: records for each in missing if (records := self._read(each))}

    def take(self, log: Log[ScopeState], kept: Mapping[str, tuple[Record, ...]]) -> None:
        """Copy what `kept` returned into `log`."""
        for dialogue_id, records in kept.items():
            log.extend(dialogue_id, records)
        if kept:
            logger.info("banks: %d taken over from %s, no model is asked for them", len(kept), self.folder)

    def keep(self, log: Log[ScopeState], dialogues: Iterable[Dialogue]) -> None:
        """Store the banks of completed dialogues, replacing any that are stored already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for dialogue in dialogues:
            path = self.path(dialogue)
            scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
            scratch.unlink(missing_ok=True)
            with SqliteLog(scratch, ScopeState(), system=self.system) as store:
                store.extend(dialogue.dialogue_id, log.records(dialogue.dialogue_id))
            scratch.replace(path)

    def lock(self) -> FileLock:
        """Return a lock under which one run plays the dialogues that parallel runs then reuse."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "playing.lock")

    def _read(self, dialogue: Dialogue) -> tuple[Record, ...]:
        """Return a dialogue's cached records, or none if they are incomplete or the file is damaged."""
        path = self.path(dialogue)
        if not path.is_file():
            return ()
        try:
            with SqliteLog(path, ScopeState(), system=self.system) as store:
                records = store.records(dialogue.dialogue_id)
        except StoreError:
            records = ()
        if len(turns_of(records)) == len(dialogue.turns()):
            return records
        logger.warning("%s is damaged: its bank is written anew", path)
        return ()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def code_files() -> list[Path]:
    """Return the modules that write banks, in a fixed order."""
    package = Path(__file__).resolve().parents[1]
    roots = [package / name for name in _CODE]
    return sorted(path for root in roots for path in ([root] if root.suffix else root.rglob("*.py")) if path.is_file())


def _code_hash() -> str:
    """Return the SHA-256 of the modules that write banks, since a reworded prompt gives other banks."""
    digest = hashlib.sha256()
    for path in code_files():
        digest.update(f"{path.relative_to(Path(__file__).resolve().parents[1])}\n".encode() + path.read_bytes())
    return digest.hexdigest()
