"""Turn a recipe's dialogues into training rows, over banks rebuilt beforehand."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from data.banks import Banks, gold_banks, observation_banks, turn_banks, with_inferred_evidence
from data.fillers import with_fillers
from data.sources import Source, training_sources
from data.synthetic.edges import with_edges
from data.tuples import answer_tuples, branch_points, dialogue_end_tuples, manager_tuples, session_tuples
from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.memory.forms import FORMS, GRAPH
from memory_r1.memory.list_log import ListLog
from memory_r1.memory.record import Record
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.bank_cache import BankCache
from memory_r1.systems.graph_manager import GraphMemory
from memory_r1.systems.manager import ManagedMemory
from memory_r1.systems.player import banks_along, play_manager
from memory_r1.systems.state import ScopeState
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.assembly import manager_tokens
from memory_r1.training.rows import Row, answer_rows, answer_sft_rows, is_answerable, manager_rows, manager_sft_rows
from memory_r1.training.session_credit import BranchRollout, branch_rows, session_rows
from memory_r1.training.substitution import substitution_rows
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from memory_r1.types import AnswerTuple, ManagerTuple, SessionTuple
from recipes.drafting import drafter_rows
from recipes.writer_rows import spread, writer_rows

logger = logging.getLogger(__name__)


def load_sources(arguments: MemoryArguments) -> tuple[list[Source], list[Source]]:
    """Load a recipe's training and validation dialogues.

    Raises:
        DataError: There are too few of them, or none has a question.
    """
    train, validation = training_sources(
        arguments.dataset,
        seed=arguments.dialogue_seed,
        first=arguments.first_dialogue,
        count=arguments.train_dialogues,
        validation=arguments.validation_dialogues,
    )
    if arguments.operations == GRAPH.name:
        train, validation = with_edges(train), with_edges(validation)
    for sources, what in ((train, "training"), (validation, "validation")):
        if not any(source.dialogue.questions for source in sources):
            raise DataError(
                f"dataset {arguments.dataset}: found no question in its {len(sources)} {what} dialogues; add questions "
                "to them (data/README.md has the format)"
            )
    return train, validation


def rl_rows(
    arguments: MemoryArguments,
    config: MemoryGRPOConfig,
    model: Any,
    retriever: Retriever,
    train: Sequence[Source],
    validation: Sequence[Source],
) -> tuple[dict[str, Dataset], dict[str, Any]]:
    """Return training and validation rows, and the trainer's `rollout_func` if it has one."""
    branching = arguments.credit == "branch"
    if arguments.validation == "played":
        validation = []  # whole dialogues are asked instead of rows
    played = validation if branching else [*train, *validation]  # branches play the training dialogues themselves
    banks = load_banks(arguments, played, model, retriever, banks_folder(config), manager_tokens(arguments, config))
    if arguments.infer_evidence:
        told = zip([*train, *validation], banks, strict=True)
        played = [replace(source, dialogue=with_inferred_evidence(source.dialogue, bank)) for source, bank in told]
        train, validation = played[: len(train)], played[len(train) :]
    rows = {"validation": _rows(arguments, validation, banks[len(banks) - len(validation) :], retriever)}
    rollout = {}
    if branching:
        points = [point for source in train for point in branch_points(source.dialogue)]
        rows["training"] = branch_rows(points)
        rollout["rollout_func"] = BranchRollout(
            points,
            retriever,
            recall_per_speaker=arguments.recall_per_speaker,
            retention_questions=arguments.retention_questions,
            seed=config.seed,
            form=FORMS[arguments.operations],
        )
    else:
        rows["training"] = _rows(arguments, train, banks[: len(train)], retriever)
        if arguments.answerable_only:
            rows["training"] = [row for row in rows["training"] if is_answerable(row)]
    # transformers asks for a validation set even where none of its rows is read.
    rows["validation"] = rows["validation"] or rows["training"][:1]
    datasets = _limited(arguments, rows)
    for split, sources in (("training", train), ("validation", validation)):
        logger.info("%s: %d dialogues, %d rows", split, len(sources), len(datasets[split]))
    return datasets, rollout


def sft_rows(
    arguments: MemoryArguments,
    config: Any,
    model: Any,
    retriever: Retriever,
    train: Sequence[Source],
    validation: Sequence[Source],
) -> dict[str, Dataset]:
    """Return labelled rows for training and validation."""
    pool = (
        [(source.dialogue, gold_banks(source.dialogue, _gold(source)).final) for source in train]
        if arguments.filler_memories
        else []
    )

    def rows(sources: Sequence[Source]) -> list[Row]:
        if arguments.agent == "manager":
            labelled = with_fillers(
                labelled_manager_units(sources), pool, arguments.filler_memories, arguments.dialogue_seed
            )
            return manager_sft_rows(labelled, retriever, arguments.recall_per_speaker, FORMS[arguments.operations])
        if arguments.agent == "writer":
            return [
                {"prompt": row.prompt, "completion": [{"role": "assistant", "content": row.completion}]}
                for row in writer_rows(sources, retriever, arguments.recall_per_speaker)
            ]
        if arguments.agent == "drafter":
            return drafter_rows(sources)
        banks = load_banks(arguments, sources, model, retriever, banks_folder(config), arguments.manager_max_tokens)
        units = with_fillers(answer_units(sources, banks), pool, arguments.filler_memories, arguments.dialogue_seed)
        return answer_sft_rows(
            units,
            retriever,
            arguments.recall_per_speaker,
            arguments.answer_style,
            answerable_only=arguments.answerable_only,
        )

    return _limited(arguments, {"training": rows(train), "validation": rows(validation)})


def banks_folder(config: Any) -> Path:
    """Return the folder of the banks that a manager builds, which is shared by the runs beside it."""
    return Path(config.output_dir).parent / "banks"


