"""Prepare the operations by turn and the costs of a run for the pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from memory_r1.evaluation.records import OperationRow
from memory_r1.types import FLAT_KINDS, OperationKind

_KINDS = tuple(kind.value for kind in OperationKind)
_WHERE_FOUND = {*OperationKind} - {*FLAT_KINDS}  # named only on pages of graphs
_PARTS = (*_KINDS, "refused", "parse failures")
_COLUMNS = 40


def operation_part(row: OperationRow) -> str | None:
    """Return the part of the operations chart that a row belongs to; None for rows that only mark a played turn."""
    if row.failed_to_parse:
        return "parse failures"
    if row.status == "refused":
        return "refused"
    return row.op.value if row.applied and row.op else None


def part_counts(operations: Iterable[OperationRow]) -> dict[str, int]:
    """Count operations by part of the chart: applied by kind, refused, and parse failures."""
    counts = Counter(operation_part(row) for row in operations)
    return {part: counts[part] for part in _PARTS if counts[part] or part not in _WHERE_FOUND}


def summed_parts(operations: Mapping[str, int]) -> dict[str, int]:
    """Return the operations of a `results.json` under the pages' names."""
    counts = {kind: operations.get(kind, 0) for kind in _KINDS if kind in operations or kind not in _WHERE_FOUND}
    failures = {"unknown ids": operations.get("unknown_ids", 0), "parse failures": operations.get("parse_failures", 0)}
    return counts | failures


def operation_columns(operations: Sequence[OperationRow]) -> list[tuple[str, dict[str, float]]]:
    """Return the mean operations per turn, by the turn's position in its dialogue; neighbours share a column."""
    if not any(operation_part(row) for row in operations):
        return []
    parts = part_counts(operations).keys()
    places: dict[tuple[str, str], int] = {}
    lengths: Counter[str] = Counter()
    for row in operations:
        if (row.dialogue_id, row.turn_id) not in places:
            places[row.dialogue_id, row.turn_id] = lengths[row.dialogue_id]
            lengths[row.dialogue_id] += 1
    width = -(-max(lengths.values()) // _COLUMNS)
    turns = Counter(place // width for place in places.values())
    counts = Counter((places[row.dialogue_id, row.turn_id] // width, operation_part(row)) for row in operations)
    return [
        (str(column * width + 1), {part: counts[column, part] / turns[column] for part in parts})
        for column in sorted(turns)
    ]


def cost_rows(cost: Mapping[str, float], questions: int) -> list[tuple[str, str, str]]:
    """Return name, total and mean per question of every cost in a `results.json`, and of the cuts in `run.json`."""
    counters = {
        "write_tokens": "Tokens, building memory",
        "read_tokens": "Tokens, answering",
        "model_calls": "Model calls",
    }
    cuts = {
        "cut_entries": "Entries left out of recalls, to keep within the budget",
        "cut_writing": "Left out of managers' prompts, to keep within the window",
    }
    counters |= {key: name for key, name in cuts.items() if cost.get(key)}
    each = max(questions, 1)
    rows = [(name, f"{cost[key]:,}", f"{cost[key] / each:,.1f}") for key, name in counters.items()]
    rows.append(("Seconds to answer, median", "", f"{cost['answer_seconds_p50']:.3f}"))
    rows.append(("Seconds to answer, 95th percentile", "", f"{cost['answer_seconds_p95']:.3f}"))
    return rows
