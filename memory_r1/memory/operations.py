"""Parse, check and render the Memory Manager's completions.

A completion is a JSON array such as `[{"op": "UPDATE", "id": 3, "text": "Ann moved to Rome."}, {"op": "NOOP"}]`, where
`id` is the entry's number in the prompt. Operations are checked one by one, in order: a bad one is refused with a
reason, and the others stand. A completion that is not a JSON array is a parse failure.

A completion on a whole session is one array for all of its turns. An operation may name its turn by number (from 1), as
in `"turn": 2`. Without it, the turn of the previous operation applies, at first turn 1. The limit on operations and the
rule of one operation per entry apply per turn.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from memory_r1.types import Operation, OperationKind

MAX_OPERATIONS = 8
"""Operations per turn; any more are refused."""

_MAX_NESTING = 16  # A good completion nests two deep; the bound keeps a bad one safe to serialise in the log.
_KEYS = {
    OperationKind.ADD: {"op", "text"},
    OperationKind.UPDATE: {"op", "id", "text"},
    OperationKind.DELETE: {"op", "id"},
    OperationKind.NOOP: {"op"},
}


def operations_schema(shown: int) -> dict[str, Any]:
    """Return the JSON schema of a completion on one turn whose prompt shows `shown` memories, for constrained decoding.

    Without a memory there is nothing to update or delete.
    """
    text, ids = {"type": "string", "minLength": 1}, {"enum": list(range(1, shown + 1))}
    members: dict[OperationKind, dict[str, Any]] = {
        OperationKind.ADD: {"text": text},
        OperationKind.UPDATE: {"id": ids, "text": text},
        OperationKind.DELETE: {"id": ids},
        OperationKind.NOOP: {},
    }
    kinds = [kind for kind in members if shown or "id" not in _KEYS[kind]]
    choices = [
        {
            "type": "object",
            "properties": {"op": {"const": kind.value}, **members[kind]},
            "required": ["op", *members[kind]],
            "additionalProperties": False,
        }
        for kind in kinds
    ]
    return {"type": "array", "items": {"anyOf": choices}, "minItems": 1, "maxItems": MAX_OPERATIONS}


# UTF-8 cannot encode lone surrogates, which JSON escapes can spell, and NUL truncates strings in some databases.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class RefusalReason(StrEnum):
    """Why one operation of a readable completion is refused."""

    UNKNOWN_OPERATION = "unknown_operation"
    UNKNOWN_ID = "unknown_id"
    EMPTY_TEXT = "empty_text"
    SECOND_OPERATION = "second_operation"
    OVER_LIMIT = "over_limit"
    UNKNOWN_TURN = "unknown_turn"
    CONFLICT = "conflict"
    """Another writer changed the entry after the prompt was made."""
    OVER_DELETIONS = "over_deletions"
    """A guard's limit on deletions in a session."""
    TOO_LONG = "too_long"
    """A guard's limit on the length of a memory."""
    ECHO = "echo"
    """The text of a live entry, which a guard does not store again."""
    MALFORMED = "malformed"


class ParseFailureReason(StrEnum):
    """Why a whole completion cannot be read."""

    EMPTY = "empty"
    NOT_JSON = "not_json"
    NOT_AN_ARRAY = "not_an_array"


@dataclass(frozen=True, slots=True)
class ParseFailure:
    """An unreadable completion; `detail` explains it in one line."""

    reason: ParseFailureReason
    detail: str


@dataclass(frozen=True, slots=True)
class CheckedOperation:
    """One element of the array. Either `operation` (with the bank's own id) or `refusal` is set.

    `raw` is the element as completed: plain JSON values, safe to serialise. `turn` is the index (from 0) of its turn in
    the session, or 0 in a completion on a single turn.
    """

    operation: Operation | None
    raw: object
    refusal: RefusalReason | None = None
    turn: int = 0

    @property
    def accepted(self) -> bool:
        return self.refusal is None


@dataclass(frozen=True, slots=True)
class CheckedCompletion:
    """The outcome of a completion: its elements in order, or the reason why it is unreadable."""

    operations: tuple[CheckedOperation, ...]
    failure: ParseFailure | None = None

    @property
    def accepted(self) -> tuple[Operation, ...]:
        """The operations to apply, in order, with the bank's own ids."""
        return tuple(checked.operation for checked in self.operations if checked.operation is not None)


def check_completion(completion: str, recalled_ids: Sequence[int], turns: int | None = None) -> CheckedCompletion:
    """Check a completion against its prompt; never raise, whatever the completion holds.

    Args:
        completion: The Memory Manager's output. Whitespace around the array is allowed, other text is not.
        recalled_ids: Bank ids of the entries in the prompt: number i (from 1) is `recalled_ids[i - 1]`.
        turns: Number of turns in a prompt that shows a whole session; None for a single turn's prompt.

    Returns:
        Every element with its outcome. An empty array has no operations and is not a failure.
    """
    parsed = _parse(completion.strip())
    if isinstance(parsed, ParseFailure):
        return CheckedCompletion((), parsed)
    edited: dict[int, set[int]] = defaultdict(set)  # index of a turn to the entries edited there
    deleted: set[int] = set()
    seen: Counter[int] = Counter()
    checked = []
    turn = 0
    for raw in parsed:
        fields, named = (raw, turn) if turns is None else _without_turn(raw, turn)
        if turns is not None and not 0 <= named < turns:
            checked.append(CheckedOperation(None, raw, RefusalReason.UNKNOWN_TURN, turn))
            continue
        turn = named
        seen[turn] += 1
        over = seen[turn] > MAX_OPERATIONS
        result = RefusalReason.OVER_LIMIT if over else _check(fields, recalled_ids, edited[turn] | deleted)
        if isinstance(result, RefusalReason):
            checked.append(CheckedOperation(None, raw, result, turn))
            continue
        if result.entry_id is not None:
            edited[turn].add(result.entry_id)
            if result.kind is OperationKind.DELETE:
                deleted.add(result.entry_id)
        checked.append(CheckedOperation(result, raw, turn=turn))
    return CheckedCompletion(tuple(checked))


