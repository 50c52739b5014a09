"""Prepare the questions of one or several runs for the page's script, each with its history in every run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry
from memory_r1.evaluation.report.evaluated_run import EvaluatedRun
from memory_r1.evaluation.report.operations import operation_part
from memory_r1.evaluation.report.pages import category_title, metric_label
from memory_r1.evaluation.report.turns import NEIGHBOURS, ShownTurn
from memory_r1.evaluation.scoring.diagnosis import TURN_STEPS, Step, turn_steps

# Limits per question; without them, a run over long histories gives a page of 100 MB.
ENTRIES = 100
CHARACTERS = 2000
NO_OPERATION = "none"


def question_data(runs: Sequence[EvaluatedRun], turns: Iterable[ShownTurn]) -> dict[str, Any]:
    """Return the page script's data on runs with the same questions; questions refer to recalled entries by number."""
    numbers: dict[RecalledEntry, int] = {}
    asked = {prediction.key: prediction for prediction in runs[0].predictions}
    answers: dict[str, list[dict[str, Any]]] = {key: [] for key in asked}
    for run in runs:
        for prediction, step in zip(run.predictions, run.steps, strict=True):
            answers[prediction.key].append(_answer(prediction, run, numbers) | {"step": step.value})
    return {
        "runs": [run.title for run in runs],
        # Without a log it is unknown what was stored, and the page does not show it.
        "logged": [run.history.recorded for run in runs],
        "steps": [step.value for step in TURN_STEPS],
        "categories": {
            category: category_title(category, row["names"]) for category, row in runs[0].results["by_category"].items()
        },
        # A list, since objects do not keep the order of their keys.
        "metrics": [[name, metric_label(name)] for name in dict.fromkeys(n for run in runs for n in run.measured)],
        "neighbours": NEIGHBOURS,
        "entries": [
            {"id": entry.entry_id, "text": _cut(entry.text), "sources": entry.source_turn_ids} for entry in numbers
        ],
        "turns": _turns(turns),
        "operations": [_operations(run) for run in runs],
        "questions": [_question(prediction) | {"answers": answers[key]} for key, prediction in asked.items()],
    }


def filters(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the steps and operations that occur in the result of `question_data`, as filters for its questions."""
    given = [answer for question in data["questions"] for answer in question["answers"]]
    found = {part for answer in given for part in answer["operations"]}
    ends = {answer["step"] for answer in given}
    return {
        "steps": [step.value for step in Step if step.value in ends],
        "operations": sorted(found, key=lambda part: (part.islower(), part)),
    }


def _question(prediction: Prediction) -> dict[str, Any]:
    return {
        "id": prediction.question_id,
        "dialogue": prediction.dialogue_id,
        "category": prediction.category,
        "question": prediction.question,
        "gold": prediction.gold,
        "evidence": prediction.evidence,
    }


def _answer(prediction: Prediction, run: EvaluatedRun, numbers: dict[RecalledEntry, int]) -> dict[str, Any]:
    kept = [
        entry
        for place, entry in enumerate(prediction.recalled)
        if place < ENTRIES
        or entry in prediction.distilled
        or not set(entry.source_turn_ids).isdisjoint(prediction.evidence)
    ]
    return {
        "prediction": _cut(prediction.prediction),
        "recalled": [numbers.setdefault(entry, len(numbers)) for entry in kept],
        "omitted": len(prediction.recalled) - len(kept),
        "distilled": [numbers.setdefault(entry, len(numbers)) for entry in prediction.distilled],
        "metrics": {name: round(value, 4) for name, value in prediction.metrics.items() if value is not None},
        "tokens": prediction.tokens,
        "seconds": round(prediction.seconds, 3),
        "cut": prediction.cut,
        "lost": {turn_id: step.value for turn_id, step in turn_steps(prediction, run.history).items()},
        "operations": _parts(prediction, run),
    }


def _parts(prediction: Prediction, run: EvaluatedRun) -> list[str]:
    """Return the operations at the evidence turns, and later ones on the entries that they wrote."""
    rows = [row for turn_id in prediction.evidence for row in run.history.rows(prediction.dialogue_id, turn_id)]
    rows += [later for row in rows for later in run.history.later(row)]
    return sorted({part for row in rows if (part := operation_part(row))}) or [NO_OPERATION]


def _operations(run: EvaluatedRun) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the proposals at each evidence turn and later operations on its entries, by dialogue, then turn."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for prediction in run.predictions:
        of_dialogue = found.setdefault(prediction.dialogue_id, {})
        for turn_id in prediction.evidence:
            if turn_id not in of_dialogue:
                rows = run.history.rows(prediction.dialogue_id, turn_id)
                of_dialogue[turn_id] = [
                    _operation(row) | {"later": [_operation(later) for later in run.history.later(row)]} for row in rows
                ]
    return found


def _operation(row: OperationRow) -> dict[str, Any]:
    return {
        "turn": row.turn_id,
        "op": row.op,
        "entry": row.entry_id,
        "text": _cut(row.text or ""),
        "status": row.status,
        "reason": row.reason,
    }


def _turns(turns: Iterable[ShownTurn]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for turn in turns:
        found.setdefault(turn.dialogue_id, {})[turn.turn_id] = {
            "place": turn.place,
            "session": turn.session_id,
            "speaker": turn.speaker,
            "text": _cut(turn.text),
            "timestamp": turn.timestamp,
        }
    return found


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} … ({len(text):,} characters)"
