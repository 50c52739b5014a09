"""What the pages show, drawn from the records of a run: operations by turn, cost, and every question with its story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from memory_r1.evaluation.diagnosis import Step
from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry
from memory_r1.types import Dialogue, OperationKind

_KINDS = tuple(kind.value for kind in OperationKind)
_PARTS = (*_KINDS, "refused", "parse failures")
_COLUMNS = 40


def _part(row: OperationRow) -> str | None:
    """The part of the operations chart that a row belongs to; None for rows that only mark a turn as played."""
    if row.failed_to_parse:
        return "parse failures"
    if row.status == "refused":
        return "refused"
    return row.op.value if row.applied and row.op else None


def part_counts(operations: Iterable[OperationRow]) -> dict[str, int]:
    """Operations by part of the chart: applied by kind, refused, and completions that did not parse."""
    counts = Counter(_part(row) for row in operations)
    return {part: counts[part] for part in _PARTS}


def summed_parts(operations: Mapping[str, int]) -> dict[str, int]:
    """The operations of a `results.json` under the names that the pages show."""
    counts = {kind: operations.get(kind, 0) for kind in _KINDS}
    failures = {"unknown ids": operations.get("unknown_ids", 0), "parse failures": operations.get("parse_failures", 0)}
    return counts | failures


def operation_columns(operations: Sequence[OperationRow]) -> list[tuple[str, dict[str, float]]]:
    """Mean operations per turn, by the place of the turn in its dialogue; neighbouring places share a column."""
    if not any(_part(row) for row in operations):
        return []
    places: dict[tuple[str, str], int] = {}
    lengths: Counter[str] = Counter()
    for row in operations:
        if (row.dialogue_id, row.turn_id) not in places:
            places[row.dialogue_id, row.turn_id] = lengths[row.dialogue_id]
            lengths[row.dialogue_id] += 1
    width = -(-max(lengths.values()) // _COLUMNS)
    turns = Counter(place // width for place in places.values())
    counts = Counter((places[row.dialogue_id, row.turn_id] // width, _part(row)) for row in operations)
    return [
        (str(column * width + 1), {part: counts[column, part] / turns[column] for part in _PARTS})
        for column in sorted(turns)
    ]


def cost_rows(cost: Mapping[str, float], questions: int) -> list[tuple[str, str, str]]:
    """Name, total and share of a question of every cost in a `results.json`."""
    counters = {
        "write_tokens": "Tokens, building memory",
        "read_tokens": "Tokens, answering",
        "model_calls": "Model calls",
    }
    each = max(questions, 1)
    rows = [(name, f"{cost[key]:,}", f"{cost[key] / each:,.1f}") for key, name in counters.items()]
    rows.append(("Seconds to answer, median", "", f"{cost['answer_seconds_p50']:.3f}"))
    rows.append(("Seconds to answer, 95th percentile", "", f"{cost['answer_seconds_p95']:.3f}"))
    return rows


def question_data(
    predictions: Sequence[Prediction],
    steps: Sequence[Step],
    operations: Iterable[OperationRow],
    dialogues: Iterable[Dialogue],
) -> dict[str, Any]:
    """What the page's script shows. Entries recalled for many questions are stored once and referred to by number."""
    numbers: dict[RecalledEntry, int] = {}
    questions = []
    for prediction, step in zip(predictions, steps, strict=True):
        questions.append(
            {
                "id": prediction.question_id,
                "dialogue": prediction.dialogue_id,
                "category": prediction.category,
                "question": prediction.question,
                "gold": prediction.gold,
                "prediction": prediction.prediction,
                "evidence": prediction.evidence,
                "recalled": [numbers.setdefault(entry, len(numbers)) for entry in prediction.recalled],
                "distilled": [entry.entry_id for entry in prediction.distilled],
                "metrics": dict(prediction.metrics),
                "tokens": prediction.tokens,
                "seconds": prediction.seconds,
                "step": step.value,
            }
        )
    entries = [{"id": entry.entry_id, "text": entry.text, "sources": entry.source_turn_ids} for entry in numbers]
    return {"entries": entries, "turns": _evidence_turns(predictions, operations, dialogues), "questions": questions}


def _evidence_turns(
    predictions: Iterable[Prediction], operations: Iterable[OperationRow], dialogues: Iterable[Dialogue]
) -> dict[str, dict[str, dict[str, Any]]]:
    """What was said in the evidence turns, where it is known, and what was done about it: by dialogue, then turn."""
    turns: dict[str, dict[str, dict[str, Any]]] = {}
    for prediction in predictions:
        for turn_id in prediction.evidence:
            turns.setdefault(prediction.dialogue_id, {})[turn_id] = {"operations": []}
    for row in operations:
        if found := turns.get(row.dialogue_id, {}).get(row.turn_id):
            found["operations"].append(asdict(row))
    for dialogue in dialogues:
        for turn in dialogue.turns():
            if found := turns.get(dialogue.dialogue_id, {}).get(turn.turn_id):
                found.update(speaker=turn.speaker, text=turn.text, timestamp=turn.timestamp)
    return turns
