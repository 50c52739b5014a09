"""Compute `results.json`, the numbers of a run, from the other files of its folder alone.

A row of `predictions.jsonl` holds its answer's scores and its evidence recall, as measured by the run. Metrics derived
from the row (`retrieval_metrics`) and a judge's later verdicts (`verdicts.jsonl`) are added only here, so that folders
of earlier versions get them too.

`python -m memory_r1.evaluation.scoring.results FOLDER` writes the file again and names the figures that changed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memory_r1.entry import run_main
from memory_r1.errors import DataError
from memory_r1.evaluation.judging.verdicts import VERDICTS, last_judges, parse_verdicts, read_verdicts
from memory_r1.evaluation.records import (
    PREDICTIONS,
    RESULTS,
    OperationRow,
    Prediction,
    RunInfo,
    read_operations,
    read_predictions,
    read_run,
)
from memory_r1.evaluation.scoring.gold_audit import unsound_questions
from memory_r1.evaluation.scoring.longmemeval import longmemeval_accuracies
from memory_r1.evaluation.scoring.retrieval_metrics import row_metrics
from memory_r1.evaluation.scoring.statistics import bootstrap_interval
from memory_r1.jsonl import read_json, read_rows, write_json
from memory_r1.types import FLAT_KINDS

METRICS = ("exact_match", "f1_mem0", "f1_locomo", "f1_squad", "bleu1", "judge", "evidence_recall")
"""Metrics in every result, null if no question has a value; other metrics of the rows follow."""

_SHOWN_CHANGES = 8


def compute_results(folder: Path | str) -> dict[str, Any]:
    """Compute the content of `results.json` from the other files of an evaluation folder.

    Raises:
        DataError: A file is missing or malformed, or a question was answered twice.
    """
    predictions = scored_predictions(folder)
    return summarize(predictions, read_operations(folder), read_run(folder), judges_of(folder))


def write_results(folder: Path | str) -> Path:
    """Compute `results.json` and write it atomically; return its path."""
    return write_json(Path(folder) / RESULTS, compute_results(folder))


def scored_predictions(folder: Path | str) -> list[Prediction]:
    """Return the rows of `predictions.jsonl` with every metric: measured, derived, and verdicts.

    A judge's verdicts are `judge_<rubric>`, one of them also as `judge` (see `shown_verdict`). A missing one is None.

    Raises:
        DataError: A file is missing or malformed, or a question was answered twice.
    """
    predictions = read_predictions(folder)
    _refuse_repeated(predictions, Path(folder) / PREDICTIONS)
    run = read_run(folder)
    verdicts = read_verdicts(folder)
    names = sorted({name for of_question in verdicts.values() for name in of_question})
    scored = []
    for prediction in predictions:
        metrics = {**prediction.metrics, **row_metrics(prediction, run.benchmark, run.system)}
        if names:
            metrics |= dict.fromkeys(names) | verdicts.get(prediction.key, {})
            metrics["judge"] = metrics.get(shown_verdict(names))
        scored.append(replace(prediction, metrics=metrics))
    return scored


def shown_verdict(names: Collection[str]) -> str:
    """Return the metric `judge_<rubric>` to show as `judge`: the only one, or the lenient one."""
    return next(iter(names)) if len(names) == 1 else "judge_lenient"


def summarize(
    predictions: Sequence[Prediction],
    operations: Sequence[OperationRow],
    run: RunInfo,
    judges: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Do the work of `compute_results` on records already read; `judges` maps metrics to their judges' models."""
    categories = sorted({prediction.category for prediction in predictions}, key=natural_order)
    by_category = {}
    for category in categories:
        members = [prediction for prediction in predictions if prediction.category == category]
        names = dict(run.category_names.get(category, {}))
        by_category[category] = {"n": len(members), "names": names, **metric_intervals(members)}
    accuracies = {"longmemeval": longmemeval_accuracies(predictions)} if run.benchmark == "longmemeval" else {}
    return {
        "benchmark": run.benchmark,
        "split": run.split,
        "system": run.shown_system,
        "model": run.model,
        "manager": run.manager,
        "answer": run.answer,
        "seed": run.seed,
        "n_questions": len(predictions),
        "overall": metric_intervals(predictions),
        "by_category": by_category,
        **accuracies,
        "audited": _audited(predictions, run),
        "verdicts": _count_verdicts(predictions, judges or {}),
        "operations": count_operations(operations),
        "cost": _cost(predictions, run),
        "git_revision": run.git_revision,
        "config": dict(run.config),
    }


def metric_intervals(predictions: Sequence[Prediction]) -> dict[str, dict[str, Any] | None]:
    """Return the mean and interval of every metric over `predictions`, or None if it applies to none of them."""
    measured = {name for prediction in predictions for name in prediction.metrics}
    others = sorted(measured.difference(METRICS), key=natural_order)
    groups = [prediction.dialogue_id for prediction in predictions]
    intervals: dict[str, dict[str, Any] | None] = {}
    for name in (*METRICS, *others):
        interval = bootstrap_interval([prediction.metrics.get(name) for prediction in predictions], groups)
        intervals[name] = None if interval is None else interval.to_dict()
    return intervals


