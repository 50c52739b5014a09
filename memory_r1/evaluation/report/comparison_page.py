"""What a page that compares several runs shows beside their questions: scores, differences, categories and cost."""

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
    """Read the folders of a comparison; without titles their memory systems are those, or the folders where some agree.

    Raises:
        ConfigurationError: no folder, another number of titles, or a title that occurs twice.
        DataError: a file is missing or malformed, or the runs were not asked the same questions.
    """
    if not folders:
        raise ConfigurationError("no folder to compare: give those of at least two evaluations")
    if titles and len(titles) != len(folders):
        raise ConfigurationError(f"{len(titles)} titles for {len(folders)} folders: give one a folder, or none")
    runs = [EvaluatedRun.read(folder) for folder in folders]
    if not titles:
        systems = [run.title for run in runs]
        titles = systems if len(set(systems)) == len(runs) else [str(folder) for folder in folders]
    if repeated := [title for title in titles if list(titles).count(title) > 1]:
        raise ConfigurationError(f"two runs are called {repeated[0]!r}: give each folder once, and its own title")
    check_comparable([Side(run.title, (Seed(run.folder, run.run, run.predictions, run.judges),)) for run in runs])
    return [replace(run, title=title) for run, title in zip(runs, titles, strict=True)]


def shared_headline(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The metrics to look at first, as far as any of the runs has them, in the order of the first that does."""
    return list(dict.fromkeys(name for run in runs for name in run.headline))


def shared_metrics(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Every metric that any of the runs has."""
    return list(dict.fromkeys(name for run in runs for name in run.measured))


def differences(runs: Sequence[EvaluatedRun], metric: str) -> list[PairedDifference | None]:
    """What each later run scores above the first; None where no question has a value of both.

    Verdicts of two judges are two scales: for such a pair there is no difference either.
    """
    alike = [not metric.startswith("judge") or run.judges == runs[0].judges for run in runs]
    return [
        metric_difference(run.predictions, runs[0].predictions, metric) if same else None
        for run, same in zip(runs[1:], alike[1:], strict=True)
    ]


def by_category(runs: Sequence[EvaluatedRun], metric: str) -> dict[str, dict[str, Any]]:
    """Category to `n`, `names` and the interval of `metric` by the run's place in `runs`."""
    return {
        category: {"n": row["n"], "names": row["names"]}
        | {str(place): run.results["by_category"][category].get(metric) for place, run in enumerate(runs)}
        for category, row in runs[0].results["by_category"].items()
    }


def tradeoff(runs: Sequence[EvaluatedRun], metric: str) -> list[Spot]:
    """Quality (times 100, with its interval) against tokens a question, one spot a run that has the metric."""
    return [
        Spot(run.title, run.tokens_per_question, *(100 * row[bound] for bound in ("mean", "low", "high")))
        for run in runs
        if (row := run.results["overall"].get(metric))
    ]
