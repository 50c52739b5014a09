"""Write self-contained HTML pages on a run, several runs, or the stages of a training.

The questions of a run are embedded as JSON, and the page's script inserts them as text, never as markup.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from markupsafe import Markup

from memory_r1.evaluation.records import RESULTS
from memory_r1.evaluation.report import charts, comparison_page
from memory_r1.evaluation.report.charts import Columns, Points, inline_svg, save_png
from memory_r1.evaluation.report.evaluated_run import EvaluatedRun
from memory_r1.evaluation.report.operations import cost_rows, operation_columns, part_counts, summed_parts
from memory_r1.evaluation.report.pages import metric_label, within_dialogue, write_page
from memory_r1.evaluation.report.played import PlayedDialogue
from memory_r1.evaluation.report.questions import filters, question_data
from memory_r1.evaluation.report.turns import shown_turns
from memory_r1.evaluation.scoring.results import METRICS
from memory_r1.evaluation.scoring.statistics import PairedDifference
from memory_r1.jsonl import read_json
from memory_r1.types import Dialogue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"
COMPARISON_PAGE = "comparison.html"
FIGURES = ("scoreboard.png", "by_category.png", "operations.png", "cost.png")


@dataclass(frozen=True, slots=True)
class Stage:
    """One row of the before/after table; `metrics` and `operations` are as in `results.json`, `report` is linked."""

    name: str
    n_questions: int
    metrics: Mapping[str, Mapping[str, Any] | None]
    operations: Mapping[str, int] = field(default_factory=dict)
    report: Path | None = None

    @classmethod
    def from_folder(cls, name: str, folder: Path | str) -> Self:
        """Read the numbers from an evaluation folder's `results.json`, and link to its report if there is one."""
        results = read_json(Path(folder) / RESULTS)
        report = Path(folder) / REPORT
        link = report if report.exists() else None
        return cls(name, results["n_questions"], results["overall"], results["operations"], link)


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion of an agent at a stage; `reward` is None if nothing scored it."""

    agent: str
    stage: str
    prompt: str
    completion: str
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A training chart: (step, value) points by the name of the series."""

    title: str
    series: Mapping[str, Points]
    x_label: str = "step"


def write_report(folder: Path | str, dialogues: Iterable[Dialogue] = ()) -> Path:
    """Write `report.html` and its figures from an evaluation folder's other files; return the page's path.

    Args:
        folder: Holds `predictions.jsonl`, `operations.jsonl` and `run.json`.
        dialogues: If given, their evidence turns and neighbours are stored in `turns.jsonl`, from which the page shows
            them, also when it is redrawn.

    Raises:
        DataError: A file is missing or malformed.
    """
    run = EvaluatedRun.read(folder)
    data = question_data([run], shown_turns(run.folder, run.predictions, dialogues))
    columns = operation_columns(run.operations)
    _save_figures(run, columns)
    context = {
        "title": f"{run.run.shown_system} on {run.run.benchmark}",
        "results": run.results,
        "header": _header(run),
        "headline": run.headline,
        "measured": run.measured,
        "cards": run.cards,
        "within_dialogue": within_dialogue([run.results["overall"]]),
        "verdict": _verdict([run]),
        "steps": run.step_counts(),
        "operations_chart": _operations_svg(columns, "operations per turn", 8) if columns else None,
        "operation_parts": part_counts(run.operations),
        "costs": cost_rows({**run.run.cost, **run.results["cost"]}, len(run.predictions)),
        "configuration": json.dumps(
            {"config": run.run.config, "versions": run.run.versions}, indent=2, ensure_ascii=False
        ),
        "data": data,
        "filters": filters(data),
    }
    return write_page(run.folder / REPORT, "report.html.jinja", context, script="questions.js.jinja")


def write_comparison_report(path: Path | str, folders: Sequence[Path | str], titles: Sequence[str] = ()) -> Path:
    """Write one page that compares evaluations on the same questions, with its figures beside it; return its path.

    Args:
        path: The HTML file; the figures' names begin with its name.
        folders: Evaluation folders; differences are taken from the first.
        titles: Titles of the runs; by default their memory systems, or the folders if those repeat.

    Raises:
        ConfigurationError: There is no folder, the number of titles differs, or a title occurs twice.
        DataError: A file is missing or malformed, or the runs' questions differ.
    """
    path = Path(path)
    runs = comparison_page.read_runs([Path(folder) for folder in folders], titles)
    data = question_data(runs, [turn for run in runs for turn in shown_turns(run.folder, run.predictions)])
    headline = comparison_page.shared_headline(runs)
    logs = {run.title: columns for run in runs if (columns := operation_columns(run.operations))}
    quality = headline[0] if headline else "exact_match"
    spots = comparison_page.tradeoff(runs, quality)
    tradeoff = charts.draw_tradeoff(spots, "tokens a question", metric_label(quality)) if spots else None
    _save_comparison_figures(path, runs, headline, logs, tradeoff)
    context = {
        "title": f"{len(runs)} runs on {runs[0].run.benchmark}",
        "runs": runs,
        "links": [_link(run.folder / REPORT, path.parent) if (run.folder / REPORT).exists() else None for run in runs],
        "header": {"split": ", ".join(sorted({run.run.split for run in runs})), "model": _common_model(runs)},
        "headline": headline,
        "metrics": comparison_page.shared_metrics(runs),
        "within_dialogue": within_dialogue([run.results["overall"] for run in runs]),
        "differences": {name: comparison_page.differences(runs, name) for name in headline},
        "categories": {name: comparison_page.by_category(runs, name) for name in headline},
        "step_names": filters(data)["steps"],
        "verdict": _verdict(runs),
        "quality": quality,
        "tradeoff": tradeoff and inline_svg(tradeoff, f"{metric_label(quality)} by tokens a question"),
        "operation_charts": {title: _operations_svg(log, title, 4.6) for title, log in logs.items()},
        "operation_parts": {run.title: part_counts(run.operations) for run in runs},
        "data": data,
        "filters": filters(data),
    }
    return write_page(path, "comparison.html.jinja", context, script="questions.js.jinja")


