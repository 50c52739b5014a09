"""Plays dialogues into a memory system, asks their questions on what it then holds, and leaves an evaluation folder.

The write phase ends before the first question is asked, and `feedback` is never called: every question reads the same
snapshot, so order, batching and resuming change no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.progress import Progress

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.language_model import window_of
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.asking import ask, questions_of
from memory_r1.evaluation.banks import BankCache
from memory_r1.evaluation.progress import progress_bars
from memory_r1.evaluation.records import OPERATIONS, PREDICTIONS, RESULTS, RunInfo, read_predictions, write_run
from memory_r1.evaluation.report import write_report
from memory_r1.evaluation.results import write_results
from memory_r1.evaluation.resume import (
    Played,
    config_hash,
    dialogues_hash,
    load_played,
    open_folder,
    operation_rows,
)
from memory_r1.evaluation.selection import batches, check_selected, select
from memory_r1.jsonl import JsonLinesWriter, read_json
from memory_r1.provenance import git_revision, package_versions
from memory_r1.systems.base import Capability, MemorySystem, OperationRecord
from memory_r1.systems.baselines import Oracle
from memory_r1.types import Dialogue, Turn


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
    banks: Path | None = None,
    rebuild_banks: bool = False,
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
        budget_tokens: Bounds each recall; None, or more than that: what the prompt and the longest answer leave of the
            model's window. What exceeds it is cut by the system's `cut_rule` and counted.
        batch_size: Dialogues played, and questions asked, together.
        banks: Where finished banks are kept by the hash of what decides them, so that the same ones are written once;
            None: nowhere. Only systems whose writing asks a model use it.
        rebuild_banks: Write them anew even so.
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
    asked = questions_of(chosen, answer_agent, budget_tokens)
    options = {
        "sessions": sessions,
        "limit": limit,
        "budget_tokens": budget_tokens,
        "window_tokens": window_of(answer_agent.model),
        "cut_rule": system.cut_rule,
        "batch_size": batch_size,
        "data_sha256": dialogues_hash(chosen),
    }
    run = open_folder(folder, _completed(run, options))
    cache = None
    if banks is not None and Capability.MODEL_WRITES in system.capabilities:
        cache = BankCache.of(banks, run, chosen)
        run = cache.take(folder, run, rebuild_banks)
    played = load_played(folder)
    with progress_bars(progress) as bars:
        with JsonLinesWriter(folder / OPERATIONS) as writer:
            records = _play(system, chosen, played, writer, batch_size, bars)
        if cache is not None:
            cache.keep(folder, run)
        if isinstance(system, Oracle):
            for dialogue in chosen:
                for question in dialogue.questions:  # one by one: two may have the same wording
                    system.reveal(dialogue.dialogue_id, {question.question: question.evidence})
        with JsonLinesWriter(folder / PREDICTIONS) as writer:
            ask(system, answer_agent, asked, writer, batch_size, bars)
    return _finish(folder, run, chosen, records)


def _completed(run: RunInfo, options: dict[str, Any]) -> RunInfo:
    """Return `run` with the options of `evaluate` and the code that runs it."""
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
        "cut_entries": sum(prediction.cut for prediction in predictions),
        "cut_writing": sum(record.cut for record in records),
    }
    write_run(folder, replace(run, cost=cost))
    write_results(folder)
    write_report(folder, dialogues)
    return read_json(folder / RESULTS)