def question_scores(predictions: Iterable[Prediction], metric: str) -> dict[str, float | None]:
    """Map `Prediction.key` to the value of `metric`, for `statistics.paired_difference`."""
    return {prediction.key: prediction.metrics.get(metric) for prediction in predictions}


def question_dialogues(predictions: Iterable[Prediction]) -> dict[str, str]:
    """Map `Prediction.key` to dialogue id, as groups for `statistics.paired_difference`."""
    return {prediction.key: prediction.dialogue_id for prediction in predictions}


def count_operations(operations: Iterable[OperationRow]) -> dict[str, int]:
    """Count applied operations by kind, parse failures, and operations on entries that were not in the prompt.

    Kinds that only graphs have are counted where they occur.
    """
    counts = Counter({kind.value: 0 for kind in FLAT_KINDS} | {"parse_failures": 0, "unknown_ids": 0})
    for row in operations:
        if row.failed_to_parse:
            counts["parse_failures"] += 1
        elif row.applied:
            counts[str(row.op)] += 1
        elif row.reason == "unknown_id":
            counts["unknown_ids"] += 1
    return dict(counts)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts "2" before "10"."""
    return [(int(part), "") if part.isdecimal() else (sys.maxsize, part) for part in re.split(r"(\d+)", name) if part]


def changed_figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of values in `before` that `after` lacks or has changed."""
    found = dict(_leaves(after))
    return [name for name, value in _leaves(before) if name not in found or found[name] != value]


def _audited(predictions: Sequence[Prediction], run: RunInfo) -> dict[str, Any] | None:
    """Return scores without the questions whose gold an audit found wrong, and a perfect system's score as ceiling."""
    unsound = unsound_questions(run.config)
    if unsound is None:
        return None
    sound = [prediction for prediction in predictions if prediction.key not in unsound]
    kinds = Counter(unsound[prediction.key] for prediction in predictions if prediction.key in unsound)
    return {
        "excluded": kinds.total(),
        "error_types": dict(sorted(kinds.items())),
        "ceiling": len(sound) / len(predictions) if predictions else None,
        "overall": metric_intervals(sound),
    }


def judges_of(folder: Path | str) -> dict[str, str]:
    """Map each judge metric to the judge's model."""
    path = Path(folder) / VERDICTS
    verdicts = parse_verdicts(read_rows(path), path) if path.exists() else []
    return {f"judge_{rubric}": judge for rubric, judge in last_judges(verdicts).items()}


def _count_verdicts(predictions: Sequence[Prediction], judges: Mapping[str, str]) -> dict[str, Any] | None:
    """Count each rubric's verdicts, including missing ones, with its judge; None if nothing was judged."""
    names = sorted({name for prediction in predictions for name in prediction.metrics if name.startswith("judge_")})
    counts = {}
    for name in names:
        values = [prediction.metrics.get(name) for prediction in predictions]
        right, wrong = values.count(1.0), values.count(0.0)
        missing = len(values) - right - wrong
        counts[name] = {"judge": judges.get(name), "right": right, "wrong": wrong, "missing": missing}
    return counts or None


def _earlier(path: Path) -> dict[str, Any]:
    """Return the existing results, empty if missing or damaged, since they are about to be replaced."""
    try:
        return read_json(path)
    except DataError:
        return {}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or (name and not value):
        yield name, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _cost(predictions: Sequence[Prediction], run: RunInfo) -> dict[str, float]:
    seconds = [prediction.seconds for prediction in predictions]
    p50, p95 = np.percentile(seconds, [50, 95]) if seconds else (0.0, 0.0)
    counters = dict.fromkeys(("write_tokens", "read_tokens", "model_calls"), 0) | dict(run.cost)
    return {**counters, "answer_seconds_p50": float(p50), "answer_seconds_p95": float(p95)}


def _refuse_repeated(predictions: Sequence[Prediction], path: Path) -> None:
    first: dict[str, int] = {}
    for number, prediction in enumerate(predictions, start=1):
        if prediction.key in first:
            raise DataError(
                f"{path}, line {number}: question {prediction.key!r} is already in line {first[prediction.key]}; one "
                "row per question is allowed: remove one of them"
            )
        first[prediction.key] = number


def main(arguments: Sequence[str]) -> int:
    """Write `results.json` of a folder again; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m memory_r1.evaluation.scoring.results", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of an evaluation")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    folder = parser.parse_args(arguments).folder
    before = _earlier(folder / RESULTS)
    path = write_results(folder)
    changed = changed_figures(before, read_json(path))
    shown = ", ".join(changed[:_SHOWN_CHANGES]) + (", ..." if len(changed) > _SHOWN_CHANGES else "")
    same = "the figures are the same as before" if before else "there was none before"
    sys.stdout.write(f"wrote {path}: {f'{len(changed)} figures changed ({shown})' if changed else same}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
