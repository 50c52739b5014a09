"""What a training run leaves behind, and how it goes on after a kill."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memory_r1.errors import ConfigurationError
from memory_r1.models import weights_hash

SUMMARY = "training_summary.json"
RECIPE = "recipe.json"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "sentence-transformers", "faiss-cpu")


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """Identifies a run: equal recipes, equal hash."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:16]


def open_run(folder: str | Path, recipe: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Claim `folder` for a recipe: (already finished, checkpoint to resume from or None).

    Raises:
        ConfigurationError: The folder holds a run of another recipe.
    """
    folder = Path(folder)
    stored = folder / RECIPE
    if stored.is_file():
        before = json.loads(stored.read_text(encoding="utf-8"))
        differing = sorted(key for key in {*before, *recipe} if before.get(key) != _plain(recipe).get(key))
        if differing:
            raise ConfigurationError(
                f"{folder} holds a run of another recipe (differs in: {', '.join(differing[:6])}); choose another "
                "output_dir or remove the folder"
            )
    write_json(stored, _plain(recipe))
    return (folder / SUMMARY).is_file(), last_checkpoint(folder)


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint in a run's own folder; `trainer_state.json` is the last file written to one."""
    found = [
        (int(match[1]), path)
        for path in Path(folder).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / "trainer_state.json").is_file()
    ]
    return str(max(found)[1]) if found else None


def save_adapter(model: Any, tokenizer: Any, folder: str | Path, summary: Mapping[str, Any]) -> None:
    """Write the adapter folder of design.md section 6: adapter, tokenizer, model card, and last the summary."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        model.save_pretrained(scratch, selected_adapters=["default"])
        tokenizer.save_pretrained(scratch)
        (Path(scratch) / "README.md").write_text(_model_card(summary), encoding="utf-8")
        for path in Path(scratch).iterdir():
            os.replace(path, folder / path.name)
    write_json(folder / SUMMARY, summary)


def base_model_record(source: str, name: str) -> dict[str, Any]:
    """How an adapter names its base: hub id (or name) and weight hash, never the path it happened to lie on."""
    hub_ids = {"SmolLM2-135M-Instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    stem = Path(name).name if Path(name).exists() else name
    return {"id": hub_ids.get(stem, stem), "weights_sha256": weights_hash(source)}


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def git_revision() -> str:
    """The checkout's commit, with `-dirty` for uncommitted changes; `unknown` outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return run.stdout.strip() or "unknown"


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path) -> Any:
    """Read a JSON file that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def remove_checkpoints(folder: str | Path) -> None:
    """Drop a finished run's checkpoints: the adapter beside them is the best one."""
    for path in Path(folder).glob("checkpoint-*"):
        shutil.rmtree(path)


def _plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(recipe, default=str)))


def _model_card(summary: Mapping[str, Any]) -> str:
    base = summary["base_model"]["id"]
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {base}",
        "tags: [memory-r1, lora, " + summary["method"] + "]",
        "---",
        f"# {summary['agent']} agent, {summary['method'].upper()}",
        "",
        f"LoRA adapter on `{base}`, trained with memory_r1 for {summary['steps']} steps (seed {summary['seed']}).",
        "",
        "| | |",
        "|---|---|",
        f"| base weights, SHA-256 | `{summary['base_model']['weights_sha256']}` |",
        f"| trainable parameters | {summary['trainable_parameters']:,} |",
        f"| first / last mean reward | {summary['first_reward']} / {summary['last_reward']} |",
        f"| best validation value | {summary['best_validation']} |",
        f"| wall seconds | {summary['wall_seconds']:.0f} |",
        f"| revision | `{summary['git_revision']}` |",
        "",
        "The full recipe and package versions are in `training_summary.json`.",
    ]
    return "\n".join(lines) + "\n"
