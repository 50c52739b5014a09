"""What a training run leaves behind, and how it goes on after a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memory_r1.embedded import LANGUAGE_MODEL
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.jsonl import read_json, write_json
from memory_r1.models import weights_hash
from memory_r1.settings import SUMMARY

RECIPE = "recipe.json"


def open_run(folder: str | Path, recipe: Mapping[str, Any]) -> tuple[bool, str | None]:
    """What `folder` holds of a recipe's run: (already finished, checkpoint to resume from or None). Writes nothing.

    Raises:
        ConfigurationError: The folder holds a run of another recipe.
    """
    folder = Path(folder)
    stored = folder / RECIPE
    if stored.is_file():
        before = read_json(stored)
        differing = sorted(key for key in {*before, *recipe} if before.get(key) != _plain(recipe).get(key))
        if differing:
            raise ConfigurationError(
                f"{folder} holds a run of another recipe (differs in: {', '.join(differing[:6])}); choose another "
                "output_dir or remove the folder"
            )
    return (folder / SUMMARY).is_file(), last_checkpoint(folder)


def claim_run(folder: str | Path, recipe: Mapping[str, Any]) -> None:
    """Note whose run `folder` is to hold; called when all is ready to train, so that a bad recipe leaves nothing."""
    write_json(Path(folder) / RECIPE, _plain(recipe))


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint in a run's own folder; `trainer_state.json` is the last file written to one."""
    found = [
        (int(match[1]), path)
        for path in Path(folder).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and _is_whole(path)
    ]
    return str(max(found)[1]) if found else None


def save_adapter(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    summary: Mapping[str, Any],
    weights: Mapping[str, Any] | None = None,
) -> None:
    """Write the adapter folder of design.md section 6: adapter, tokenizer, model card, and last the summary.

    `weights` are the model's whole weights where an engine has split them over processes; None takes its own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        model.save_pretrained(scratch, selected_adapters=["default"], state_dict=weights)
        tokenizer.save_pretrained(scratch)
        (Path(scratch) / "README.md").write_text(_model_card(summary), encoding="utf-8")
        for path in Path(scratch).iterdir():
            os.replace(path, folder / path.name)
    write_json(folder / SUMMARY, _plain(summary))


def base_model_record(source: str, name: str) -> dict[str, Any]:
    """How an adapter names its base: hub id (or name) and weight hash, never the path it happened to lie on."""
    short = Path(name).name if Path(name).exists() else name
    hub_id = LANGUAGE_MODEL.hub_id if short == LANGUAGE_MODEL.name else short
    return {"id": hub_id, "weights_sha256": weights_hash(source)}


def remove_checkpoints(folder: str | Path) -> None:
    """Drop a finished run's checkpoints: the adapter beside them is the best one."""
    for path in Path(folder).glob("checkpoint-*"):
        shutil.rmtree(path)


def _is_whole(checkpoint: Path) -> bool:
    try:
        read_json(checkpoint / "trainer_state.json")
    except DataError:
        return False
    return True


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON reads it back; NaN and infinity, which TRL logs for a reward that no completion had, become null."""
    return dict(json.loads(json.dumps(content, default=str), parse_constant=lambda _: None))


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
        f"| loss | {summary['loss']} |",
        f"| trainable parameters | {summary['trainable_parameters']:,} |",
        f"| first / last mean reward | {summary['first_reward']} / {summary['last_reward']} |",
        f"| best validation value | {summary['best_validation']} |",
        f"| wall seconds | {summary['wall_seconds']:.0f} |",
        f"| revision | `{summary['git_revision']}` |",
        "",
        "The full recipe and package versions are in `training_summary.json`.",
        "",
        "## Use",
        "",
        "`AutoPeftModelForCausalLM.from_pretrained(folder)` loads the base model from where `adapter_config.json` says",
        "it lies, and this adapter on it. Where the base model has moved, edit that one line,",
        "",
        "```json",
        '"base_model_name_or_path": "its folder or hub id"',
        "```",
        "",
        "or let `python -m memory_r1.models --repoint ADAPTER BASE` do so, which compares the weights first. A model",
        "that is loaded already takes the adapter as it is: `model.load_adapter(folder)`.",
    ]
    return "\n".join(lines) + "\n"
