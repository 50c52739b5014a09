"""What may be published of a run: scores by question and curves, but no text of the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memory_r1.evaluation.records import PREDICTIONS, Prediction, read_run
from memory_r1.evaluation.scoring.results import scored_predictions
from memory_r1.jsonl import read_json
from memory_r1.weights import hash_file

METRICS = ("f1_squad", "exact_match", "evidence_recall")
# Columns of a training log that are kept: what it optimised, what it cost, and what shows that it still explores.
CURVES = (
    *("step", "loss", "eval_loss", "reward", "eval_score", "kl", "entropy", "cpu_seconds", "step_time"),
    *("groups/zero_variance", "groups/flat", "completions/parse_failures", "completions/unknown"),
    *("completions/share_ADD", "completions/share_UPDATE", "completions/share_DELETE", "completions/share_NOOP"),
    "critic/explained_variance",
)
SUMMARY = (
    *("agent", "method", "seed", "steps", "wall_seconds", "start_validation", "best_validation", "kept_start"),
    *("train_rows", "git_revision", "recipe"),
)


def training_record(folder: Path) -> dict[str, Any]:
    """Return a finished run's recipe, cost, validation scores and curves."""
    summary = read_json(folder / "training_summary.json")
    history = summary["log_history"]
    curves = [{key: _rounded(row[key]) for key in CURVES if row.get(key) is not None} for row in history]
    kept = {key: summary[key] for key in SUMMARY if key in summary}
    recipe = kept.get("recipe", {})
    kept["recipe"] = {key: value for key, value in recipe.items() if "/" not in str(value)}  # no path of a machine
    return kept | {
        "cpu_seconds": max((row.get("cpu_seconds", 0.0) for row in history), default=0.0),
        "completions": round(summary["steps"] * _completions_a_step(recipe)),
        "curves": [row for row in curves if row.keys() - {"step", "cpu_seconds"}],
    }


def _completions_a_step(recipe: Mapping[str, Any]) -> float:
    """Sampled completions per optimizer step, which may learn from each several times; 0 without sampling."""
    uses = recipe.get("steps_per_generation", 1) * recipe.get("num_iterations", 1)
    return float(recipe.get("generation_batch_size", 0) * recipe.get("gradient_accumulation_steps", 1) / uses)


def questions_of(folder: Path) -> dict[str, str]:
    """Map each question of an evaluation to its category, in the order of its scores."""
    return {row.key: row.category for row in scored_predictions(folder)}


def evaluation_record(folder: Path) -> dict[str, Any]:
    """Return an evaluation's scores in the order of its questions, its operations, and the hash of its predictions."""
    rows, run = scored_predictions(folder), read_run(folder)
    hashes = ("manager_sha256", "answer_sha256", "data_sha256")
    return {
        **{name: run.config[name] for name in hashes if name in run.config},
        "git_revision": run.git_revision,
        "operations": read_json(folder / "results.json")["operations"],
        "unknown": sum(_is_unknown(row) for row in rows),
        "predictions_sha256": hash_file(folder / PREDICTIONS),
        "scores": {name: [_rounded(row.metrics.get(name)) for row in rows] for name in METRICS},
    }


def _is_unknown(row: Prediction) -> bool:
    return row.prediction.strip().lower().rstrip(".") == "unknown"


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
