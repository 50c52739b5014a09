"""Plays dialogues into a memory system, asks their questions on what it then holds, and leaves an evaluation folder.

The write phase ends before the first question is asked, and `feedback` is never called: every question reads the same
snapshot, so order, batching and resuming change no score.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.records import (
    OPERATIONS,
    PREDICTIONS,
    RESULTS,
    Prediction,
    RecalledEntry,
    RunInfo,
    read_predictions,
    write_run,
)
from memory_r1.evaluation.report import write_report
from memory_r1.evaluation.results import write_results
from memory_r1.evaluation.resume import (
    Played,
    check_banks,
    config_hash,
    dialogues_hash,
    load_played,
    open_folder,
    operation_rows,
    reuse_banks,
)
from memory_r1.evaluation.selection import batches, check_selected, select
from memory_r1.jsonl import JsonLinesWriter, read_json
from memory_r1.metrics import evidence_recall, score_answer
from memory_r1.provenance import git_revision, package_versions
from memory_r1.systems.base import MemorySystem, OperationRecord, RecallRequest
from memory_r1.systems.baselines import Oracle
from memory_r1.types import Answer, Dialogue, Question, Recall, Turn


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question with the dialogue it is about."""

    dialogue: Dialogue
    question: Question

    @property
    def key(self) -> str:
        return f"{self.dialogue.dialogue_id}/{self.question.question_id}"

    @property
    def now(self) -> str:
        """When it is asked: by default after the last session."""
        return self.question.asked_at or (self.dialogue.sessions[-1].timestamp if self.dialogue.sessions else "")


@dataclass(slots=True)
class _Script:
    """A dialogue being played: its scope, turns, each session's time by its last turn, how many turns are `done`."""

    scope: str
    turns: tuple[Turn, ...]
    closings: dict[int, str]
    done: int = 0

    @classmethod
    def of(cls, dialogue: Dialogue) -> _Script:
        ends = accumulate(len(session.turns) for session in dialogue.sessions)
        closings = {end - 1: of.timestamp for end, of in zip(ends, dialogue.sessions, strict=True) if of.turns}
        return cls(dialogue.dialogue_id, dialogue.turns(), closings)

    def finish_turn(self, system: MemorySystem) -> None:
        """Count the turn that was just observed, and end the session if it was its last."""
        if self.done in self.closings:
            system.end_session(self.scope, self.closings[self.done])
        self.done += 1


