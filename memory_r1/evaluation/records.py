"""The records of an evaluation folder: predictions, operations and the run's description."""

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
from memory_r1.systems.writer import shown_name
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
    """The part of a memory entry stored in a prediction."""

    entry_id: int
    text: str
    source_turn_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: MemoryEntry) -> Self:
        """Return the id, text and source turns of `entry`."""
        return cls(entry.entry_id, entry.text, entry.source_turn_ids)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read one item of `recalled` or `distilled`."""
        entry_id = _get(row, "entry_id", int)
        return cls(entry_id, _get(row, "text", str, ""), _strings(row, "source_turn_ids"))


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of `predictions.jsonl`: a question, its recalled memories, its answer and the scores.

    `metrics` maps a name to its value, or None if it does not apply. `tokens` counts tokens read and written to answer,
    `seconds` is the time taken, and `cut` counts entries dropped from the recall to stay within its budget. If a model
    helped to recall, `recall_cost` counts its `model_calls` and `model_tokens` (which `tokens` includes), and who wrote
    what it was asked for. Results published without texts hold only ids, `metrics`, `tokens`, `seconds` and `cut`.
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
    recall_cost: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Identifies the question in a run, since question ids are unique only within a dialogue."""
        return f"{self.dialogue_id}/{self.question_id}"

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read a row, ignoring unknown fields; a DataError names a field that is missing or of the wrong type."""
        metrics = _get(row, "metrics", dict)
        for name, value in metrics.items():
            if value is not None and not isinstance(value, (int, float)):
                raise DataError(f"metrics.{name} is {value!r}: give a number, or null if it does not apply")
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
            recall_cost=_get(row, "recall_cost", dict, {}),
        )


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One row of `operations.jsonl`: an operation on the bank and its outcome.

    `entry_id` is the bank's id, for an applied ADD that of the new entry. `status` is one of `STATUSES`:
    "parse_failure" rows have no `op`; "empty" rows mark a turn without proposals. `proposed` is the manager's own
    operation, which ADD-only replaces; `raw` is its text if it was not applied.
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
        """Read a row, ignoring unknown fields; a DataError names a field that is missing or invalid."""
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
        """Return the rows of a turn's record, at least one, in the order of its completion."""
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
        operations = [event for event in record.events if event.kind in OperationKind.__members__]
        for place, event in zip(places, operations, strict=False):
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
        """Whether the row is an unreadable completion."""
        return self.status == "parse_failure" or bool(self.parse_failure)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The content of `run.json`: the system, the data, the settings and the cost.

    `model`, `manager` and `answer` are model ids or adapter folders (None: not used, or no adapter; "packaged": the
    adapter that comes with the package). If a model writes the banks, `banks` holds their cache `key` and the `reused`
    dialogues. `cost` counts `write_tokens`, `read_tokens` and `model_calls`, including those of reused banks,
    `cut_entries` dropped from recalls, `cut_writing` dropped from prompts that write, and, for systems that write
    texts, how many the model and the rules wrote. `category_names` maps a category to its names by naming scheme.
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

    @property
    def shown_system(self) -> str:
        """The system's name in results, which says so if rules wrote most of its texts."""
        return shown_name(self.system, self.cost)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `run.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read the content of `run.json`, ignoring unknown fields."""
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
    """Read `predictions.jsonl`; a DataError names file, line and field."""
    return _read_all(Prediction, Path(folder) / PREDICTIONS)


def read_operations(folder: Path | str) -> list[OperationRow]:
    """Read `operations.jsonl`; a DataError names file, line and field."""
    return _read_all(OperationRow, Path(folder) / OPERATIONS)


def write_operations(folder: Path | str, logs: Mapping[str, Sequence[Record]]) -> None:
    """Write `operations.jsonl` atomically from each dialogue's log; a turn's first row carries its cost."""
    rows = []
    for dialogue_id, records in logs.items():
        for record in records:
            of_turn = [row.to_dict() for row in OperationRow.of_turn(dialogue_id, record)]
            for row in of_turn[:1]:
                row |= {name: getattr(record, name) for name in _COST}
            rows += of_turn
    rewrite_rows(Path(folder) / OPERATIONS, rows)


def read_run(folder: Path | str) -> RunInfo:
    """Read `run.json`; a DataError names file and field."""
    path = Path(folder) / RUN
    return _parse(RunInfo, read_json(path), str(path))


def write_run(folder: Path | str, run: RunInfo) -> Path:
    """Write `run.json` atomically."""
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
