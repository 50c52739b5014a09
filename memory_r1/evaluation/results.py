"""`results.json`: the numbers of a run, computed from the other files of its folder alone.

`python -m memory_r1.evaluation.results FOLDER` writes it again.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memory_r1.errors import DataError, MemoryR1Error
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
from memory_r1.evaluation.statistics import bootstrap_interval
from memory_r1.jsonl import write_json
from memory_r1.types import OperationKind

METRICS = ("exact_match", "f1_mem0", "f1_locomo", "f1_squad", "bleu1", "judge", "evidence_recall")
"""Every result names these, null where none of the questions has a value; others that the rows carry follow them."""

logger = logging.getLogger(__name__)


def compute_results(folder: Path | str) -> dict[str, Any]:
    """Compute the content of `results.json` from `predictions.jsonl`, `operations.jsonl` and `run.json`.

    Raises:
        DataError: a file is missing or malformed, or a question was answered twice.
    """
    predictions = read_predictions(folder)
    _refuse_repeated(predictions, Path(folder) / PREDICTIONS)
    return summarize(predictions, read_operations(folder), read_run(folder))


def write_results(folder: Path | str) -> Path:
    """Compute and write `results.json`, replacing an earlier one as a whole or not at all; return its path."""
    return write_json(Path(folder) / RESULTS, compute_results(folder))


def summarize(predictions: Sequence[Prediction], operations: Sequence[OperationRow], run: RunInfo) -> dict[str, Any]:
    """`compute_results` on records that have been read."""
    categories = sorted({prediction.category for prediction in predictions}, key=_natural)
    by_category = {}
    for category in categories:
        members = [prediction for prediction in predictions if prediction.category == category]
        names = dict(run.category_names.get(category, {}))
        by_category[category] = {"n": len(members), "names": names, **metric_intervals(members)}
    return {
        "benchmark": run.benchmark,
        "split": run.split,
        "system": run.system,
        "model": run.model,
        "manager": run.manager,
        "answer": run.answer,
        "seed": run.seed,
        "n_questions": len(predictions),
        "overall": metric_intervals(predictions),
        "by_category": by_category,
        "operations": count_operations(operations),
        "cost": _cost(predictions, run),
        "git_revision": run.git_revision,
        "config": dict(run.config),
    }


def metric_intervals(predictions: Sequence[Prediction]) -> dict[str, dict[str, Any] | None]:
    """Mean and interval of every metric over `predictions`, None where it applies to none of them."""
    others = sorted({name for prediction in predictions for name in prediction.metrics}.difference(METRICS))
    groups = [prediction.dialogue_id for prediction in predictions]
    intervals: dict[str, dict[str, Any] | None] = {}
    for name in (*METRICS, *others):
        interval = bootstrap_interval([prediction.metrics.get(name) for prediction in predictions], groups)
        intervals[name] = None if interval is None else interval.to_dict()
    return intervals


def question_scores(predictions: Iterable[Prediction], metric: str) -> dict[str, float | None]:
    """`Prediction.key` to the value of `metric`: what `statistics.paired_difference` compares."""
    return {prediction.key: prediction.metrics.get(metric) for prediction in predictions}


def question_dialogues(predictions: Iterable[Prediction]) -> dict[str, str]:
    """`Prediction.key` to dialogue id: the groups of `statistics.paired_difference`."""
    return {prediction.key: prediction.dialogue_id for prediction in predictions}


def count_operations(operations: Iterable[OperationRow]) -> dict[str, int]:
    """Applied operations by kind, completions that did not parse, and operations on entries that were not shown."""
    counts = Counter({kind.value: 0 for kind in OperationKind} | {"parse_failures": 0, "unknown_ids": 0})
    for row in operations:
        if row.failed_to_parse:
            counts["parse_failures"] += 1
        elif row.applied:
            counts[str(row.op)] += 1
        elif row.reason == "unknown_id":
            counts["unknown_ids"] += 1
    return dict(counts)


def _cost(predictions: Sequence[Prediction], run: RunInfo) -> dict[str, float]:
    seconds = [prediction.seconds for prediction in predictions]
    p50, p95 = np.percentile(seconds, [50, 95]) if seconds else (0.0, 0.0)
    counters = {name: run.cost.get(name, 0) for name in ("write_tokens", "read_tokens", "model_calls")}
    return {**counters, "answer_seconds_p50": float(p50), "answer_seconds_p95": float(p95)}


def _refuse_repeated(predictions: Sequence[Prediction], path: Path) -> None:
    first: dict[str, int] = {}
    for number, prediction in enumerate(predictions, start=1):
        if prediction.key in first:
            raise DataError(
                f"{path}, line {number}: question {prediction.key!r} stands in line {first[prediction.key]} already; "
                "one row a question is allowed: remove one of them"
            )
        first[prediction.key] = number


def _natural(category: str) -> list[tuple[int, str]]:
    """Sort key that puts "2" before "10"."""
    return [
        (int(part), "") if part.isdecimal() else (sys.maxsize, part) for part in re.split(r"(\d+)", category) if part
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: write `results.json` of a folder again; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m memory_r1.evaluation.results", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of an evaluation")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        path = write_results(parser.parse_args(arguments).folder)
    except MemoryR1Error as error:
        logger.error("%s", error)
        return 1
    logger.info("wrote %s", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
