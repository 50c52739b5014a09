"""Compare evaluations on the same questions in pairs; a side may be several seeds of one run.

Every difference is another side's score less the first side's, question by question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.records import Prediction, RunInfo, read_run
from memory_r1.evaluation.resume import config_hash
from memory_r1.evaluation.scoring.results import (
    METRICS,
    judges_of,
    natural_order,
    question_dialogues,
    question_scores,
    scored_predictions,
    shown_verdict,
)
from memory_r1.evaluation.scoring.statistics import (
    PairedDifference,
    hierarchical_interval,
    paired_difference,
    paired_seed_difference,
)

COMPARISON = "comparison.json"
_SAME = ("benchmark", "split")


@dataclass(frozen=True, slots=True)
class Seed:
    """The content of one evaluation folder; `judges` maps a metric to its judge's model."""

    folder: Path
    run: RunInfo
    predictions: tuple[Prediction, ...]
    judges: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Side:
    """One column of a comparison: a run, or several seeds of it in a fixed order."""

    name: str
    seeds: tuple[Seed, ...]

    def scores(self, metric: str, category: str | None = None) -> list[dict[str, float | None]]:
        """Return one mapping per seed from question key to score; with `category`, only of its questions."""
        return [
            question_scores([row for row in seed.predictions if category in (None, row.category)], metric)
            for seed in self.seeds
        ]


def read_side(name: str, folders: Sequence[Path]) -> Side:
    """Read a run, or the folders of its seeds, in order.

    Raises:
        ConfigurationError: Two folders hold the same run, which would count one seed twice.
        DataError: A folder is not a finished evaluation, or the seeds' questions differ.
    """
    seeds = tuple(_read(folder) for folder in folders)
    first: dict[str, Seed] = {}
    for seed in seeds:
        twin = first.setdefault(config_hash(seed.run), seed)
        if twin is not seed:
            raise ConfigurationError(
                f"{seed.folder} is the same run as {twin.folder}, not another seed of it: name each seed once"
            )
    side = Side(name, seeds)
    check_comparable([side])
    return side


def compare(sides: Sequence[Side]) -> dict[str, Any]:
    """Return the content of `comparison.json`: every side's scores, and each later side's difference from the first.

    It leaves out metrics that some sides lack and verdicts of different judges; `left_out` names them with the reason.
    For a single side, whose seeds are merged, `differences` is empty.

    Raises:
        DataError: The sides differ in dialogues or questions.
        ConfigurationError: Their numbers of seeds cannot be paired.
    """
    check_comparable(sides)
    metrics, left_out = _comparable_metrics(sides)
    base = sides[0].seeds[0]
    groups = question_dialogues(base.predictions)
    categories = sorted({row.category for row in base.predictions}, key=natural_order)
    return {
        "benchmark": base.run.benchmark,
        "split": base.run.split,
        "n_questions": len(base.predictions),
        "runs": [_describe(side) for side in sides],
        "overall": {metric: [_interval(side, metric, groups) for side in sides] for metric in metrics},
        "differences": [
            {
                "run": side.name,
                "less": sides[0].name,
                "overall": _differences(side, sides[0], metrics, groups),
                "by_category": {
                    category: {
                        "n": sum(row.category == category for row in base.predictions),
                        "names": dict(base.run.category_names.get(category, {})),
                        **_differences(side, sides[0], metrics, groups, category),
                    }
                    for category in categories
                },
            }
            for side in sides[1:]
        ],
        "left_out": left_out,
    }


def metric_difference(ours: Sequence[Prediction], theirs: Sequence[Prediction], metric: str) -> PairedDifference | None:
    """Return one run's difference from another on the same questions; None if no question has both values."""
    return paired_difference(question_scores(ours, metric), question_scores(theirs, metric), question_dialogues(ours))


def check_comparable(sides: Sequence[Side]) -> None:
    """Check that all runs have the same questions on the same dialogues.

    Raises:
        DataError: Benchmark, split, data or questions differ; the message names two folders and the difference.
    """
    seeds = [seed for side in sides for seed in side.seeds]
    for seed in seeds[1:]:
        if differing := _difference_in_data(seeds[0], seed):
            raise DataError(
                f"{seeds[0].folder} and {seed.folder} cannot be compared question by question: {differing}; evaluate "
                "both on the same data with the same split, sessions and limit"
            )


