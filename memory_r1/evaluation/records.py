"""The records of an evaluation folder: predictions, operations and what was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeVar

from memory_r1.errors import DataError
from memory_r1.jsonl import read_json, read_rows, rewrite_rows, write_json
from memory_r1.memory.record import Record
from memory_r1.types import MemoryEntry, OperationKind

PREDICTIONS = "predictions.jsonl"
OPERATIONS = "operations.jsonl"
RUN = "run.json"
RESULTS = "results.json"

MEMORY = "memory.db"

_COST = ("prompt_tokens", "completion_tokens", "model_calls", "cut")
STATUSES = ("applied", "refused", "parse_failure", "empty")


@dataclass(frozen=True, slots=True)
class RecalledEntry:
    """What a prediction keeps of a memory entry."""

    entry_id: int
    text: str
    source_turn_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: MemoryEntry) -> Self:
        """Keep the id, text and source turns of `entry`."""
        return cls(entry.entry_id, entry.text, entry.source_turn_ids)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read one item of `recalled` or `distilled`."""
        entry_id = _get(row, "entry_id", int)
        return cls(entry_id, _get(row, "text", str, ""), _strings(row, "source_turn_ids"))


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of `predictions.jsonl`: a question, what was recalled for it and how the answer scored.

    `metrics` maps a name to its value, None where it does not apply. `tokens` is what answering read and wrote,
    `seconds` how long it took, `cut` how many entries its recall left out to keep within its budget. Results published
    without their texts hold ids, `metrics`, `tokens`, `seconds` and `cut` only.
    """

    question_id: str
    dialogue_id: str
    category: str
    metrics: Mapping[str, float | None]
    question: str = ""
    gold: str = ""
    prediction: str = ""
    evidence: tuple[str, ...] = ()
    recalled: tuple[RecalledEntry, ...] = ()
    distilled: tuple[RecalledEntry, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    cut: int = 0

    @property
    def key(self) -> str:
        """Unique in a run: question ids are so only within a dialogue."""
        return f"{self.dialogue_id}/{self.question_id}"

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read a row, ignoring fields it does not know; DataError names a field that is missing or of another type."""
        metrics = _get(row, "metrics", dict)
        for name, value in metrics.items():
            if value is not None and not isinstance(value, (int, float)):
                raise DataError(f"metrics.{name} is {value!r}: give a number, or null where it does not apply")
        return cls(
            question_id=_get(row, "question_id", str),
            dialogue_id=_get(row, "dialogue_id", str),
            category=_get(row, "category", str),
            metrics=metrics,
            question=_get(row, "question", str, ""),
            gold=_get(row, "gold", str, ""),
            prediction=_get(row, "prediction", str, ""),
            evidence=_strings(row, "evidence"),
            recalled=tuple(RecalledEntry.from_dict(item) for item in _get(row, "recalled", list, [])),
            distilled=tuple(RecalledEntry.from_dict(item) for item in _get(row, "distilled", list, [])),
            tokens=_get(row, "tokens", int, 0),
            seconds=_get(row, "seconds", float, 0.0),
            cut=_get(row, "cut", int, 0),
        )


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One row of `operations.jsonl`: an operation on the bank and what became of it.

    `entry_id` is the bank's; for an applied ADD it is the id the new entry got. `status` is one of `STATUSES`:
    "parse_failure" rows have no `op`, "empty" ones mark a turn for which nothing was proposed. `proposed` is what the
    manager wrote, which ADD-only turns into something else; `raw` is its text where that was not applied.
    """

    dialogue_id: str
    turn_id: str
    op: OperationKind | None
    entry_id: int | None
    text: str | None
    status: str
    reason: str | None = None
    parse_failure: str | None = None
    proposed: OperationKind | None = None
    raw: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read a row, ignoring fields it does not know; DataError names a field that is missing or not allowed."""
        status, op = _get(row, "status", str), _optional(row, "op", str)
        if status not in STATUSES:
            raise DataError(f"status is {status!r}: allowed are {', '.join(STATUSES)}")
        if op is not None and op not in OperationKind.__members__:
            raise DataError(f"op is {op!r}: allowed are {', '.join(OperationKind.__members__)} and null")
        return cls(
            dialogue_id=_get(row, "dialogue_id", str),
            turn_id=_get(row, "turn_id", str),
            op=None if op is None else OperationKind(op),
            entry_id=_optional(row, "entry_id", int),
            text=_optional(row, "text", str),
            status=status,
            reason=_optional(row, "reason", str),
            parse_failure=_optional(row, "parse_failure", str),
            proposed=None if row.get("proposed") not in OperationKind.__members__ else OperationKind(row["proposed"]),
            raw=_get(row, "raw", str, ""),
        )

    @classmethod
    def of_turn(cls, dialogue_id: str, record: Record) -> list[Self]:
        """What a turn's record of the log says, in the order of its completion; at least one row for each turn."""
        if record.turn is None:
            return []
        here = partial(cls, dialogue_id, record.turn.turn_id)
        if record.failure:
            raw = record.completion
            return [here(None, None, None, "parse_failure", record.failure, parse_failure=record.failure, raw=raw)]
        rows = {
            refusal.index: here(None, None, None, "refused", refusal.reason, raw=refusal.raw)
            for refusal in record.refusals
        }
        places = (place for place in count() if place not in rows)
        applied = {}
        for place, event in zip(places, record.events, strict=False):
            kind, text = OperationKind(event.kind), event.payload.get("text")
            instead_of = event.payload.get("instead_of")
            proposed = OperationKind(instead_of) if instead_of else kind if record.model_calls else None
            applied[place] = here(kind, event.item, text, "applied", proposed=proposed)
        ordered = {**rows, **applied}
        return [ordered[place] for place in sorted(ordered)] or [here(None, None, None, "empty")]

    @property
    def applied(self) -> bool:
        """Whether the operation changed the bank (or was an accepted NOOP)."""
        return self.status == "applied" and self.op is not None

    @property
    def failed_to_parse(self) -> bool:
        """Whether the row stands for a completion that could not be read."""
        return self.status == "parse_failure" or bool(self.parse_failure)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """`run.json`: what was run, on what, and what it cost.

    `model`, `manager` and `answer` are model ids or adapter folders (None: not used, or no adapter). `banks` says, for
    a system whose writing asks a model, under which `key` they are kept and which dialogues' were `reused`. `cost`
    counts `write_tokens`, `read_tokens` and `model_calls`, also those of banks that were reused; `cut_entries`, which
    recalls left out; and `cut_writing`, what managers' prompts left out. `category_names` maps a category to its names
    by naming scheme.
    """

    benchmark: str
    split: str
    system: str
    model: str | None = None
    manager: str | None = None
    answer: str | None = None
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    git_revision: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    banks: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, int] = field(default_factory=dict)
    category_names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The content of `run.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read `run.json`'s content, ignoring fields it does not know."""
        return cls(
            benchmark=_get(row, "benchmark", str),
            split=_get(row, "split", str),
            system=_get(row, "system", str),
            model=_optional(row, "model", str),
            manager=_optional(row, "manager", str),
            answer=_optional(row, "answer", str),
            seed=_get(row, "seed", int, 0),
            config=_get(row, "config", dict, {}),
            git_revision=_optional(row, "git_revision", str),
            versions=_get(row, "versions", dict, {}),
            banks=_get(row, "banks", dict, {}),
            cost=_get(row, "cost", dict, {}),
            category_names=_get(row, "category_names", dict, {}),
        )


Row = TypeVar("Row", Prediction, OperationRow, RunInfo)


def read_predictions(folder: Path | str) -> list[Prediction]:
    """The rows of `predictions.jsonl`; DataError names file, line and field."""
    return _read_all(Prediction, Path(folder) / PREDICTIONS)


def read_operations(folder: Path | str) -> list[OperationRow]:
    """The rows of `operations.jsonl`; DataError names file, line and field."""
    return _read_all(OperationRow, Path(folder) / OPERATIONS)


def write_operations(folder: Path | str, logs: Mapping[str, Sequence[Record]]) -> None:
    """Write `operations.jsonl` from each dialogue's log, as a whole or not at all.

    A turn's first row says what writing on it cost.
    """
    rows = []
    for dialogue_id, records in logs.items():
        for record in records:
            of_turn = [row.to_dict() for row in OperationRow.of_turn(dialogue_id, record)]
            for row in of_turn[:1]:
                row |= {name: getattr(record, name) for name in _COST}
            rows += of_turn
    rewrite_rows(Path(folder) / OPERATIONS, rows)


def read_run(folder: Path | str) -> RunInfo:
    """The content of `run.json`; DataError names file and field."""
    path = Path(folder) / RUN
    return _parse(RunInfo, read_json(path), str(path))


def write_run(folder: Path | str, run: RunInfo) -> Path:
    """Write `run.json`, replacing it as a whole or not at all."""
    return write_json(Path(folder) / RUN, run.to_dict())


def _read_all(kind: type[Row], path: Path) -> list[Row]:
    return [_parse(kind, row, f"{path}, line {number}") for number, row in enumerate(read_rows(path), start=1)]


def _parse(kind: type[Row], row: Mapping[str, Any], where: str) -> Row:
    try:
        return kind.from_dict(row)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


_MISSING: Any = object()


def _get(row: Mapping[str, Any], name: str, kind: type, default: Any = _MISSING) -> Any:
    value = row.get(name, default)
    if value is _MISSING:
        raise DataError(f"{name} is missing: give a {kind.__name__}")
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{name} is {value!r}: give a {kind.__name__}")
    return value


def _optional(row: Mapping[str, Any], name: str, kind: type) -> Any:
    return None if row.get(name) is None else _get(row, name, kind)


def _strings(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = _get(row, name, list, [])
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"{name} is {values!r}: give a list of strings")
    return tuple(values)
