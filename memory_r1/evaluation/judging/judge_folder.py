"""Judge a finished evaluation with a language model; write verdicts beside the predictions, and their cost.

Each verdict is written to `verdicts.jsonl` as soon as it arrives, so an interrupted judge resumes where it stopped. A
missing verdict is counted as missing: it is never a wrong answer and never discards the others.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memory_r1.errors import ConfigurationError, DataError, EndpointError
from memory_r1.evaluation.judging.judge_model import CachedJudge, JudgeReply
from memory_r1.evaluation.judging.rubrics import (
    REPLY_TOKENS,
    JudgedAnswer,
    check_rubric,
    judge_prompt,
    looks_like_refusal,
    read_reply,
)
from memory_r1.evaluation.judging.verdicts import (
    UNANSWERED,
    VERDICTS,
    Verdict,
    last_judges,
    latest_verdicts,
    parse_verdicts,
    summarize_verdicts,
)
from memory_r1.evaluation.progress import progress_bars
from memory_r1.evaluation.records import PREDICTIONS, read_predictions
from memory_r1.inference.language_model import Messages
from memory_r1.jsonl import JsonLinesWriter, write_json

JUDGE = "judge.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """An answer to judge, the request about it, and the request's hash."""

    answer: JudgedAnswer
    rubric: str
    messages: Messages
    max_tokens: int
    sha256: str