def _read(folder: Path) -> Seed:
    predictions = scored_predictions(folder)
    if not predictions:
        raise DataError(f"{folder} holds no predictions: finish the evaluation first")
    return Seed(folder, read_run(folder), tuple(predictions), judges_of(folder))


def _difference_in_data(one: Seed, other: Seed) -> str:
    for name in _SAME:
        found = getattr(one.run, name), getattr(other.run, name)
        if found[0] != found[1]:
            return f"{name} is {found[0]!r} and {found[1]!r}"
    keys = [{row.key for row in seed.predictions} for seed in (one, other)]
    if unmatched := keys[0] ^ keys[1]:
        return f"{len(unmatched)} questions were asked of one only, such as {min(unmatched)!r}"
    # Dialogues can differ under the same question ids, as in LongMemEval's variants; folders without a hash pass.
    hashes = {seed.run.config.get("data_sha256") for seed in (one, other)} - {None}
    return "their dialogues differ (data_sha256 in run.json)" if len(hashes) > 1 else ""


def _comparable_metrics(sides: Sequence[Side]) -> tuple[list[str], dict[str, str]]:
    """Return the metrics that every seed has, in the order of `results.json`, and why others are left out."""
    seeds = [seed for side in sides for seed in side.seeds]
    measured = [_measured(seed.predictions) for seed in seeds]
    metrics, left_out = [], {}
    known = [name for name in METRICS if any(name in names for names in measured)]
    for name in (*known, *sorted(set().union(*measured).difference(METRICS), key=natural_order)):
        judges = {_judge_of(seed, name) for seed in seeds}
        if lacking := [str(seed.folder) for seed, names in zip(seeds, measured, strict=True) if name not in names]:
            left_out[name] = f"not measured in {', '.join(lacking)}"
        elif len(judges) > 1:
            left_out[name] = f"judged by different models: {', '.join(sorted(map(str, judges)))}"
        else:
            metrics.append(name)
    return metrics, left_out


def _judge_of(seed: Seed, metric: str) -> str | None:
    """Return the judge's model and, for `judge`, its rubric."""
    if metric != "judge":
        return seed.judges.get(metric)
    shown = shown_verdict(seed.judges)
    return f"{shown} by {seed.judges.get(shown)}"


def _measured(predictions: Iterable[Prediction]) -> set[str]:
    return {name for row in predictions for name, value in row.metrics.items() if value is not None}


def _describe(side: Side) -> dict[str, Any]:
    run = side.seeds[0].run
    return {
        "name": side.name,
        "system": run.system,
        "model": run.model,
        "folders": [str(seed.folder) for seed in side.seeds],
        "managers": [seed.run.manager for seed in side.seeds],
        "answers": [seed.run.answer for seed in side.seeds],
        "seeds": [seed.run.seed for seed in side.seeds],
        "judges": dict(side.seeds[0].judges),
    }


def _interval(side: Side, metric: str, groups: Mapping[str, str]) -> dict[str, Any] | None:
    interval = hierarchical_interval(side.scores(metric), groups)
    return None if interval is None else interval.to_dict()


def _differences(
    side: Side, base: Side, metrics: Iterable[str], groups: Mapping[str, str], category: str | None = None
) -> dict[str, dict[str, Any] | None]:
    found = {}
    for metric in metrics:
        pairs = _pairs(side, base, metric, category)
        difference = paired_seed_difference(pairs, groups)
        found[metric] = None if difference is None else _to_dict(difference)
    return found


def _pairs(
    side: Side, base: Side, metric: str, category: str | None
) -> list[tuple[dict[str, float | None], dict[str, float | None]]]:
    """Return one pair per seed; a single run is paired with every seed of the other side."""
    ours, theirs = side.scores(metric, category), base.scores(metric, category)
    if len(ours) != len(theirs) and 1 not in (len(ours), len(theirs)):
        raise ConfigurationError(
            f"{side.name} has {len(ours)} seeds and {base.name} has {len(theirs)}: give both the same number, or one "
            "of them a single run"
        )
    count = max(len(ours), len(theirs))
    return list(zip(ours * (count // len(ours)), theirs * (count // len(theirs)), strict=True))


def _to_dict(difference: PairedDifference) -> dict[str, Any]:
    bounds = difference.interval.to_dict()
    return {
        "difference": bounds.pop("mean"),
        **bounds,
        "wins": difference.wins,
        "losses": difference.losses,
        "ties": difference.ties,
        "p_value": difference.p_value,
    }
