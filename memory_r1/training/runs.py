"""The output of a training run, and how to resume it after a kill."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memory_r1.adapter_settings import SUMMARY, AgentSettings
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.jsonl import read_json, write_json
from memory_r1.models import weights_hash
from memory_r1.packaged_models import LANGUAGE_MODEL
from memory_r1.provenance import git_revision, package_versions
from memory_r1.training.model_card import model_card
from memory_r1.training.restore_start import RestoreStart
from memory_r1.training.sharding import sharding_of

logger = logging.getLogger(__name__)

RECIPE = "recipe.json"


def open_run(folder: str | Path, recipe: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Return whether a recipe's run in `folder` is finished, and the checkpoint to resume from or None; write nothing.

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
    """Record the recipe in `folder`; call it when training is ready to start, so that a bad recipe leaves nothing."""
    write_json(Path(folder) / RECIPE, _plain(recipe))


def last_checkpoint(folder: str | Path) -> str | None:
    """Return a run's newest complete checkpoint or None; `trainer_state.json` is the last file of a checkpoint."""
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
    """Write an adapter folder: adapter, tokenizer, model card and, last, the summary.

    `weights` are the model's gathered weights if an engine shards them; None uses the model's own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        model.save_pretrained(scratch, selected_adapters=["default"], state_dict=weights)
        tokenizer.save_pretrained(scratch)
        (Path(scratch) / "README.md").write_text(model_card(summary), encoding="utf-8")
        for path in Path(scratch).iterdir():
            os.replace(path, folder / path.name)
    write_json(folder / SUMMARY, _plain(summary))


def finish_run(
    trainer: Any,
    *,
    agent: str,
    method: str,
    recipe: Mapping[str, Any],
    settings: AgentSettings,
    base: str,
    base_source: str,
    started: float,
    results: Mapping[str, Any],
) -> None:
    """Save the best adapter with its card and summary, drop the checkpoints, and leave the process group together.

    Args:
        trainer: The trainer, with the best checkpoint loaded.
        agent: "manager", "answer", "writer" or "drafter".
        method: The training method.
        recipe: The fields that identify the run.
        settings: The settings that using the adapter must match.
        base: The base model as named in the recipe.
        base_source: The folder or hub id that it was loaded from.
        started: `time.monotonic` at the start of the run.
        results: Further fields of the summary.
    """
    # All processes take part in gathering a sharded adapter.
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharding_of(trainer.args) == 3 else None
    if trainer.accelerator.is_main_process:
        policy = trainer.accelerator.unwrap_model(trainer.model)
        trainable = (parameter for parameter in policy.parameters() if parameter.requires_grad)
        summary = {
            "agent": agent,
            "method": method,
            "recipe": recipe,
            "settings": settings.to_dict(),
            "loss": trainer.args.loss_type,
            "base_model": base_model_record(base_source, base),
            "steps": trainer.state.global_step,
            "seed": trainer.args.seed,
            "trainable_parameters": sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trainable),
            "wall_seconds": time.monotonic() - started,
            **results,
            "git_revision": git_revision(),
            "versions": package_versions(),
            "log_history": trainer.state.log_history,
        }
        save_adapter(policy, trainer.processing_class, trainer.args.output_dir, summary, whole)
        remove_checkpoints(trainer.args.output_dir)
        logger.info("adapter written to %s", trainer.args.output_dir)
    # A process that exits alone may abort while closing its connections; the launcher then stops the others, even
    # while they are saving.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def rl_results(trainer: Any, restore_start: RestoreStart) -> dict[str, Any]:
    """Restore the start if nothing beat it, and return a run's first and last reward and its validation scores."""
    kept = restore_start.restore_unless_beaten()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    validated = [value for value in (restore_start.score, trainer.state.best_metric) if value is not None]
    return {
        "first_reward": rewards[0] if rewards else None,
        "last_reward": rewards[-1] if rewards else None,
        "start_validation": restore_start.score,
        "best_validation": max(validated, default=None),
        "kept_start": kept,
    }


def sft_results(trainer: Any, restore_start: RestoreStart) -> dict[str, Any]:
    """Do the same as `rl_results` for a supervised run, which has no rewards."""
    kept = restore_start.restore_unless_beaten()
    return {
        "first_reward": None,
        "last_reward": None,
        "start_validation": restore_start.score,
        "best_validation": restore_start.score if kept else trainer.state.best_metric,
        "kept_start": kept,
    }


def base_model_record(source: str, name: str) -> dict[str, Any]:
    """Return an adapter's record of its base: hub id (or name) and weight hash, but never its path."""
    short = Path(name).name if Path(name).exists() else name
    hub_id = LANGUAGE_MODEL.hub_id if short == LANGUAGE_MODEL.name else short
    return {"id": hub_id, "weights_sha256": weights_hash(source)}


def remove_checkpoints(folder: str | Path) -> None:
    """Drop a finished run's checkpoints; the adapter beside them is the best one."""
    for path in Path(folder).glob("checkpoint-*"):
        shutil.rmtree(path)


def _is_whole(checkpoint: Path) -> bool:
    try:
        read_json(checkpoint / "trainer_state.json")
    except DataError:
        return False
    return True


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content as JSON reads it back; NaN and infinity, which TRL logs for missing rewards, become None."""
    return dict(json.loads(json.dumps(content, default=str), parse_constant=lambda _: None))