def judge_folder(
    folder: Path | str, rubric: str, judge: CachedJudge, *, reply_tokens: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Judge the predictions of an evaluation, resuming an interrupted call.

    Args:
        folder: Holds `predictions.jsonl`; receives `verdicts.jsonl` and `judge.json`.
        rubric: One of `rubrics.RUBRICS`. Each has its own verdicts and metric, `judge_<rubric>`.
        judge: The judge. Another judge's earlier verdicts stay in the file but no longer count.
        reply_tokens: Longest reply, in tokens; None: the rubric's.
        progress: Show a bar on the terminal.

    Returns:
        The rubric's content in `judge.json`.

    Raises:
        ConfigurationError: The rubric does not fit the questions, or another process judges the folder.
        DataError: A file is missing or malformed.
        EndpointError: The judge answered no question; no verdict was written.
    """
    folder = Path(folder)
    requests = judge_requests([JudgedAnswer.of(row) for row in read_predictions(folder)], rubric, judge, reply_tokens)
    if not requests:
        raise DataError(f"{folder / PREDICTIONS} holds no prediction: judge the folder of a finished evaluation")
    with _alone(folder, judge.cache.folder), JsonLinesWriter(folder / VERDICTS) as writer:
        verdicts = parse_verdicts(writer.existing, writer.path)
        settled = _settled(verdicts, rubric, judge.name)
        left = [request for request in requests if settled.get(request.answer.key) != request.sha256]
        held: list[Verdict] = []
        with judge_bar(f"judge ({rubric})", len(requests), progress, done=len(requests) - len(left)) as advance:

            def take(number: int, verdict: Verdict) -> None:
                # Hold back missing replies: if the judge never replies, an earlier judge's verdicts still count.
                if verdict.answered:
                    writer.append(asdict(verdict))
                    verdicts.append(verdict)
                else:
                    held.append(verdict)
                advance()

            judge_all(left, judge, take)
        check_answered(held, len(held) < len(left) or bool(settled), judge)
        writer.append(*map(asdict, held))
        summary = summarize_verdicts([*verdicts, *held])
    write_json(folder / JUDGE, summary)
    content: dict[str, Any] = summary[rubric]
    return content


def judge_requests(
    answers: Iterable[JudgedAnswer], rubric: str, judge: CachedJudge, reply_tokens: int | None = None
) -> list[JudgeRequest]:
    """Return the request about each answer; raise the errors of `rubrics.judge_prompt`."""
    max_tokens = REPLY_TOKENS[check_rubric(rubric)] if reply_tokens is None else reply_tokens
    if max_tokens < 1:
        raise ConfigurationError(f"reply_tokens is {max_tokens}: give a whole number from 1")
    requests = []
    for answer in answers:
        messages = judge_prompt(rubric, answer)
        requests.append(JudgeRequest(answer, rubric, messages, max_tokens, judge.digest(messages, max_tokens)))
    return requests


def judge_all(requests: Sequence[JudgeRequest], judge: CachedJudge, on_verdict: Callable[[int, Verdict], None]) -> None:
    """Pass each request's number and verdict to `on_verdict` as soon as it arrives, those without a judge first."""
    asked = []
    for number, request in enumerate(requests):
        if not (request.answer.question.strip() and request.answer.gold.strip()):
            on_verdict(number, _verdict(request, judge, None, "no_gold"))
        elif not request.answer.prediction.strip():
            on_verdict(number, _verdict(request, judge, False, "empty"))
        else:
            asked.append(number)
    told: set[str | None] = set()

    def receive(position: int, reply: JudgeReply) -> None:
        request = requests[asked[position]]
        verdict = _read(request, judge, reply)
        if verdict.verdict is None and verdict.reason not in told:
            told.add(verdict.reason)
            said = reply.detail or (reply.completion.text[-100:] if reply.completion else "")
            logger.warning("no verdict on %s (%s; more such are only counted): %r", verdict.key, verdict.reason, said)
        on_verdict(asked[position], verdict)

    # All requests of a call have the same rubric, and so the same `max_tokens`.
    if asked:
        judge.ask([requests[number].messages for number in asked], requests[0].max_tokens, receive)


def check_answered(unanswered: Sequence[Verdict], answered: bool, judge: CachedJudge) -> None:
    """Raise an EndpointError if the judge was asked and nothing was `answered`."""
    failed = sum(verdict.reason in UNANSWERED for verdict in unanswered)
    if failed and not answered:
        raise EndpointError(
            f"judge {judge.name}: none of {failed} questions got a reply (see the reason above): mend the cause (such "
            "as the server's address, model or key) and repeat the command"
        )


@contextmanager
def judge_bar(description: str, total: int, shown: bool, done: int = 0) -> Iterator[Callable[[], None]]:
    """Show a progress bar with the time left; yield a function that advances it by one."""
    with progress_bars(shown) as bars:
        task = bars.add_task(description, total=total, completed=done)
        yield lambda: bars.advance(task)


def _read(request: JudgeRequest, judge: CachedJudge, reply: JudgeReply) -> Verdict:
    if reply.completion is None:
        return _verdict(request, judge, None, reply.failure, reply)
    found, reason = read_reply(request.rubric, reply.completion.text), None
    if found is None:
        reason = "refused" if looks_like_refusal(reply.completion.text) else "garbage"
    return _verdict(request, judge, found, reason, reply)


def _verdict(
    request: JudgeRequest, judge: CachedJudge, found: bool | None, reason: str | None, reply: JudgeReply | None = None
) -> Verdict:
    paid = reply.completion if reply and reply.source == "asked" else None
    return Verdict(
        dialogue_id=request.answer.dialogue_id,
        question_id=request.answer.question_id,
        rubric=request.rubric,
        judge=judge.name,
        verdict=found,
        reason=reason,
        source=reply.source if reply else "none",
        prompt_tokens=paid.prompt_tokens if paid else 0,
        completion_tokens=paid.completion_tokens if paid else 0,
        cut=request.answer.cut,
        sha256=request.sha256,
    )


def _settled(verdicts: Sequence[Verdict], rubric: str, judge: str) -> dict[str, str]:
    """Map the keys of questions that need not be asked again to the hashes of their requests."""
    if last_judges(verdicts).get(rubric) != judge:
        return {}
    latest = latest_verdicts(verdicts, rubric, judge)
    return {key: verdict.sha256 for key, verdict in latest.items() if verdict.reason not in UNANSWERED}


@contextmanager
def _alone(folder: Path, locks: Path) -> Iterator[None]:
    """Lock the folder against other judging processes."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    try:
        with FileLock(locks / f"{name}.lock", timeout=0):
            yield
    except Timeout:
        raise ConfigurationError(f"another process is judging {folder}: wait until it has ended") from None