def render_operations(operations: Sequence[Operation], recalled_ids: Sequence[int]) -> str:
    """Render the completion that `check_completion` reads back as these operations, given the same `recalled_ids`.

    Raises:
        ValueError: An operation names an entry that was not recalled, or lacks the id or text of its kind.
    """
    return json.dumps([_render(operation, recalled_ids) for operation in operations], ensure_ascii=False)


def operation_counts(checked: Iterable[CheckedCompletion]) -> dict[str, int]:
    """Count accepted operations by kind, plus `parse_failures` (completions), `refused` and its part `unknown_ids`."""
    counts = {kind.value: 0 for kind in OperationKind} | {"parse_failures": 0, "unknown_ids": 0, "refused": 0}
    for completion in checked:
        counts["parse_failures"] += completion.failure is not None
        for item in completion.operations:
            if item.operation is not None:
                counts[item.operation.kind.value] += 1
            else:
                counts["refused"] += 1
                counts["unknown_ids"] += item.refusal is RefusalReason.UNKNOWN_ID
    return counts


def _parse(text: str) -> list[object] | ParseFailure:
    if not text:
        return ParseFailure(
            ParseFailureReason.EMPTY, "the completion is empty; a turn with nothing to keep needs a NOOP"
        )
    try:
        parsed = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite_float)
        parsed = _cleaned(parsed, _MAX_NESTING)
    except RecursionError:
        return ParseFailure(ParseFailureReason.NOT_JSON, f"nested deeper than {_MAX_NESTING} levels")
    except ValueError as error:  # includes integers with more digits than Python converts
        return ParseFailure(ParseFailureReason.NOT_JSON, str(error))
    if not isinstance(parsed, list):
        found = type(parsed).__name__
        return ParseFailure(ParseFailureReason.NOT_AN_ARRAY, f"the JSON value is a {found}, not an array of operations")
    return parsed


def _object(pairs: list[tuple[str, object]]) -> object:
    """Return a dict; if a key repeats, return the list of pairs, so that the element is refused but logged whole."""
    keys = {key for key, _ in pairs}
    return dict(pairs) if len(keys) == len(pairs) else [list(pair) for pair in pairs]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _cleaned(value: object, levels: int) -> object:
    """Replace unstorable characters in a JSON value; raise RecursionError if it nests deeper than `levels`."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if not isinstance(value, (list, dict)):
        return value
    if levels == 0:
        raise RecursionError
    if isinstance(value, list):
        return [_cleaned(item, levels - 1) for item in value]
    return {_UNSTORABLE.sub("\ufffd", key): _cleaned(item, levels - 1) for key, item in value.items()}


def _without_turn(raw: object, before: int) -> tuple[object, int]:
    """Split off the key `turn`; return its index (-1 if it is not an integer), or `before` if the key is missing."""
    if not isinstance(raw, dict) or "turn" not in raw:
        return raw, before
    number = raw["turn"]
    fields = {key: value for key, value in raw.items() if key != "turn"}
    return fields, number - 1 if type(number) is int else -1


def _check(raw: object, recalled_ids: Sequence[int], edited: set[int]) -> Operation | RefusalReason:
    if not isinstance(raw, dict) or not isinstance(raw.get("op"), str):
        return RefusalReason.MALFORMED
    if raw["op"] not in OperationKind.__members__:
        return RefusalReason.UNKNOWN_OPERATION
    kind = OperationKind(raw["op"])
    if raw.keys() != _KEYS[kind]:
        return RefusalReason.MALFORMED
    text, number = raw.get("text"), raw.get("id")
    if "text" in raw and not isinstance(text, str):
        return RefusalReason.MALFORMED
    if "id" in raw and type(number) is not int:  # a bool is an int in Python, but not an id
        return RefusalReason.MALFORMED
    entry_id = None
    if isinstance(number, int):
        if not 1 <= number <= len(recalled_ids):
            return RefusalReason.UNKNOWN_ID
        entry_id = recalled_ids[number - 1]
        if entry_id in edited:
            return RefusalReason.SECOND_OPERATION
    if text is not None:
        text = text.strip()
        if not text:
            return RefusalReason.EMPTY_TEXT
    return Operation(kind, text, entry_id)


def _render(operation: Operation, recalled_ids: Sequence[int]) -> dict[str, object]:
    rendered: dict[str, object] = {"op": operation.kind.value}
    if "id" in _KEYS[operation.kind]:
        if operation.entry_id not in recalled_ids:
            raise ValueError(
                f"{operation.kind} names entry {operation.entry_id}, which the prompt does not show; "
                f"shown are {list(recalled_ids)}"
            )
        rendered["id"] = recalled_ids.index(operation.entry_id) + 1
    if "text" in _KEYS[operation.kind]:
        if not operation.text or not operation.text.strip():
            raise ValueError(f"{operation.kind} needs a text, found {operation.text!r}")
        rendered["text"] = operation.text
    return rendered
