"""Find base models, embedders and adapters by name, hub id or folder, and prepare the embedded models.

`python -m memory_r1.models` prepares both embedded models in the cache folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memory_r1.entry import run_main
from memory_r1.errors import ModelError
from memory_r1.jsonl import write_json
from memory_r1.packaged_models import (
    EMBEDDER,
    LANGUAGE_MODEL,
    EmbeddedModel,
    cache_folder,
    is_intact,
    prepare,
    read_manifest,
)
from memory_r1.weights import hash_file, hash_weights, read_tensor_headers

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def prepare_models(cache: str | Path | None = None) -> None:
    """Prepare both embedded models, checking every byte of existing ones.

    Raises:
        ModelError: A model's package is not installed, or the cache folder cannot be written.
    """
    for model in (LANGUAGE_MODEL, EMBEDDER):
        prepare(model, cache, full_check=True)


def resolve_model(name: str) -> str:
    """Return the folder or hub id to load `name` from; prepare the embedded model on first use.

    Raises:
        ModelError: `name` is an incomplete folder, or neither a folder nor a hub id.
    """
    return _resolve(name, LANGUAGE_MODEL, _missing_from_model)


def resolve_embedder(name: str) -> str:
    """Resolve a sentence-transformers model as `resolve_model` does."""
    return _resolve(name, EMBEDDER, _missing_from_embedder)


BESIDE_WEIGHTS = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model"),
)
"""Files of a model folder that change what it writes, beside its weights."""


def weights_hash(folder_or_id: str) -> str | None:
    """Return `hash_weights` of a model folder or hub id, or None if it has no safetensors files.

    A hub id is looked up in the local hub cache only.
    """
    if folder_or_id in (LANGUAGE_MODEL.name, LANGUAGE_MODEL.hub_id):
        folder_or_id = resolve_model(folder_or_id)
    folder = Path(folder_or_id).expanduser()
    if not folder.is_dir():
        snapshot = _cached_snapshot(folder_or_id)
        if snapshot is None:
            return None
        folder = snapshot
    manifest = read_manifest(folder)
    if manifest is not None and is_intact(folder, manifest, full=False):
        recorded = manifest.get("weights_sha256")
        if isinstance(recorded, str):
            return recorded
    return hash_weights(folder)


def model_hash(folder_or_id: str) -> str | None:
    """SHA-256 of all that decides what a model writes: its weights, configuration, tokenizer and chat template.

    None where there are no weights to be hashed, as of a hub id that is not in the cache.
    """
    weights = weights_hash(folder_or_id)
    folder = Path(folder_or_id).expanduser()
    folder = folder if folder.is_dir() else _cached_snapshot(folder_or_id) or folder
    files = [folder / name for name in BESIDE_WEIGHTS if (folder / name).is_file()]
    parts = [weights, *(f"{path.name} {hash_file(path)}" for path in files)]
    return weights and hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def adapter_hash(adapter_dir: str | Path) -> str:
    """Return the SHA-256 of an adapter's weights and configuration, without the path of its base model.

    Raises:
        ModelError: A file is missing or unreadable.
    """
    folder = Path(adapter_dir).expanduser()
    config = _read_json(folder / "adapter_config.json")
    config.pop("base_model_name_or_path", None)
    weights = folder / "adapter_model.safetensors"
    read_tensor_headers(weights)
    return hashlib.sha256(f"{json.dumps(config, sort_keys=True)}\n{hash_file(weights)}".encode()).hexdigest()


def check_adapter(adapter_dir: str | Path, base: str) -> None:
    """Check that an adapter folder is complete and was trained on the base model `base`.

    An adapter without `training_summary.json` (made elsewhere, or a checkpoint inside a run) only gives a warning,
    since its base model is unknown.

    Raises:
        ModelError: A file is missing or truncated, or the base models differ.
    """
    folder = Path(adapter_dir).expanduser()
    if not folder.is_dir():
        raise ModelError(f"adapter {str(adapter_dir)!r}: no such folder; give one that a training run wrote")
    config = _read_json(folder / "adapter_config.json")
    if "peft_type" not in config:
        raise ModelError(f"{folder / 'adapter_config.json'}: no 'peft_type'; this is not a PEFT adapter folder")
    read_tensor_headers(folder / "adapter_model.safetensors")
    if not (folder / "training_summary.json").exists():
        logger.warning("%s has no training_summary.json: cannot tell whether it was trained on %s", folder, base)
        return
    trained_on = _read_json(folder / "training_summary.json").get("base_model")
    trained_id = trained_on.get("id") if isinstance(trained_on, dict) else None
    expected = trained_on.get("weights_sha256") if isinstance(trained_on, dict) else None
    if not isinstance(trained_id, str) or not isinstance(expected, str | None):
        raise ModelError(
            f"{folder / 'training_summary.json'}: 'base_model' is {trained_on!r}; "
            "it must be an object with the strings 'id' and 'weights_sha256'"
        )
    found = weights_hash(resolve_model(base))
    if expected and found:
        matches, detail = expected == found, f"weights {expected[:12]} against {found[:12]}"
    else:
        matches = _last_name(trained_id) == _last_name(base)
        detail = "compared by name, since no weights could be hashed"
    if not matches:
        raise ModelError(
            f"adapter {folder} was trained on {trained_id!r}, not on {base!r} ({detail}); "
            "load it on its own base model or train it again"
        )


def repoint_adapter(adapter_dir: str | Path, base: str) -> None:
    """Set the base model's path in an adapter's folder, where `AutoPeftModelForCausalLM` looks it up.

    Raises:
        ModelError: A file is missing or truncated, or the adapter was not trained on `base`.
    """
    source = resolve_model(base)
    check_adapter(adapter_dir, source)
    path = Path(adapter_dir).expanduser() / "adapter_config.json"
    place = str(Path(source).resolve()) if Path(source).is_dir() else source
    write_json(path, {**_read_json(path), "base_model_name_or_path": place})


def load_base(source: str, dtype: str, **options: Any) -> tuple[Any, Any]:
    """Load the base model and its tokenizer from a folder or hub id; `dtype` is a torch type's name or "auto".

    Raises:
        ModelError: transformers cannot load it: unknown hub id, no access, or a broken folder.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        return AutoModelForCausalLM.from_pretrained(source, dtype=kind, **options), tokenizer
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {source!r} cannot be loaded ({reason}); give {LANGUAGE_MODEL.name!r}, a model folder or a hub id"
        ) from error