def write_stage_report(
    path: Path | str,
    stages: Sequence[Stage],
    samples: Sequence[Sample] = (),
    curves: Sequence[Curve] = (),
    differences: Mapping[str, PairedDifference | None] | None = None,
    facts: Mapping[str, Any] | None = None,
    played: PlayedDialogue | None = None,
    title: str = "Before and after training",
) -> Path:
    """Write one page that compares the stages of a training; return its path.

    Args:
        path: The HTML file.
        stages: In training order, such as base, SFT, GRPO.
        samples: Completions of the agents, shown in this order.
        curves: Training charts.
        differences: Paired differences by label, such as "exact match, GRPO less SFT".
        facts: Name to value, shown under the title.
        played: A dialogue to show turn by turn.
        title: The page's title.
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
        "curves": [(curve, _curve_svg(curve)) for curve in curves],
        "samples": samples,
        "played": played,
    }
    return write_page(path, "stages.html.jinja", context)


def _operations_svg(columns: Columns, title: str, width: float) -> Markup:
    return inline_svg(charts.draw_operations({"": columns}, legend=False, width=width), f"{title} by turn")


def _curve_svg(curve: Curve) -> Markup:
    figure = charts.draw_lines({"": curve.series}, curve.x_label, legend=False)
    return inline_svg(figure, f"{curve.title} by {curve.x_label}")


def _save_figures(run: EvaluatedRun, columns: Columns) -> None:
    scores, categories, operations, cost = (run.folder / name for name in FIGURES)
    save_png(
        charts.draw_scores({"": {metric_label(name): run.results["overall"][name] for name in run.measured}}), scores
    )
    labels = {name: metric_label(name) for name in run.headline}
    save_png(charts.draw_categories(run.results["by_category"], labels), categories)
    save_png(charts.draw_operations({"": columns} if columns else {}), operations)
    each = max(len(run.predictions), 1)
    totals = {"building memory": "write_tokens", "answering": "read_tokens"}
    tokens = {label: run.results["cost"][name] / each for label, name in totals.items()}
    save_png(charts.draw_cost(tokens, [prediction.seconds for prediction in run.predictions]), cost)


def _save_comparison_figures(
    path: Path,
    runs: Sequence[EvaluatedRun],
    headline: Sequence[str],
    logs: Mapping[str, Columns],
    tradeoff: Figure | None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scores, categories, operations, cost = (path.with_name(f"{path.stem}_{name}") for name in FIGURES)
    panels = {metric_label(name): {run.title: run.results["overall"].get(name) for run in runs} for name in headline}
    save_png(charts.draw_scores(panels), scores)
    if headline:
        titles = {str(place): run.title for place, run in enumerate(runs)}
        save_png(charts.draw_categories(comparison_page.by_category(runs, headline[0]), titles), categories)
    if tradeoff:
        save_png(tradeoff, cost)
    save_png(charts.draw_operations(logs), operations)


def _link(target: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(target, folder)).as_posix())


def _header(run: EvaluatedRun) -> dict[str, Any]:
    info = run.run
    return {
        "split": info.split,
        "questions": f"{len(run.predictions):,} in {run.dialogues:,} dialogue{'' if run.dialogues == 1 else 's'}",
        "model": info.model,
        "manager": info.manager,
        "answer agent": info.answer,
        "seed": info.seed,
        "revision": info.git_revision and info.git_revision[:12],
    }


def _verdict(runs: Sequence[EvaluatedRun]) -> str:
    """Return the definition of a right answer, consistent with `diagnosis.is_correct` for each run."""
    judged = {run.judged for run in runs}
    if len(judged) > 1:
        return "the judge accepted or, in a run without a judge, matches exactly"
    return "the judge accepted" if True in judged else "matches exactly"


def _common_model(runs: Sequence[EvaluatedRun]) -> str | None:
    """Return the base model if all runs have the same, else None."""
    models = {run.run.model for run in runs}
    return models.pop() if len(models) == 1 else None
