"""Turn training tuples into a trainer's rows: a prompt, and the columns that rewards need.

A manager's questions are only in columns that do not enter the prompt. Nested records are JSON strings, because a
dataset column would fill missing fields with nulls.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from memory_r1.agents.memory_manager import ManageRequest, MemoryManager, prompt_for
from memory_r1.agents.prompts import UNKNOWN, answer_prompt, render_answer, render_quoted_answer
from memory_r1.memory.bank import MemoryBank, entries_from_json, entries_to_json
from memory_r1.memory.forms import FLAT, FORMS, OperationForm
from memory_r1.memory.operations import CheckedCompletion, check_completion, render_operations
from memory_r1.memory.retriever import RetrievalRequest, Retriever
from memory_r1.metrics import holds_answer
from memory_r1.types import (
    AnswerTuple,
    ManagerTuple,
    MemoryEntry,
    Operation,
    OperationKind,
    Question,
    SessionTuple,
    Turn,
)

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def manager_rows(
    tuples: Sequence[ManagerTuple], retriever: Retriever, recall_per_speaker: int, form: OperationForm = FLAT
) -> list[Row]:
    """Return a row per tuple.

    Columns: `prompt`, `tuple_id`, `turn` (JSON; a list for a session's row), `bank` (JSON), `recalled_ids`, `speakers`,
    `linked` and `retention` (JSON lists of questions), `source_words` (JSON: word count per source turn of an entry),
    and, if operations are not flat, `operations`, the name of their form.
    """
    requests = [ManageRequest(item.turn, item.previous, MemoryBank(item.bank), item.speakers) for item in tuples]
    recalls = recalled_for(requests, retriever, recall_per_speaker)
    named = {} if form is FLAT else {"operations": form.name}
    return [
        {"prompt": prompt_for(request, recalled, form), **manager_columns(item, item.turn, recalled), **named}
        for item, request, recalled in zip(tuples, requests, recalls, strict=True)
    ]


def recalled_for(
    requests: Sequence[ManageRequest], retriever: Retriever, recall_per_speaker: int
) -> list[tuple[MemoryEntry, ...]]:
    """Return the memories in a Memory Manager's prompts for these turns, without a model."""
    no_model: Any = None  # recall needs none
    return MemoryManager(no_model, retriever, recall_per_speaker=recall_per_speaker).recall(requests)


def manager_columns(
    item: ManagerTuple | SessionTuple, said: Turn | Sequence[Turn], recalled: Sequence[MemoryEntry]
) -> Row:
    """Return the columns that rewards need; `said` is the turn, or the session's turns, in the prompt."""
    return {
        "tuple_id": item.tuple_id,
        "turn": json.dumps(asdict(said) if isinstance(said, Turn) else [asdict(turn) for turn in said]),
        "bank": entries_to_json(item.bank),
        "recalled_ids": [entry.entry_id for entry in recalled],
        "speakers": list(item.speakers),
        "linked": questions_to_json(item.linked),
        "retention": questions_to_json(item.retention),
        "source_words": json.dumps({turn.turn_id: len(turn.text.split()) for turn in item.sources}),
    }


def answer_rows(
    tuples: Sequence[AnswerTuple], retriever: Retriever, recall_per_speaker: int, style: str = "ids"
) -> list[Row]:
    """Return a row per tuple, in the Answer Agent's `style`.

    Columns: `prompt`, `tuple_id`, `question`, `answer`, `category`, `evidence` (turn ids), `answer_style`, `numbered`,
    `texts` and `sources` (entry ids, their texts and turn ids by prompt number), and `evidence_numbers` (prompt numbers
    of entries from an evidence turn).
    """
    recalls = retriever.retrieve_many(
        [RetrievalRequest(item.question.question, item.bank, recall_per_speaker, item.speakers) for item in tuples]
    )
    rows = []
    for item, recalled in zip(tuples, recalls, strict=True):
        prompt, numbered = answer_prompt(item.question.question, recalled, asked_at=item.question.asked_at, style=style)
        texts = {entry.entry_id: entry.text for entry in recalled}
        rows.append(
            {
                "prompt": prompt,
                "tuple_id": item.tuple_id,
                "question": item.question.question,
                "answer": item.question.answer,
                "category": item.question.category,
                "evidence": list(item.question.evidence),
                "answer_style": style,
                "numbered": numbered,
                "texts": [texts[entry_id] for entry_id in numbered],
                "sources": _sources(recalled, numbered),
                "evidence_numbers": _evidence_numbers(item.question, recalled, numbered),
            }
        )
    return rows


def is_answerable(row: Row) -> bool:
    """Return whether an answer row's memories answer its question, as far as words and evidence tell.

    They do if all evidence turns are recalled or an entry holds the gold answer; an unanswerable question needs none.
    """
    if row["answer"].lower() == UNKNOWN:
        return True
    recalled = {turn_id for turn_ids in row["sources"] for turn_id in turn_ids}
    whole = bool(row["evidence"]) and recalled.issuperset(row["evidence"])
    return whole or any(holds_answer(text, row["answer"]) for text in row["texts"])


def manager_sft_rows(
    tuples: Sequence[ManagerTuple], retriever: Retriever, recall_per_speaker: int, form: OperationForm = FLAT
) -> list[Row]:
    """Return the prompt and gold completion of each tuple with gold operations.

    If the entry of a gold operation was not recalled, it has no number in the prompt. UPDATE then becomes ADD, and
    DELETE is left out: that is the best the manager can do with its prompt.
    """
    labelled = [item for item in tuples if item.gold is not None]
    rows = manager_rows(labelled, retriever, recall_per_speaker, form)
    for item, row in zip(labelled, rows, strict=True):
        target = reachable_operations(item.gold or (), row["recalled_ids"])
        row["completion"] = [{"role": "assistant", "content": render_operations(target, row["recalled_ids"], form)}]
    return [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]


def answer_sft_rows(
    tuples: Sequence[AnswerTuple],
    retriever: Retriever,
    recall_per_speaker: int,
    style: str = "ids",
    *,
    answerable_only: bool = False,
) -> list[Row]:
    """Return the prompt and worked answer of each tuple: the evidence entries' numbers or texts, then the gold answer.

    If retrieval missed all evidence of a question, the target is "unknown", since the gold answer would teach guessing;
    with `answerable_only`, such questions are left out (`is_answerable`).
    """
    rows = []
    for row in answer_rows(tuples, retriever, recall_per_speaker, style):
        if answerable_only and not is_answerable(row):
            continue
        known = row["evidence_numbers"]
        answer = row["answer"] if known else UNKNOWN
        quotes = [row["texts"][number - 1] for number in known]
        content = render_answer(answer, known) if style == "ids" else render_quoted_answer(answer, quotes)
        rows.append({"prompt": row["prompt"], "completion": [{"role": "assistant", "content": content}]})
    return rows


def reachable_operations(gold: Sequence[Operation], recalled_ids: Sequence[int]) -> tuple[Operation, ...]:
    """Return the gold operations that are possible with the recalled entries; NOOP if none is left."""
    reachable: list[Operation] = []
    for operation in gold:
        named = operation.over if operation.entry_id is None else (operation.entry_id,)
        if {*named} <= {*recalled_ids}:
            reachable.append(operation)
        elif operation.kind is OperationKind.UPDATE:
            reachable.append(replace(operation, kind=OperationKind.ADD, entry_id=None))
    return tuple(reachable) or (Operation(OperationKind.NOOP),)


def questions_to_json(questions: Sequence[Question]) -> str:
    """Render questions as a JSON list, for a dataset column."""
    return json.dumps([asdict(question) for question in questions], ensure_ascii=False)


def questions_from_json(text: str) -> tuple[Question, ...]:
    """Invert `questions_to_json`."""
    return tuple(Question(**{**item, "evidence": tuple(item["evidence"])}) for item in json.loads(text))


def turn_from_json(text: str) -> Turn:
    """Return the turn of a manager row."""
    return Turn(**json.loads(text))


def turns_from_json(text: str) -> tuple[Turn, ...]:
    """Return the turns of a manager row: its one turn, or all turns of a session's row."""
    said = json.loads(text)
    return tuple(Turn(**fields) for fields in (said if isinstance(said, list) else [said]))


def check_row(
    completion: str, recalled_ids: Sequence[int], turn: str | None = None, operations: str | None = None
) -> CheckedCompletion:
    """Check a completion against its manager row; without `turn`, as a completion on a single turn."""
    said = json.loads(turn) if turn else None
    turns = len(said) if isinstance(said, list) else None
    return check_completion(completion, recalled_ids, turns, FORMS[operations or FLAT.name])


def apply_completion(
    completion: str, turn: str, bank: str, recalled_ids: Sequence[int], operations: str | None = None
) -> tuple[CheckedCompletion, MemoryBank]:
    """Check a completion on its row and apply its accepted operations, each at its turn, to a fresh bank."""
    checked = check_row(completion, recalled_ids, turn, operations)
    turns, after = turns_from_json(turn), bank_from_row(bank)
    for item in checked.operations:
        if item.operation is not None:
            after.apply([item.operation], turns[item.turn])
    return checked, after


def bank_from_row(bank: str) -> MemoryBank:
    """Return a fresh bank of a manager row."""
    return MemoryBank(entries_from_json(bank))


def _sources(recalled: Sequence[MemoryEntry], numbered: Sequence[int]) -> list[list[str]]:
    turn_ids = {entry.entry_id: list(entry.source_turn_ids) for entry in recalled}
    return [turn_ids[entry_id] for entry_id in numbered]


def _evidence_numbers(question: Question, recalled: Sequence[MemoryEntry], numbered: Sequence[int]) -> list[int]:
    evidence = set(question.evidence)
    supporting = {entry.entry_id for entry in recalled if evidence.intersection(entry.source_turn_ids)}
    return [number for number, entry_id in enumerate(numbered, start=1) if entry_id in supporting]
