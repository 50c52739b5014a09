"""From training tuples to the rows a trainer reads: a prompt, and the columns that rewards need.

A manager row holds its questions only in columns the prompt is not made of. Nested records travel as JSON strings,
because a dataset column would fill missing fields with nulls.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from memory_r1.agents.memory_manager import ManageRequest, MemoryManager, prompt_for
from memory_r1.agents.prompts import UNKNOWN, answer_prompt, render_answer
from memory_r1.memory.bank import MemoryBank, entries_from_json, entries_to_json
from memory_r1.memory.operations import render_operations
from memory_r1.memory.retriever import RetrievalRequest, Retriever
from memory_r1.types import AnswerTuple, ManagerTuple, MemoryEntry, Operation, OperationKind, Question, Turn

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def manager_rows(tuples: Sequence[ManagerTuple], retriever: Retriever, top_k: int) -> list[Row]:
    """A row for each tuple.

    Columns: `prompt`, `tuple_id`, `turn` (JSON), `bank` (JSON), `recalled_ids`, `speakers`, `linked` and `retention`
    (JSON lists of questions).
    """
    requests = [ManageRequest(item.turn, item.previous, MemoryBank(item.bank), item.speakers) for item in tuples]
    recalls = MemoryManager(_NO_MODEL, retriever, top_k=top_k).recall(requests)
    return [
        {
            "prompt": prompt_for(request, recalled),
            "tuple_id": item.tuple_id,
            "turn": json.dumps(asdict(item.turn)),
            "bank": entries_to_json(item.bank),
            "recalled_ids": [entry.entry_id for entry in recalled],
            "speakers": list(item.speakers),
            "linked": questions_to_json(item.linked),
            "retention": questions_to_json(item.retention),
        }
        for item, request, recalled in zip(tuples, requests, recalls, strict=True)
    ]


def answer_rows(tuples: Sequence[AnswerTuple], retriever: Retriever, top_k: int) -> list[Row]:
    """A row for each tuple.

    Columns: `prompt`, `tuple_id`, `answer`, `category`, `numbered` (entry ids by prompt number) and
    `evidence_numbers` (prompt numbers of entries that come from an evidence turn).
    """
    recalls = retriever.retrieve_many(
        [RetrievalRequest(item.question.question, item.bank, top_k, item.speakers) for item in tuples]
    )
    rows = []
    for item, recalled in zip(tuples, recalls, strict=True):
        prompt, numbered = answer_prompt(item.question.question, recalled, asked_at=item.question.asked_at)
        rows.append(
            {
                "prompt": prompt,
                "tuple_id": item.tuple_id,
                "answer": item.question.answer,
                "category": item.question.category,
                "numbered": numbered,
                "evidence_numbers": _evidence_numbers(item.question, recalled, numbered),
            }
        )
    return rows


def manager_sft_rows(tuples: Sequence[ManagerTuple], retriever: Retriever, top_k: int) -> list[Row]:
    """Prompt and gold completion for each tuple with gold operations.

    Where an entry that gold changes was not recalled, nobody could name its number: an UPDATE then becomes an ADD and
    a DELETE is left out, since that is the best the manager can do from what it sees.
    """
    labelled = [item for item in tuples if item.gold is not None]
    rows = manager_rows(labelled, retriever, top_k)
    for item, row in zip(labelled, rows, strict=True):
        target = reachable_operations(item.gold or (), row["recalled_ids"])
        row["completion"] = [{"role": "assistant", "content": render_operations(target, row["recalled_ids"])}]
    return [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]


def answer_sft_rows(tuples: Sequence[AnswerTuple], retriever: Retriever, top_k: int) -> list[Row]:
    """Prompt and worked answer for each tuple: the evidence entries' numbers, then the gold answer.

    Where retrieval missed all evidence of an answerable question the target is "unknown": to guess would be taught
    otherwise.
    """
    rows = []
    for row in answer_rows(tuples, retriever, top_k):
        known = row["evidence_numbers"]
        answer = row["answer"] if known else UNKNOWN
        content = render_answer(answer, known)
        rows.append({"prompt": row["prompt"], "completion": [{"role": "assistant", "content": content}]})
    return rows


def reachable_operations(gold: Sequence[Operation], recalled_ids: Sequence[int]) -> tuple[Operation, ...]:
    """Gold operations as far as the prompt's numbers reach; NOOP when nothing is left."""
    reachable: list[Operation] = []
    for operation in gold:
        if operation.entry_id is None or operation.entry_id in recalled_ids:
            reachable.append(operation)
        elif operation.kind is OperationKind.UPDATE:
            reachable.append(Operation(OperationKind.ADD, text=operation.text))
    return tuple(reachable) or (Operation(OperationKind.NOOP),)


def questions_to_json(questions: Sequence[Question]) -> str:
    """Questions as a JSON list, for a dataset column."""
    return json.dumps([asdict(question) for question in questions], ensure_ascii=False)


def questions_from_json(text: str) -> tuple[Question, ...]:
    """The inverse of `questions_to_json`."""
    return tuple(Question(**{**item, "evidence": tuple(item["evidence"])}) for item in json.loads(text))


def turn_from_json(text: str) -> Turn:
    """The turn of a manager row."""
    return Turn(**json.loads(text))


def bank_from_row(bank: str) -> MemoryBank:
    """The bank of a manager row, fresh: operations applied to it show nowhere else."""
    return MemoryBank(entries_from_json(bank))


def _evidence_numbers(question: Question, recalled: Sequence[MemoryEntry], numbered: Sequence[int]) -> list[int]:
    evidence = set(question.evidence)
    supporting = {entry.entry_id for entry in recalled if evidence.intersection(entry.source_turn_ids)}
    return [number for number, entry_id in enumerate(numbered, start=1) if entry_id in supporting]


_NO_MODEL: Any = None  # `MemoryManager.recall` reads no model
