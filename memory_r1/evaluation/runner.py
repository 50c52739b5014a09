"""Play dialogues into a memory system, ask their questions, and write an evaluation folder.

All turns are written before the first question, and `feedback` is never called: every question reads the same snapshot,
so order, batching and resuming change no score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.dialogue_file import dialogues_hash
from memory_r1.errors import ConfigurationError
from memory_r1.evaluation.asking import ask, questions_of
from memory_r1.evaluation.progress import progress_bars
from memory_r1.evaluation.records import (
    MEMORY,
    PREDICTIONS,
    RESULTS,
    RunInfo,
    read_predictions,
    write_operations,
    write_run,
)
from memory_r1.evaluation.report.write import write_report
from memory_r1.evaluation.resume import alone_in, config_hash, open_folder
from memory_r1.evaluation.scoring.results import write_results
from memory_r1.evaluation.selection import check_selected, select
from memory_r1.inference.language_model import window_of
from memory_r1.jsonl import JsonLinesWriter, read_json
from memory_r1.memory.log import Log
from memory_r1.provenance import git_revision, package_versions
from memory_r1.systems.bank_cache import BankCache
from memory_r1.systems.banked import BankedSystem
from memory_r1.systems.base import Capability, MemorySystem
from memory_r1.systems.baselines import Oracle
from memory_r1.systems.player import Episode, play, turns_of
from memory_r1.systems.state import ScopeState
from memory_r1.systems.writer import count_writings
from memory_r1.types import Dialogue

MIXED = "mixed"
"""In place of the key of banks that several versions of the code, or several models, have written."""


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
    banks: BankCache | None = None,
    rebuild_banks: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate `system`, resuming an earlier interrupted call on the same folder.

    Args:
        system: An empty system; its banks are built in the folder's `memory.db`, one scope per dialogue.
        answer_agent: Answers every question, in the same way for every system.
        dialogues: Whole dialogues of one split.
        folder: Receives the memory's log (`memory.db`), its export (`operations.jsonl`), `predictions.jsonl`,
            `run.json`, `results.json` and `report.html`.
        run: The description for `run.json`; the options below, revision, versions and cost are added here.
        sessions: Play only this many first sessions of each dialogue and ask only what they answer; None: all.
        limit: Ask at most this many questions, in proportion over dialogues and categories; None: all.
        budget_tokens: Limit of each recall, at most (and by default) the room that the prompt and the longest answer
            leave in the model's window. The system's `cut_rule` drops the excess, which is counted.
        batch_size: Number of dialogues played, and of questions asked, together.
        banks: Cache of finished banks, so that each is written once; None for no cache. Only systems in which a model
            writes use it.
        rebuild_banks: Write all banks again, and replace the cached ones.
        progress: Show bars on the terminal.

    Returns:
        The content of `results.json`.

    Raises:
        ConfigurationError: An option is invalid, or the folder holds another run.
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
    for dialogue in chosen:
        if system.records(dialogue.dialogue_id):
            raise ConfigurationError(
                f"the memory system already holds {dialogue.dialogue_id!r}: evaluate a newly built one"
            )
    run = open_folder(folder, _completed(run, options))
    with alone_in(folder):
        system.load(folder / MEMORY, create=True)
        with progress_bars(progress) as bars:
            run = _write(system, chosen, folder, run, banks, rebuild_banks, batch_size, bars)
            if isinstance(system, Oracle):
                for dialogue in chosen:
                    for question in dialogue.questions:  # one by one: two may have the same wording
                        system.reveal(dialogue.dialogue_id, {question.question: question.evidence})
            with JsonLinesWriter(folder / PREDICTIONS) as writer:
                ask(system, answer_agent, asked, writer, batch_size, bars)
        return _finish(system, folder, run, chosen)


def _write(
    system: MemorySystem,
    dialogues: Sequence[Dialogue],
    folder: Path,
    run: RunInfo,
    banks: BankCache | None,
    rebuild: bool,
    batch_size: int,
    bars: Progress,
) -> RunInfo:
    """Play every turn into the system and export its log; return `run` with the source of its banks."""
    episodes = [Episode.of(dialogue) for dialogue in dialogues]
    log = system.log if isinstance(system, BankedSystem) and Capability.MODEL_WRITES in system.capabilities else None
    if banks is not None and log is not None:
        run = _take_banks(log, dialogues, folder, run, banks, rebuild)
    held = {episode.scope: len(turns_of(system.records(episode.scope))) for episode in episodes}
    task = bars.add_task("turns", total=sum(len(episode.turns) for episode in episodes))
    play(system, episodes, batch_size=batch_size, advance=lambda turns: bars.advance(task, turns))
    write_operations(folder, {episode.scope: system.records(episode.scope) for episode in episodes})
    if banks is not None and log is not None and run.banks["key"] == banks.key:  # else other code wrote some of them
        banks.keep(log, [each for each in dialogues if held[each.dialogue_id] < len(each.turns())])
    return run


def _take_banks(
    log: Log[ScopeState], dialogues: Sequence[Dialogue], folder: Path, run: RunInfo, banks: BankCache, rebuild: bool
) -> RunInfo:
    """Load the cached banks, and record them in `run.json`."""
    reused = list(run.banks.get("reused", ()))
    if rebuild and reused:
        raise ConfigurationError(f"{folder} has reused banks from {banks.folder}: --restart it to write them again")
    kept = {} if rebuild else banks.kept(log, dialogues)
    reused += kept
    # Recorded first, so that a kill in between never leaves a reused bank unrecorded.
    key = banks.key if run.banks.get("key", banks.key) == banks.key else MIXED
    run = replace(run, banks={**run.banks, "key": key, "reused": reused})
    write_run(folder, run)
    banks.take(log, kept)
    return run


def _completed(run: RunInfo, options: dict[str, Any]) -> RunInfo:
    """Return `run` with the options of `evaluate`, the code's revision and the versions."""
    run = replace(
        run, config={**run.config, **options}, git_revision=git_revision(), versions=package_versions(), cost={}
    )
    return replace(run, config={**run.config, "config_sha256": config_hash(run)})


def _finish(system: MemorySystem, folder: Path, run: RunInfo, dialogues: Sequence[Dialogue]) -> dict[str, Any]:
    """Write the cost, the results and the report.

    Costs are counted from the log and the folder's rows, so resuming does not change them. Each question counts as one
    model call, even if a batch held the same prompt twice, and the calls of its recall come on top.
    """
    records = [record for dialogue in dialogues for record in system.records(dialogue.dialogue_id)]
    predictions = read_predictions(folder)
    recalling = sum((Counter(prediction.recall_cost) for prediction in predictions), Counter())
    cost = {
        "write_tokens": sum(record.prompt_tokens + record.completion_tokens for record in records),
        "read_tokens": sum(prediction.tokens for prediction in predictions),
        "model_calls": sum(record.model_calls for record in records) + len(predictions) + recalling["model_calls"],
        "cut_entries": sum(prediction.cut for prediction in predictions),
        "cut_writing": sum(record.cut for record in records),
    }
    written = Counter(count_writings(records))
    written.update({name: count for name, count in recalling.items() if name.startswith("written_by_")})
    write_run(folder, replace(run, cost=cost | written))
    write_results(folder)
    write_report(folder, dialogues)
    return read_json(folder / RESULTS)
