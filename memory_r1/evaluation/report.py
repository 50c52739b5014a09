"""`report.html`: a run, or the stages of a training, on one page that needs nothing but itself.

The questions of a run are embedded as JSON, and the page's own script puts them on the page as text, never as markup.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from memory_r1.evaluation.charts import Points, lines, save_category_figure, stacked_columns
from memory_r1.evaluation.diagnosis import History, Step, failed_step
from memory_r1.evaluation.pages import metric_label, within_dialogue, write_page
from memory_r1.evaluation.records import RESULTS, RunInfo, read_operations, read_predictions, read_run
from memory_r1.evaluation.report_data import (
    cost_rows,
    operation_columns,
    part_counts,
    question_data,
    summed_parts,
)
from memory_r1.evaluation.results import METRICS, summarize
from memory_r1.evaluation.statistics import PairedDifference
from memory_r1.jsonl import read_json
from memory_r1.types import Dialogue

REPORT = "report.html"
CATEGORY_FIGURE = "by_category.png"

# What the benchmark's papers print; elsewhere the two that the demo claims something about.
_HEADLINES = dict.fromkeys(("locomo", "longmemeval", "msc"), ("f1_mem0", "bleu1", "judge"))
_HEADLINE = ("exact_match", "f1_squad", "judge")


@dataclass(frozen=True, slots=True)
class Stage:
    """One row of the before/after table: `metrics` and `operations` as in `results.json`, `report` a page to link."""

    name: str
    n_questions: int
    metrics: Mapping[str, Mapping[str, Any] | None]
    operations: Mapping[str, int] = field(default_factory=dict)
    report: Path | None = None

    @classmethod
    def from_folder(cls, name: str, folder: Path | str) -> Self:
        """Take the numbers from an evaluation folder's `results.json` and link to its report where it has one."""
        results = read_json(Path(folder) / RESULTS)
        report = Path(folder) / REPORT
        link = report if report.exists() else None
        return cls(name, results["n_questions"], results["overall"], results["operations"], link)


@dataclass(frozen=True, slots=True)
class Sample:
    """What an agent wrote at a stage; `reward` is None where nothing scored it."""

    agent: str
    stage: str
    prompt: str
    completion: str
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A training chart: (step, value) points of each series by its name."""

    title: str
    series: Mapping[str, Points]
    x_label: str = "step"


def write_report(folder: Path | str, dialogues: Iterable[Dialogue] = ()) -> Path:
    """Write `report.html` and its figure from an evaluation folder's other files; return the page's path.

    Args:
        folder: holds `predictions.jsonl`, `operations.jsonl` and `run.json`.
        dialogues: where given, the page shows what was said in the evidence turns, not only their ids.

    Raises:
        DataError: a file is missing or malformed.
    """
    folder = Path(folder)
    predictions, operations, run = read_predictions(folder), read_operations(folder), read_run(folder)
    results = summarize(predictions, operations, run)
    headline = [name for name in _HEADLINES.get(run.benchmark, _HEADLINE) if results["overall"][name]]
    labels = {name: metric_label(name) for name in headline}
    save_category_figure(results["by_category"], labels, folder / CATEGORY_FIGURE)
    history = History(operations)
    steps = [failed_step(prediction, history) for prediction in predictions]
    columns = operation_columns(operations)
    context = {
        "title": f"{run.system} on {run.benchmark}",
        "results": results,
        "header": _header(run, len(predictions), len({prediction.dialogue_id for prediction in predictions})),
        "headline": headline,
        "measured": [name for name, value in results["overall"].items() if value],
        "within_dialogue": within_dialogue([results["overall"]]),
        "verdict": "the judge accepted" if results["overall"]["judge"] else "matches exactly",
        "steps": {step.value: steps.count(step) for step in Step if step in steps or step is Step.CORRECT},
        "operations_chart": stacked_columns(columns, "turn", "operations per turn") if columns else None,
        "operation_parts": part_counts(operations),
        "costs": cost_rows(results["cost"], len(predictions)),
        "configuration": json.dumps({"config": run.config, "versions": run.versions}, indent=2, ensure_ascii=False),
        "data": question_data(predictions, steps, operations, dialogues),
    }
    return write_page(folder / REPORT, "report.html.jinja", context, script="questions.js.jinja")


def write_stage_report(
    path: Path | str,
    stages: Sequence[Stage],
    samples: Sequence[Sample] = (),
    curves: Sequence[Curve] = (),
    differences: Mapping[str, PairedDifference | None] | None = None,
    facts: Mapping[str, Any] | None = None,
    title: str = "Before and after training",
) -> Path:
    """Write one page that compares the stages of a training; return its path.

    Args:
        path: the HTML file.
        stages: in training order, such as base, SFT, GRPO.
        samples: completions of the agents, shown in the order given.
        curves: training charts.
        differences: paired differences by what they compare, such as "exact match, GRPO less SFT".
        facts: shown under the title, name to value.
        title: the page's title.
    """
    path = Path(path)
    known = [name for name in METRICS if any(stage.metrics.get(name) for stage in stages)]
    context = {
        "title": title,
        "facts_shown": dict(facts or {}),
        "stages": stages,
        "links": [stage.report and _link(stage.report, path.parent) for stage in stages],
        "metrics": known,
        "within_dialogue": within_dialogue([stage.metrics for stage in stages]),
        "differences": differences or {},
        "shares": {stage.name: summed_parts(stage.operations) for stage in stages if stage.operations},
        "curves": [(curve, lines(curve.series, curve.x_label, curve.title)) for curve in curves],
        "samples": samples,
    }
    return write_page(path, "stages.html.jinja", context)


def _link(target: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(target, folder)).as_posix())


def _header(run: RunInfo, questions: int, dialogues: int) -> dict[str, Any]:
    return {
        "split": run.split,
        "questions": f"{questions:,} in {dialogues} dialogues",
        "model": run.model,
        "manager": run.manager,
        "answer agent": run.answer,
        "seed": run.seed,
        "revision": run.git_revision and run.git_revision[:12],
    }
