"""Audit a judge: how often it accepts golds, reworded golds, and vague wrong answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.judging.judge_folder import check_answered, judge_all, judge_bar, judge_requests
from memory_r1.evaluation.judging.judge_model import CachedJudge
from memory_r1.evaluation.judging.probes import PROBES, Probe, by_draw, make_probes
from memory_r1.evaluation.judging.rubrics import JudgedAnswer, check_rubric
from memory_r1.evaluation.judging.verdicts import Verdict, judge_cost, missing_by_reason
from memory_r1.evaluation.records import PREDICTIONS, read_predictions
from memory_r1.jsonl import read_json, read_rows, rewrite_rows, write_json

AUDIT = "judge_audit.json"
AUDIT_ROWS = "judge_audit.jsonl"


def audit_judge(
    folder: Path | str,
    rubric: str,
    judge: CachedJudge,
    *,
    limit: int | None = None,
    reply_tokens: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Show a judge probes made from the questions and golds of an evaluation.

    An interrupted call resumes from the judge's cache.

    Args:
        folder: Holds `predictions.jsonl`, whose predictions are ignored. Receives `judge_audit.json` with the shares by
            rubric, and `judge_audit.jsonl` with the probes and their verdicts.
        rubric: One of `rubrics.RUBRICS`.
        judge: The judge to audit.
        limit: Use at most this many questions, drawn by the hash of their ids; None: all.
        reply_tokens: Longest reply, in tokens; None: the rubric's.
        progress: Show a bar on the terminal.

    Returns:
        The rubric's content in `judge_audit.json`.

    Raises:
        ConfigurationError: `limit` is invalid, or the rubric does not fit the questions.
        DataError: A file is missing or malformed, or no question has a gold.
        EndpointError: The judge answered no probe.
    """
    check_rubric(rubric)
    folder = Path(folder)
    answers = [JudgedAnswer.of(row) for row in read_predictions(folder)]
    probes = make_probes(answers)
    if limit is not None:
        if limit < 1:
            raise ConfigurationError(f"limit is {limit}: give a whole number from 1")
        drawn = set(by_draw({probe.answer.key for probe in probes})[:limit])
        probes = [probe for probe in probes if probe.answer.key in drawn]
    if not probes:
        raise DataError(f"{folder / PREDICTIONS} holds no question with a gold to make probes of: audit on another run")
    requests = judge_requests([probe.answer for probe in probes], rubric, judge, reply_tokens)
    verdicts: dict[int, Verdict] = {}
    with judge_bar(f"audit ({rubric})", len(requests), progress) as advance:

        def take(number: int, verdict: Verdict) -> None:
            verdicts[number] = verdict
            advance()

        judge_all(requests, judge, take)
    judged = [(probe, verdicts[number]) for number, probe in enumerate(probes)]
    check_answered([v for v in verdicts.values() if not v.answered], any(v.answered for v in verdicts.values()), judge)
    content = {"judge": judge.name, "n_questions": len({probe.answer.key for probe in probes})}
    content |= {"probes": acceptance(judged), **judge_cost(verdicts.values())}
    _write(folder, rubric, judged, content)
    return content


def acceptance(judged: Iterable[tuple[Probe, Verdict]]) -> dict[str, dict[str, Any]]:
    """Return, by kind of probe, the number of verdicts and acceptances, and their share with a 95% Wilson interval."""
    pairs = list(judged)
    report = {}
    for kind, right in PROBES.items():
        verdicts = [verdict for probe, verdict in pairs if probe.kind == kind]
        given = [verdict.verdict for verdict in verdicts if verdict.verdict is not None]
        report[kind] = {
            "should_accept": right,
            **share(sum(given), len(given)),
            "missing": missing_by_reason(verdicts),
        }
    return report


def share(accepted: int, n: int) -> dict[str, Any]:
    """Return the share `accepted` / `n` with its 95% Wilson score interval; None for all if `n` is 0."""
    from scipy.stats import binomtest

    if n == 0:
        return {"n": 0, "accepted": 0, "share": None, "low": None, "high": None}
    interval = binomtest(accepted, n).proportion_ci(method="wilson")
    return {
        "n": n,
        "accepted": accepted,
        "share": accepted / n,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def _write(folder: Path, rubric: str, judged: Sequence[tuple[Probe, Verdict]], content: Mapping[str, Any]) -> None:
    """Replace the rubric's earlier rows and shares; keep those of other rubrics."""
    rows_path, path = folder / AUDIT_ROWS, folder / AUDIT
    others = [row for row in read_rows(rows_path) if row.get("rubric") != rubric] if rows_path.exists() else []
    rows = [{"probe": probe.kind, "answer": probe.answer.prediction, **asdict(verdict)} for probe, verdict in judged]
    rewrite_rows(rows_path, [*others, *rows])
    write_json(path, {**(read_json(path) if path.exists() else {}), rubric: content})
