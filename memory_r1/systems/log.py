"""The operation log as plain JSON objects: what `operations.jsonl` and saved systems are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from memory_r1.errors import DataError
from memory_r1.systems.base import OperationRecord, Outcome
from memory_r1.types import OperationKind, Turn

_NULLABLE = ("kind", "proposed", "entry_id", "text")
_WHOLE_NUMBERS = ("index", "count", "prompt_tokens", "completion_tokens", "model_calls", "cut")


def record_to_json(record: OperationRecord) -> dict[str, Any]:
    """Return the record as a JSON object with one key a field."""
    return asdict(record)


def record_from_json(row: Mapping[str, Any]) -> OperationRecord:
    """Return the record that `record_to_json` wrote; keys it does not know are left aside.

    Raises:
        DataError: A field is missing or of the wrong type.
    """
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(OperationRecord)):
        if name not in row:
            raise DataError(f"operation record {_excerpt(row)} lacks the field {name!r}")
        values[name] = row[name]
    try:
        values["outcome"] = Outcome(values["outcome"])
        for name in ("kind", "proposed"):
            values[name] = None if values[name] is None else OperationKind(values[name])
    except ValueError as error:
        raise DataError(f"operation record {_excerpt(row)}: {error}") from error
    for name, value in values.items():
        if not _fits(name, value):
            raise DataError(f"operation record {_excerpt(row)}: field {name!r} is {value!r}, of a type it cannot have")
    return OperationRecord(**values)


def turn_from_json(row: Mapping[str, Any]) -> Turn:
    """Return the turn whose `dataclasses.asdict` is `row`; DataError where it is not one."""
    if set(row) != {field.name for field in fields(Turn)} or not all(isinstance(value, str) for value in row.values()):
        raise DataError(f"turn {_excerpt(row)} does not have the fields of a turn, all of them strings")
    return Turn(**row)


def _fits(name: str, value: object) -> bool:
    if value is None:
        return name in _NULLABLE
    if name in _WHOLE_NUMBERS or name == "entry_id":
        return type(value) is int
    return isinstance(value, str)


def _excerpt(row: object) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
