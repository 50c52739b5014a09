"""The tables of the experiments: which evaluations each compares, and how it reads in Markdown.

An evaluation is named `<system>.<manager>.<answer>` by the rows of its adapters, such as `memory-r1.grpo.sft`; a system
without a manager leaves it empty, as in `rag..grpo`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory_r1.errors import DataError
from memory_r1.evaluation.scoring.statistics import (
    Interval,
    PairedDifference,
    hierarchical_interval,
    paired_seed_difference,
)

NAMES = {
    "base": "untrained",
    "sft": "SFT",
    "sft_continued": "SFT continued",
    "worked": "SFT on worked answers",
    "best": "best of G, imitated",
    "grpo": "GRPO",
    "gold": "SFT on gold operations",
}
ONE_SEED = ("base", "gold")
"""Rows that are run with one seed: an untrained model has none, and the ceiling is a check."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Rows of evaluations, compared with one of them.

    Attributes:
        title: What is compared over what.
        rows: A row's name to its evaluation.
        ours: The row that the others are subtracted from.
    """

    title: str
    rows: Mapping[str, str]
    ours: str


_ANSWERS = ("sft", "sft_continued", "worked", "best", "grpo")
_MANAGERS = ("sft", "sft_continued", "best", "grpo", "gold")
_SYSTEMS = {
    "none": "none..grpo",
    "rag": "rag..grpo",
    "full-context": "full-context..grpo",
    "oracle": "oracle..grpo",
    "add-only": "add-only.grpo.grpo",
    "add-only-newest-first": "add-only-newest-first.grpo.grpo",
    "prompted-manager": "prompted-manager..grpo",
    "memory-r1": "memory-r1.grpo.grpo",
}
TABLES: dict[str, tuple[Comparison, ...]] = {
    "answer": tuple(
        Comparison(f"Answer Agents over {title}", {NAMES[row]: f"{banks}.{row}" for row in _ANSWERS}, NAMES["grpo"])
        for title, banks in (
            ("the final manager's banks", "memory-r1.grpo"),
            ("`rag`", "rag."),
            ("`oracle`", "oracle."),
        )
    ),
    "manager": (
        Comparison(
            "managers under the Answer Agent that GRPO's manager was trained with",
            {"`rag`, no manager": "rag..turns", **{NAMES[row]: f"memory-r1.{row}.turns" for row in _MANAGERS}},
            NAMES["grpo"],
        ),
    ),
    "both": (
        Comparison(
            "both agents",
            {NAMES[row]: f"memory-r1.{row}.{row}" for row in ("base", "sft", "sft_continued", "best", "grpo")},
            NAMES["grpo"],
        ),
    ),
    "systems": (Comparison("memory systems under the trained Answer Agent", _SYSTEMS, "memory-r1"),),
}


def evaluations_of(stage: str, *, ceiling: bool) -> Iterator[str]:
    """Name the evaluations of a stage's tables; `ceiling`: also those that one seed alone runs."""
    for comparison in TABLES.get(stage, ()):
        for name in comparison.rows.values():
            if ceiling or not {*name.split(".")} & {*ONE_SEED}:
                yield name


@dataclass(frozen=True)
class Line:
    """A row of a table over all seeds that have it: its score, and ours less its own on the same questions."""

    name: str
    evaluation: str
    seeds: int
    f1: Interval
    exact_match: Interval
    ours_less_this: PairedDifference | None


def lines_of(comparison: Comparison, records: Sequence[Record], categories: Sequence[str] = ()) -> list[Line]:
    """Return the table's lines over the seeds' records; rows that no seed has evaluated are left out.

    Args:
        comparison: The table.
        records: One per seed, as `recipes/reproduce.py` writes them.
        categories: Count only these categories of questions; empty: all.
    """

    def scores(record: Record, name: str, metric: str) -> dict[str, float | None]:
        found = zip(record["questions"].items(), record["evaluations"][name]["scores"][metric], strict=True)
        return {key: value for (key, category), value in found if not categories or category in categories}

    lines = []
    ours = comparison.rows[comparison.ours]
    for row, name in comparison.rows.items():
        having = [record for record in records if name in record["evaluations"]]
        if not having:
            continue
        if any(record["questions"] != having[0]["questions"] for record in having):
            raise DataError(
                f"the records of {name} asked different questions, so they cannot be merged; run them again"
            )
        groups = {key: key.split("/")[0] for key in having[0]["questions"]}
        pairs = [
            (scores(record, ours, "f1_squad"), scores(record, name, "f1_squad"))
            for record in having
            if ours in record["evaluations"] and name != ours
        ]
        f1, exact = (
            hierarchical_interval([scores(record, name, metric) for record in having], groups)
            for metric in ("f1_squad", "exact_match")
        )
        assert f1 is not None and exact is not None  # every question has both
        lines.append(Line(row, name, len(having), f1, exact, paired_seed_difference(pairs, groups) if pairs else None))
    return lines


def markdown(comparison: Comparison, records: Sequence[Record]) -> str:
    """Render a comparison as a Markdown table with a caption."""
    lines = lines_of(comparison, records)
    rows = [
        f"| {line.name} | {line.seeds} | {line.exact_match.mean:.3f} | {interval(line.f1)} | "
        f"{signed(line.ours_less_this) if line.ours_less_this else ''} |"
        for line in lines
    ]
    heading = f"| {comparison.title} | seeds | exact match | token F1 | {comparison.ours} less this |"
    return "\n".join([heading, "| --- | --- | --- | --- | --- |", *rows])


def interval(value: Interval) -> str:
    """A mean with its bounds."""
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"


def signed(value: PairedDifference) -> str:
    """A difference with its bounds."""
    bounds = value.interval
    return f"{value.difference:+.3f} ({bounds.low:+.3f} to {bounds.high:+.3f})"