def evaluate(
    system: MemorySystem,
    answer_agent: AnswerAgent,
    dialogues: Sequence[Dialogue],
    folder: Path | str,
    *,
    run: RunInfo,
    sessions: int | None = None,
    limit: int | None = None,
    budget_tokens: int | None = None,
    batch_size: int = 16,
    banks_from: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate `system`, going on where an earlier call on the same folder was cut short.

    Args:
        system: Empty; its banks are built here, one scope a dialogue.
        answer_agent: Answers every question, for every system in the same way.
        dialogues: Whole dialogues of one split.
        folder: Receives `predictions.jsonl`, `operations.jsonl`, `run.json`, `results.json` and `report.html`.
        run: What is evaluated, for `run.json`; the options below, revision, versions and cost are filled in here.
        sessions: Play the first so many sessions of each dialogue and ask only what they answer; None: all.
        limit: Ask at most so many questions, in proportion over dialogues and categories; None: all.
        budget_tokens: Bounds each recall; None: no bound.
        batch_size: Dialogues played, and questions asked, together.
        banks_from: A finished evaluation whose banks, the same system's on the same dialogues, are taken over.
        progress: Show bars on the terminal.

    Returns:
        The content of `results.json`.

    Raises:
        ConfigurationError: An option is unusable, or the folder holds another run.
        DataError: No question is left to ask, or two dialogues share an id.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size is {batch_size}: give a whole number from 1")
    chosen = select(dialogues, sessions=sessions, limit=limit, seed=run.seed)
    check_selected(chosen)
    folder = Path(folder)
    run = _completed(run, chosen, sessions, limit, budget_tokens, batch_size)
    if banks_from is not None:
        check_banks(banks_from, run)
    open_folder(folder, run)
    if banks_from is not None:
        reuse_banks(folder, banks_from)
    played = load_played(folder)
    with _bars(progress) as bars:
        with JsonLinesWriter(folder / OPERATIONS) as writer:
            records = _play(system, chosen, played, writer, batch_size, bars)
        if isinstance(system, Oracle):
            for dialogue in chosen:
                system.reveal(dialogue.dialogue_id, {q.question: q.evidence for q in dialogue.questions})
        with JsonLinesWriter(folder / PREDICTIONS) as writer:
            _ask(system, answer_agent, chosen, writer, budget_tokens, batch_size, bars)
    return _finish(folder, run, chosen, records)


def _completed(
    run: RunInfo,
    dialogues: Sequence[Dialogue],
    sessions: int | None,
    limit: int | None,
    budget_tokens: int | None,
    batch_size: int,
) -> RunInfo:
    """Return `run` with the options, the data's hash, and the code that runs it."""
    options = {
        "sessions": sessions,
        "limit": limit,
        "budget_tokens": budget_tokens,
        "batch_size": batch_size,
        "data_sha256": dialogues_hash(dialogues),
    }
    run = replace(
        run, config={**run.config, **options}, git_revision=git_revision(), versions=package_versions(), cost={}
    )
    return replace(run, config={**run.config, "config_sha256": config_hash(run)})


def _play(
    system: MemorySystem,
    dialogues: Sequence[Dialogue],
    played: Played,
    writer: JsonLinesWriter,
    batch_size: int,
    bars: Progress,
) -> list[OperationRecord]:
    """Play turn i of all dialogues together, then turn i + 1; return the whole operation log."""
    scripts = [_Script.of(dialogue) for dialogue in dialogues]
    records = []
    for dialogue, script in zip(dialogues, scripts, strict=True):
        if system.operations(script.scope):
            raise ConfigurationError(f"the memory system already holds {script.scope!r}: evaluate a newly built one")
        system.begin(script.scope, dialogue.speakers)
        records += _replay(system, script, played)
    if len(played) > sum(script.done for script in scripts):
        raise DataError(f"{writer.path} does not follow the order of the turns: delete the folder to start afresh")
    task = bars.add_task("turns", total=sum(len(s.turns) for s in scripts), completed=sum(s.done for s in scripts))
    for position in range(max(len(script.turns) for script in scripts)):
        wave = [script for script in scripts if script.done <= position < len(script.turns)]
        for chunk in batches(len(wave), batch_size):
            together = [wave[index] for index in chunk]
            observed = system.observe_many([(script.turns[position], script.scope) for script in together])
            # One write for the whole batch: a kill leaves all of a turn's rows or a cut that `load_played` removes.
            writer.append(*(row for of_turn in observed for row in operation_rows(of_turn)))
            records += [record for of_turn in observed for record in of_turn]
            for script in together:
                script.finish_turn(system)
            bars.advance(task, len(together))
    return records


def _replay(system: MemorySystem, script: _Script, played: Played) -> list[OperationRecord]:
    """Rebuild a scope from the turns that an earlier call played, up to the first that is missing."""
    records: list[OperationRecord] = []
    for turn in script.turns:
        of_turn = played.get((script.scope, turn.turn_id))
        if of_turn is None:
            break
        system.replay(turn, script.scope, of_turn)
        script.finish_turn(system)
        records += of_turn
    return records


def _ask(
    system: MemorySystem,
    answer_agent: AnswerAgent,
    dialogues: Sequence[Dialogue],
    writer: JsonLinesWriter,
    budget_tokens: int | None,
    batch_size: int,
    bars: Progress,
) -> None:
    """Ask every question that has no row yet.

    `seconds` of a question is its share of the batch it was answered in: recall and answering, divided evenly.
    """
    asked = [_Asked(dialogue, question) for dialogue in dialogues for question in dialogue.questions]
    answered = {Prediction.from_dict(row).key for row in writer.existing}
    left = [item for item in asked if item.key not in answered]
    task = bars.add_task("questions", total=len(asked), completed=len(asked) - len(left))
    for chunk in batches(len(left), batch_size):
        batch = [left[index] for index in chunk]
        started = time.perf_counter()
        recalls = system.recall_many(
            [RecallRequest(a.question.question, a.dialogue.dialogue_id, a.now, budget_tokens) for a in batch]
        )
        requests = [
            AnswerRequest(a.question.question, recall, a.question.asked_at)
            for a, recall in zip(batch, recalls, strict=True)
        ]
        answers = answer_agent.answer(requests)
        seconds = (time.perf_counter() - started) / len(batch)
        scored = zip(batch, recalls, answers, strict=True)
        writer.append(*(_prediction(a, recall, answer, seconds).to_dict() for a, recall, answer in scored))
        bars.advance(task, len(batch))


def _prediction(asked: _Asked, recall: Recall, answer: Answer, seconds: float) -> Prediction:
    question = asked.question
    metrics: dict[str, float | None] = {**score_answer(answer.text, question.answer, question.category)}
    sources = {turn_id for entry in recall.items for turn_id in entry.source_turn_ids}
    metrics["evidence_recall"] = evidence_recall(question.evidence, sources)
    by_id = {entry.entry_id: RecalledEntry.of(entry) for entry in recall.items}
    return Prediction(
        question_id=question.question_id,
        dialogue_id=asked.dialogue.dialogue_id,
        category=question.category,
        metrics=metrics,
        question=question.question,
        gold=question.answer,
        prediction=answer.text,
        evidence=question.evidence,
        recalled=tuple(by_id.values()),
        distilled=tuple(by_id[entry_id] for entry_id in answer.distilled if entry_id in by_id),
        tokens=answer.prompt_tokens + answer.completion_tokens,
        seconds=seconds,
    )


def _finish(
    folder: Path, run: RunInfo, dialogues: Sequence[Dialogue], records: Sequence[OperationRecord]
) -> dict[str, Any]:
    """Write the cost, the results and the report.

    Everything is counted from the folder's rows, so that a resumed run costs what it would have cost in one go. Each
    question counts as one model call, also where a batch held the same prompt twice.
    """
    predictions = read_predictions(folder)
    cost = {
        "write_tokens": sum(record.prompt_tokens + record.completion_tokens for record in records),
        "read_tokens": sum(prediction.tokens for prediction in predictions),
        "model_calls": sum(record.model_calls for record in records) + len(predictions),
    }
    write_run(folder, replace(run, cost=cost))
    write_results(folder)
    write_report(folder, dialogues)
    return read_json(folder / RESULTS)


@contextmanager
def _bars(shown: bool) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *left, console=Console(stderr=True), disable=not shown) as bars:
        yield bars
