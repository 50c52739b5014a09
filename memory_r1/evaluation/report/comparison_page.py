"""The content of a comparison page beside the questions: scores, differences, categories and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memory_r1.errors import ConfigurationError
from memory_r1.evaluation.report.charts import Spot
from memory_r1.evaluation.report.evaluated_run import EvaluatedRun
from memory_r1.evaluation.scoring.comparison import Seed, Side, check_comparable, metric_difference
from memory_r1.evaluation.scoring.statistics import PairedDifference


def read_runs(folders: Sequence[Path], titles: Sequence[str] = ()) -> list[EvaluatedRun]:
    """Read the folders of a comparison. Titles default to the memory systems, or to the folders if those repeat.

    Raises:
        ConfigurationError: There is no folder, the number of titles differs, or a title occurs twice.
        DataError: A file is missing or malformed, or the runs' questions differ.
    """
    if not folders:
        raise ConfigurationError("no folder to compare: give the folders of at least two evaluations")
    if titles and len(titles) != len(folders):
        raise ConfigurationError(f"{len(titles)} titles for {len(folders)} folders: give one per folder, or none")
    runs = [EvaluatedRun.read(folder) for folder in folders]
    if not titles:
        systems = [run.title for run in runs]
        titles = systems if len(set(systems)) == len(runs) else [str(folder) for folder in folders]
    if repeated := [title for title in titles if list(titles).count(title) > 1]:
        raise ConfigurationError(f"two runs are called {repeated[0]!r}: give each folder once, and its own title")
    check_comparable([Side(run.title, (Seed(run.folder, run.run, run.predictions, run.judges),)) for run in runs])
    return [replace(run, title=title) for run, title in zip(runs, titles, strict=True)]


def shared_headline(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return the main metrics that any run has, in the order of the first run that has them."""
    return list(dict.fromkeys(name for run in runs for name in run.headline))


def shared_metrics(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return every metric that any run has."""
    return list(dict.fromkeys(name for run in runs for name in run.measured))


def differences(runs: Sequence[EvaluatedRun], metric: str) -> list[PairedDifference | None]:
    """Return each later run's difference from the first; None if no question has both values or the judges differ."""
    alike = [not metric.startswith("judge") or run.judges == runs[0].judges for run in runs]
    return [
        metric_difference(run.predictions, runs[0].predictions, metric) if same else None
        for run, same in zip(runs[1:], alike[1:], strict=True)
    ]


def by_category(runs: Sequence[EvaluatedRun], metric: str) -> dict[str, dict[str, Any]]:
    """Map each category to `n`, `names` and the interval of `metric` by the run's index in `runs`."""
    return {
        category: {"n": row["n"], "names": row["names"]}
        | {str(place): run.results["by_category"][category].get(metric) for place, run in enumerate(runs)}
        for category, row in runs[0].results["by_category"].items()
    }


def tradeoff(runs: Sequence[EvaluatedRun], metric: str) -> list[Spot]:
    """Return one spot per run with the metric: quality (times 100, with its interval) against tokens per question."""
    return [
        Spot(run.title, run.tokens_per_question, *(100 * row[bound] for bound in ("mean", "low", "high")))
        for run in runs
        if (row := run.results["overall"].get(metric))
    ]
