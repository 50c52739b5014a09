from __future__ import annotations

from typing import Any

import pytest

from memory_r1.errors import DataError
from memory_r1.systems.base import OperationRecord, Outcome
from memory_r1.systems.log import record_from_json, record_to_json, turn_from_json

ROW = record_to_json(OperationRecord("a", "D1:1", 0, 1, Outcome.EMPTY))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"outcome": "lost"}, "'lost' is not a valid Outcome"),
        ({"kind": "NONE"}, "'NONE' is not a valid OperationKind"),
        ({"index": "0"}, "field 'index' is '0'"),
        ({"model_calls": True}, "field 'model_calls' is True"),
        ({"entry_id": 1.5}, "field 'entry_id' is 1.5"),
        ({"scope": None}, "field 'scope' is None"),
        ({"text": 3}, "field 'text' is 3"),
    ],
)
def test_a_record_of_the_wrong_shape_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        record_from_json({**ROW, **change})


def test_a_record_without_a_field_is_refused() -> None:
    row = {key: value for key, value in ROW.items() if key != "count"}
    with pytest.raises(DataError, match="lacks the field 'count'"):
        record_from_json(row)


def test_unknown_keys_of_a_record_are_left_aside() -> None:
    assert record_from_json({**ROW, "status": "empty"}) == OperationRecord("a", "D1:1", 0, 1, Outcome.EMPTY)


@pytest.mark.parametrize("row", [{"turn_id": "D1:1"}, {}])
def test_a_turn_of_the_wrong_shape_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="fields of a turn"):
        turn_from_json(row)
