"""`verdicts.jsonl`: what judges said of the predictions beside it, read, counted and turned into metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_r1.json_field import JsonField
from memory_r1.jsonl import read_rows

VERDICTS = "verdicts.jsonl"
UNANSWERED = frozenset({"unreachable", "rejected"})
"""Reasons of a missing verdict that are no fault of the judge's reply: a later call asks again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of `verdicts.jsonl`.

    `verdict` is None where there is none: the reply was "garbage" or "refused" to judge, the request was "rejected" by
    the server (or is longer than a local model's window), the server was "unreachable", or the row has "no_gold" (or no
    question). A blank prediction is wrong without being asked about ("empty"). `source` is "asked", "cache" or "none";
    the tokens are what this row cost, so 0 unless asked. `cut` marks a prediction of which the judge read only the
    beginning.
    """

    dialogue_id: str
    question_id: str
    rubric: str
    judge: str
    verdict: bool | None
    reason: str | None = None
    source: str = "none"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False
    sha256: str = ""

    @property
    def key(self) -> str:
        """As `Prediction.key`."""
        return f"{self.dialogue_id}/{self.question_id}"

    @property
    def answered(self) -> bool:
        """Whether the judge replied, now or earlier, whatever it said."""
        return self.source != "none" and self.reason not in UNANSWERED

    @classmethod
    def from_dict(cls, row: object, where: str) -> Verdict:
        """Read a row; DataError names file, line and field. Fields it does not know are left aside."""
        fields = JsonField(row, where).members(
            ("dialogue_id", "question_id", "rubric", "judge", "verdict"), closed=False
        )
        values: dict[str, Any] = {name: field.value for name, field in fields.items() if name in cls.__slots__}
        for name in ("dialogue_id", "question_id", "rubric", "judge"):
            fields[name].text()
        if not (values["verdict"] is None or isinstance(values["verdict"], bool)):
            fields["verdict"].fail("true, false or null")
        for name in ("prompt_tokens", "completion_tokens"):
            if not isinstance(values.get(name, 0), int):
                fields[name].fail("a whole number")
        return cls(**values)


def read_verdicts(folder: Path | str) -> dict[str, dict[str, float | None]]:
    """`Prediction.key` to the metrics `judge_<rubric>`: 1.0 or 0.0, None where the verdict is missing.

    Each rubric's verdicts are those of one judge, the one that judged last, and of each question its latest one.
    Without a file, nothing was judged.

    Raises:
        DataError: A row is malformed; the message names file, line and field.
    """
    path = Path(folder) / VERDICTS
    metrics: dict[str, dict[str, float | None]] = {}
    verdicts = parse_verdicts(read_rows(path), path) if path.exists() else []
    latest = {rubric: latest_verdicts(verdicts, rubric, judge) for rubric, judge in last_judges(verdicts).items()}
    for verdict in verdicts:
        found = latest[verdict.rubric].get(verdict.key)
        value = None if found is None or found.verdict is None else float(found.verdict)
        metrics.setdefault(verdict.key, {})[f"judge_{verdict.rubric}"] = value
    return metrics


def summarize_verdicts(verdicts: Sequence[Verdict]) -> dict[str, dict[str, Any]]:
    """The content of `judge.json`, by rubric: verdicts, those that are missing by reason, and the cost.

    It is counted over the rows, so that a judge that was cut short costs what it would have cost in one go.
    """
    content = {}
    for rubric, judge in sorted(last_judges(verdicts).items()):
        latest = latest_verdicts(verdicts, rubric, judge).values()
        rows = [verdict for verdict in verdicts if (verdict.rubric, verdict.judge) == (rubric, judge)]
        content[rubric] = {
            "judge": judge,
            "n_questions": len(latest),
            "right": sum(verdict.verdict is True for verdict in latest),
            "wrong": sum(verdict.verdict is False for verdict in latest),
            "missing": missing_by_reason(latest),
            "cut_predictions": sum(verdict.cut for verdict in latest),
            **judge_cost(rows),
        }
    return content


def missing_by_reason(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts are missing for which reason."""
    return dict(sorted(Counter(str(verdict.reason) for verdict in verdicts if verdict.verdict is None).items()))


def judge_cost(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Requests sent (retries not counted apart), replies from the cache, and tokens where the judge reports them."""
    rows = list(verdicts)
    return {
        "requests": sum(row.source == "asked" for row in rows),
        "cache_hits": sum(row.source == "cache" for row in rows),
        "prompt_tokens": sum(row.prompt_tokens for row in rows),
        "completion_tokens": sum(row.completion_tokens for row in rows),
    }


def parse_verdicts(rows: Sequence[object], path: Path) -> list[Verdict]:
    """The rows of the file at `path`; DataError names line and field."""
    return [Verdict.from_dict(row, f"{path}, line {number}") for number, row in enumerate(rows, start=1)]


def last_judges(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """The judge of each rubric's last row: scores of two judges are never mixed."""
    return {verdict.rubric: verdict.judge for verdict in verdicts}


def latest_verdicts(verdicts: Iterable[Verdict], rubric: str, judge: str) -> dict[str, Verdict]:
    """By key, the last row of each question that is this rubric's and this judge's."""
    return {verdict.key: verdict for verdict in verdicts if (verdict.rubric, verdict.judge) == (rubric, judge)}
