"""Read `verdicts.jsonl`, the judges' verdicts on the predictions beside it; count them and turn them into metrics."""

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
"""Reasons for a missing verdict without a reply from the judge: a later call asks again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of `verdicts.jsonl`.

    `verdict` is None if missing: the reply was "garbage" or "refused" to judge, the server "rejected" the request (or
    it exceeds a local model's window) or was "unreachable", or the row has "no_gold" (or no question). A blank
    prediction is wrong without asking ("empty"). `source` is "asked", "cache" or "none"; the tokens are the row's own
    cost, so 0 unless asked. `cut` marks a prediction of which the judge read only the beginning.
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
        """The same as `Prediction.key`."""
        return f"{self.dialogue_id}/{self.question_id}"

    @property
    def answered(self) -> bool:
        """Whether the judge gave any reply, now or earlier."""
        return self.source != "none" and self.reason not in UNANSWERED

    @classmethod
    def from_dict(cls, row: object, where: str) -> Verdict:
        """Read a row, ignoring unknown fields; a DataError names file, line and field."""
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
    """Map `Prediction.key` to the metrics `judge_<rubric>`: 1.0 or 0.0, or None if the verdict is missing.

    Only the latest verdict per question counts, and only from the judge that last used the rubric. A missing file means
    no verdicts.

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
    """Return the content of `judge.json`: by rubric the verdicts, the missing ones by reason, and the cost.

    Costs are counted over the rows, so resuming does not change them.
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
    """Count the missing verdicts by reason."""
    return dict(sorted(Counter(str(verdict.reason) for verdict in verdicts if verdict.verdict is None).items()))


def judge_cost(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Count requests sent (without retries), replies from the cache, and the tokens that the judge reports."""
    rows = list(verdicts)
    return {
        "requests": sum(row.source == "asked" for row in rows),
        "cache_hits": sum(row.source == "cache" for row in rows),
        "prompt_tokens": sum(row.prompt_tokens for row in rows),
        "completion_tokens": sum(row.completion_tokens for row in rows),
    }


def parse_verdicts(rows: Sequence[object], path: Path) -> list[Verdict]:
    """Parse the rows of the file at `path`; a DataError names line and field."""
    return [Verdict.from_dict(row, f"{path}, line {number}") for number, row in enumerate(rows, start=1)]


def last_judges(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """Return the judge of each rubric's last row, since scores of two judges are never mixed."""
    return {verdict.rubric: verdict.judge for verdict in verdicts}


def latest_verdicts(verdicts: Iterable[Verdict], rubric: str, judge: str) -> dict[str, Verdict]:
    """Return the last row of each question by this judge under this rubric, by key."""
    return {verdict.key: verdict for verdict in verdicts if (verdict.rubric, verdict.judge) == (rubric, judge)}