def _resolve(name: str, embedded: EmbeddedModel, missing_from: Callable[[Path], str]) -> str:
    if name in (embedded.name, embedded.hub_id):
        return str(prepare(embedded, None, full_check=False))
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        missing = missing_from(folder)
        if missing:
            raise ModelError(f"{name}: {missing}")
        return str(folder)
    if folder.exists() or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"model {name!r}: no such folder, and not a hub id; give {embedded.name!r}, a model folder or a hub id"
        )
    return name


def _missing_from_model(folder: Path) -> str:
    """Return why `folder` is not a language model, or an empty string if it is one."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return "this is an adapter, not a base model; give the base model here and the folder as adapter"
        return "no config.json in the folder; a transformers model folder has one"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return "no tokenizer in the folder (tokenizer.json); save it beside the weights"
    return _missing_weights(folder)


def _missing_from_embedder(folder: Path) -> str:
    """Return why `folder` is not an embedder, or an empty string if it is one."""
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
        return "neither modules.json nor config.json in the folder; a sentence-transformers folder has them"
    return _missing_weights(folder)


def _missing_weights(folder: Path) -> str:
    """Return what is wrong with the weights of `folder`, or an empty string. Pickles do not count as weights."""
    files = [path for pattern in ("*.safetensors", "*/*.safetensors") for path in folder.glob(pattern)]
    index = folder / "model.safetensors.index.json"
    shards = set(_read_json(index).get("weight_map", {}).values()) if index.is_file() else set()
    missing = shards - {path.name for path in files}
    if missing or not files:
        return f"no weights in the folder ({min(missing, default='model.safetensors')})"
    for path in files:
        read_tensor_headers(path)
    return ""


def _last_name(folder_or_id: str) -> str:
    return folder_or_id.rstrip("/").rsplit("/", 1)[-1]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; the folder is incomplete, write or download it again") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); write or download it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, not an object; write or download it again")
    return value


def _cached_snapshot(hub_id: str) -> Path | None:
    """Return the folder in the local hub cache that holds a hub id's configuration, or None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def main(arguments: Sequence[str]) -> None:
    """Prepare both models and print their folders, or repoint an adapter to its base model."""
    parser = argparse.ArgumentParser(prog="python -m memory_r1.models", description="Prepare the embedded models.")
    parser.add_argument(
        "--repoint", nargs=2, metavar=("ADAPTER", "BASE"), help="only set the path of an adapter's base model"
    )
    parser.add_argument("--cache", help="cache folder (default: MEMORY_R1_CACHE, else ~/.cache/memory_r1)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.repoint:
        repoint_adapter(*options.repoint)
        sys.stdout.write(f"{options.repoint[0]}: its base model is {options.repoint[1]}\n")
        return
    cache = options.cache
    prepare_models(cache)
    for model in (LANGUAGE_MODEL, EMBEDDER):
        sys.stdout.write(f"{model.name}: {cache_folder(cache) / 'models' / model.name}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
