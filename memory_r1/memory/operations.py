"""Parse, check and render the Memory Manager's completions.

A completion is a JSON array such as `[{"op": "UPDATE", "id": 3, "text": "Ann moved to Rome."}, {"op": "NOOP"}]`, where
`id` is the entry's number in the prompt. Operations are checked one by one, in order: a bad one is refused with a
reason, and the others stand. A completion that is not a JSON array is a parse failure.

That is the flat form; `forms.py` has the other, in which an operation's keys spell an edge of a graph.

A completion on a whole session is one array for all of its turns. An operation may name its turn by number (from 1), as
in `"turn": 2`. Without it, the turn of the previous operation applies, at first turn 1. The limit on operations and the
rule of one operation per entry apply per turn.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from memory_r1.memory.forms import FLAT, MAX_OPERATIONS, NUMBERS, OPTIONAL, OperationForm
from memory_r1.types import SAME_AS, Edge, Operation, OperationKind

_MAX_NESTING = 16  # A good completion nests two deep; the bound keeps a bad one safe to serialise in the log.

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


def check_completion(
    completion: str, recalled_ids: Sequence[int], turns: int | None = None, form: OperationForm = FLAT
) -> CheckedCompletion:
    """Check a completion against its prompt; never raise, whatever the completion holds.

    Args:
        completion: The Memory Manager's output. Whitespace around the array is allowed, other text is not.
        recalled_ids: Bank ids of the entries in the prompt: number i (from 1) is `recalled_ids[i - 1]`.
        turns: Number of turns in a prompt that shows a whole session; None for a single turn's prompt.
        form: How its operations are written.

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
        result = RefusalReason.OVER_LIMIT if over else _check(fields, recalled_ids, edited[turn] | deleted, form)
        if isinstance(result, RefusalReason):
            checked.append(CheckedOperation(None, raw, result, turn))
            continue
        if result.entry_id is not None:
            edited[turn].add(result.entry_id)
            if result.kind is OperationKind.DELETE:
                deleted.add(result.entry_id)
        checked.append(CheckedOperation(result, raw, turn=turn))
    return CheckedCompletion(tuple(checked))


def render_operations(operations: Sequence[Operation], recalled_ids: Sequence[int], form: OperationForm = FLAT) -> str:
    """Render the completion that `check_completion` reads back as these operations, given the same `recalled_ids`.

    Raises:
        ValueError: An operation names an entry that was not recalled, or lacks what its kind has in this form.
    """
    return json.dumps([_render(operation, recalled_ids, form) for operation in operations], ensure_ascii=False)


def operation_counts(checked: Iterable[CheckedCompletion], form: OperationForm = FLAT) -> dict[str, int]:
    """Count accepted operations by kind, plus `parse_failures` (completions), `refused` and its part `unknown_ids`."""
    counts = {kind.value: 0 for kind in form.keys} | {"parse_failures": 0, "unknown_ids": 0, "refused": 0}
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


def _check(
    raw: object, recalled_ids: Sequence[int], edited: set[int], form: OperationForm
) -> Operation | RefusalReason:
    if not isinstance(raw, dict) or not isinstance(raw.get("op"), str):
        return RefusalReason.MALFORMED
    if raw["op"] not in form.keys:
        return RefusalReason.UNKNOWN_OPERATION
    kind = OperationKind(raw["op"])
    keys, given = {*form.keys[kind]}, raw.keys() - {"op"}
    if given - keys or keys - given - {OPTIONAL}:
        return RefusalReason.MALFORMED
    texts = {key: raw[key] for key in given if key not in NUMBERS}
    numbers = [raw["id"]] if "id" in given else raw.get("ids", [])
    if not all(isinstance(text, str) for text in texts.values()):
        return RefusalReason.MALFORMED
    # A bool is an int in Python, but not an id.
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers) or raw.get("ids") == []:
        return RefusalReason.MALFORMED
    if not all(1 <= number <= len(recalled_ids) for number in numbers):
        return RefusalReason.UNKNOWN_ID
    named = tuple(dict.fromkeys(recalled_ids[number - 1] for number in numbers))
    if edited.intersection(named):
        return RefusalReason.SECOND_OPERATION
    texts = {key: text.strip() for key, text in texts.items()}
    if not all(text for key, text in texts.items() if key != OPTIONAL):
        return RefusalReason.EMPTY_TEXT
    return _operation(kind, texts, named)


def _operation(kind: OperationKind, texts: Mapping[str, str], named: tuple[int, ...]) -> Operation:
    """Return the operation with these texts by key and these entries."""
    edge = None
    if kind is OperationKind.LINK:
        edge = Edge(texts["entity"], SAME_AS, texts["same_as"])
    elif "subject" in texts:
        edge = Edge(**texts)
    text = edge.text if edge else texts.get("text")
    if kind is OperationKind.ABSTRACT:
        return Operation(kind, text, over=named)
    return Operation(kind, text, named[0] if named else None, edge)


def _render(operation: Operation, recalled_ids: Sequence[int], form: OperationForm) -> dict[str, object]:
    kind = operation.kind
    rendered: dict[str, object] = {"op": kind.value}
    if kind not in form.keys:
        raise ValueError(f"{kind} is no operation of the {form.name} form; allowed: {', '.join(form.keys)}")
    for key in form.keys[kind]:
        if key in NUMBERS:
            named = operation.over if key == "ids" else (operation.entry_id,)
            if not named or not {*named} <= {*recalled_ids}:
                raise ValueError(
                    f"{kind} names entry {', '.join(map(str, named))}, which the prompt does not show; "
                    f"shown are {list(recalled_ids)}"
                )
            numbers = [recalled_ids.index(entry_id) + 1 for entry_id in named]
            rendered[key] = numbers if key == "ids" else numbers[0]
        else:
            text = _text(operation, key)
            if text.strip():
                rendered[key] = text
            elif key != OPTIONAL:
                raise ValueError(f"{kind} needs a {key}, found {text!r}")
    return rendered


def _text(operation: Operation, key: str) -> str:
    """Return the text that an operation has under a key; empty without one."""
    if key == "text":
        return operation.text or ""
    of_edge = {"entity": "subject", "same_as": "object"}.get(key, key)
    return str(getattr(operation.edge, of_edge, ""))
