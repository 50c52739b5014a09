"""The Memory Manager's completions: checked into operations, and rendered back.

A completion is a JSON array such as `[{"op": "UPDATE", "id": 3, "text": "Ann moved to Rome."}, {"op": "NOOP"}]`, where
`id` is the number under which an entry stood in the prompt. Operations are checked one by one and in order: a bad one
is refused with a reason and the others stand. A completion that is no JSON array at all is a parse failure.

A completion on a whole session is such an array for all of the session's turns. Each operation may say `"turn": 2`, the
number (from 1) of the turn it stands for; one that does not stands for the turn of the operation before it, the first
one for turn 1. The limit on operations, and the rule of one operation an entry, hold for each turn.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from memory_r1.types import Operation, OperationKind

MAX_OPERATIONS = 8
"""Operations beyond this many on one turn are refused."""

_MAX_NESTING = 16  # A good completion nests two deep; the bound keeps what is logged of a bad one safe to serialise.
_KEYS = {
    OperationKind.ADD: {"op", "text"},
    OperationKind.UPDATE: {"op", "id", "text"},
    OperationKind.DELETE: {"op", "id"},
    OperationKind.NOOP: {"op"},
}
# Lone surrogates can be written as JSON escapes but not encoded as UTF-8, and NUL cuts strings short in some databases.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class RefusalReason(StrEnum):
    """Why one operation of a readable completion is not applied."""

    UNKNOWN_OPERATION = "unknown_operation"
    UNKNOWN_ID = "unknown_id"
    EMPTY_TEXT = "empty_text"
    SECOND_OPERATION = "second_operation"
    OVER_LIMIT = "over_limit"
    UNKNOWN_TURN = "unknown_turn"
    CONFLICT = "conflict"
    """The entry was changed by another writer after the prompt that named it was made."""
    MALFORMED = "malformed"


class ParseFailureReason(StrEnum):
    """Why a whole completion cannot be read."""

    EMPTY = "empty"
    NOT_JSON = "not_json"
    NOT_AN_ARRAY = "not_an_array"


@dataclass(frozen=True, slots=True)
class ParseFailure:
    """An unreadable completion; `detail` is one line for a person."""

    reason: ParseFailureReason
    detail: str


@dataclass(frozen=True, slots=True)
class CheckedOperation:
    """One element of the array. Either `operation` (with the bank's own id) or `refusal` is set.

    `raw` is the element as the completion had it: plain JSON values, safe to serialise again. `turn` is the place (from
    0) in its session of the turn it stands for; 0 in a completion on a single turn.
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
    """What became of a completion: its elements in order, or the reason why it has none."""

    operations: tuple[CheckedOperation, ...]
    failure: ParseFailure | None = None

    @property
    def accepted(self) -> tuple[Operation, ...]:
        """The operations to apply, in order, with the bank's own ids."""
        return tuple(checked.operation for checked in self.operations if checked.operation is not None)


def check_completion(completion: str, recalled_ids: Sequence[int], turns: int | None = None) -> CheckedCompletion:
    """Reads a completion against the prompt it answers; never raises, whatever the completion holds.

    Args:
        completion: The Memory Manager's output. White space around the array is allowed, other text is not.
        recalled_ids: Bank ids of the entries in the prompt: number i (from 1) stood for `recalled_ids[i - 1]`.
        turns: Number of turns in the prompt where it showed a whole session; None for a single turn's prompt.

    Returns:
        Every element with its fate. An empty array is readable: it has no operations, and no failure.
    """
    parsed = _parse(completion.strip())
    if isinstance(parsed, ParseFailure):
        return CheckedCompletion((), parsed)
    edited: dict[int, set[int]] = defaultdict(set)  # place of a turn to the entries edited there
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
    """The completion that `check_completion` reads back as these operations, given the same `recalled_ids`.

    Raises:
        ValueError: An operation names an entry that was not recalled, or lacks the id or text that its kind needs.
    """
    return json.dumps([_render(operation, recalled_ids) for operation in operations], ensure_ascii=False)


def operation_counts(checked: Iterable[CheckedCompletion]) -> dict[str, int]:
    """Accepted operations by kind, plus `parse_failures` (completions), `refused` and, among those, `unknown_ids`."""
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
    except ValueError as error:  # Also integers of more digits than Python converts.
        return ParseFailure(ParseFailureReason.NOT_JSON, str(error))
    if not isinstance(parsed, list):
        found = type(parsed).__name__
        return ParseFailure(ParseFailureReason.NOT_AN_ARRAY, f"the JSON value is a {found}, not an array of operations")
    return parsed


def _object(pairs: list[tuple[str, object]]) -> object:
    """A JSON object; one that repeats a key stays a list of pairs, so that it is refused and yet seen whole."""
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
    """The same JSON value with unstorable characters replaced; RecursionError if it nests deeper than `levels`."""
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
    """An element without its key `turn`, and the place that key names: -1 for no number, `before` without a key."""
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
    if "id" in raw and type(number) is not int:  # JSON's true is no id, though Python's bool is an int.
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