def load_banks(
    arguments: MemoryArguments,
    sources: Sequence[Source],
    model: Any,
    retriever: Retriever,
    folder: Path,
    longest: int,
) -> list[Banks]:
    """Return each dialogue's banks, built as the recipe's `banks` says; `longest` bounds a completion, in tokens.

    A manager's banks are cached in `folder` (see `BankCache`), so that runs sharing it play each dialogue once.
    """
    if arguments.banks == "gold":
        return [gold_banks(source.dialogue, _gold(source)) for source in sources]
    if arguments.banks == "turns":
        return [turn_banks(source.dialogue) for source in sources]
    if arguments.banks == "observations":
        return [observation_banks(source.dialogue, source.observations) for source in sources]
    name, dtype = str(model.model_name_or_path), str(model.dtype)
    adapter, recall_per_speaker = str(arguments.manager_adapter), arguments.recall_per_speaker
    form = FORMS[arguments.operations]
    cache = BankCache.of_manager(
        folder,
        system=GraphMemory.name if form is GRAPH else ManagedMemory.name,
        model=name,
        dtype=dtype,
        manager=adapter,
        embedder=arguments.embedder,
        recall_per_speaker=recall_per_speaker,
        max_new_tokens=longest,
    )
    dialogues = [source.dialogue for source in sources]
    log = ListLog(ScopeState())
    with PartialState().main_process_first(), cache.lock():  # another run may be playing the same dialogues
        cache.take(log, kept := cache.kept(log, dialogues))
        missing = [dialogue for dialogue in dialogues if dialogue.dialogue_id not in kept]
        if missing:
            language_model = LocalLanguageModel.load(name, {"manager": adapter}, dtype=dtype)
            manager = MemoryManager(
                language_model,
                retriever,
                adapter="manager",
                recall_per_speaker=recall_per_speaker,
                max_new_tokens=longest,
                form=form,
            )
            played = play_manager(missing, manager, progress=True)
            cache.keep(played, missing)
            for dialogue in missing:
                log.extend(dialogue.dialogue_id, played.records(dialogue.dialogue_id))
    return [_played(log.records(dialogue.dialogue_id)) for dialogue in dialogues]


def _played(records: Sequence[Record]) -> Banks:
    events = {record.turn.turn_id: record.events for record in records if record.turn is not None}
    return Banks(*banks_along(records), events)


def manager_units(arguments: MemoryArguments, sources: Sequence[Source], banks: Sequence[Banks]) -> list[ManagerTuple]:
    """Return the Memory Manager's tuples for reinforcement learning, which uses no gold operations."""
    return [
        item
        for source, bank in zip(sources, banks, strict=True)
        for item in manager_tuples(
            source.dialogue,
            bank,
            retention_questions=arguments.retention_questions,
            scored_only=True,
            seed=arguments.dialogue_seed,
        )
    ]


def session_units(arguments: MemoryArguments, sources: Sequence[Source], banks: Sequence[Banks]) -> list[SessionTuple]:
    """Return the Memory Manager's tuples with one session each."""
    return [
        item
        for source, bank in zip(sources, banks, strict=True)
        for item in session_tuples(
            source.dialogue,
            bank,
            retention_questions=arguments.retention_questions,
            seed=arguments.dialogue_seed,
        )
    ]


def labelled_manager_units(sources: Sequence[Source]) -> list[ManagerTuple]:
    """Return a tuple per turn, with its gold operations."""
    return [
        item
        for source in sources
        for item in manager_tuples(
            source.dialogue, gold_banks(source.dialogue, _gold(source)), every_turn=True, gold=_gold(source)
        )
    ]


def answer_units(sources: Sequence[Source], banks: Sequence[Banks]) -> list[AnswerTuple]:
    """Return a tuple per question, with the bank it is asked of."""
    return [item for source, bank in zip(sources, banks, strict=True) for item in answer_tuples(source.dialogue, bank)]


def require_rows(rows: list[Row], limit: int | None, what: str) -> list[Row]:
    """Return up to `limit` rows, spread evenly; raise DataError if there are none."""
    if not rows:
        raise DataError(f"the dialogues yield no {what} row; give dialogues with questions (and labels for SFT)")
    return spread(rows, len(rows) if limit is None else limit)


def _rows(
    arguments: MemoryArguments, sources: Sequence[Source], banks: Sequence[Banks], retriever: Retriever
) -> list[Row]:
    """Return one row per tuple, over the banks rebuilt beforehand."""
    depth, form = arguments.recall_per_speaker, FORMS[arguments.operations]
    if arguments.agent == "answer":
        return answer_rows(answer_units(sources, banks), retriever, depth, arguments.answer_style)
    if arguments.credit == "session":
        return session_rows(session_units(arguments, sources, banks), retriever, depth)
    if arguments.credit == "substitution":
        units = [
            (item, bank.events)
            for source, bank in zip(sources, banks, strict=True)
            for item in dialogue_end_tuples(source.dialogue, bank)
        ]
        return substitution_rows([item for item, _ in units], [events for _, events in units], retriever, depth, form)
    return manager_rows(manager_units(arguments, sources, banks), retriever, depth, form)


def _limited(arguments: MemoryArguments, rows: Mapping[str, list[Row]]) -> dict[str, Dataset]:
    limits = {"training": arguments.max_train_rows, "validation": arguments.max_validation_rows}
    return {split: Dataset.from_list(require_rows(found, limits[split], split)) for split, found in rows.items()}


def _gold(source: Source) -> Mapping[str, Any]:
    if source.gold is None:
        raise ConfigurationError(
            f"dialogue {source.dialogue.dialogue_id} has no gold operations; use dataset: synthetic, or banks: manager"
        )
    return source.gold
