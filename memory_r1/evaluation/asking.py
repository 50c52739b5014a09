"""Ask a memory system questions, within the window of the Answer Agent's model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.progress import Progress

from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
from memory_r1.errors import ConfigurationError
from memory_r1.evaluation.records import Prediction, RecalledEntry
from memory_r1.evaluation.selection import batches
from memory_r1.jsonl import JsonLinesWriter
from memory_r1.metrics import evidence_recall, score_answer
from memory_r1.systems.base import MemorySystem
from memory_r1.systems.window import Query, recall_within
from memory_r1.types import Answer, Dialogue, Question, Recall


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its dialogue, and its recall budget in tokens (None: no limit)."""

    dialogue: Dialogue
    question: Question
    budget_tokens: int | None = None

    @property
    def key(self) -> str:
        """The same as `Prediction.key`."""
        return f"{self.dialogue.dialogue_id}/{self.question.question_id}"

    @property
    def now(self) -> str:
        """The time of asking, by default the last session's."""
        return self.question.asked_at or (self.dialogue.sessions[-1].timestamp if self.dialogue.sessions else "")

    @property
    def query(self) -> Query:
        """What is recalled for the question."""
        return Query(
            self.question.question,
            self.dialogue.dialogue_id,
            self.key,
            now=self.now,
            asked_at=self.question.asked_at,
            budget_tokens=self.budget_tokens,
        )

    def request(self, recall: Recall) -> AnswerRequest:
        """Return the request to the Answer Agent."""
        return self.query.request(recall)


def questions_of(dialogues: Sequence[Dialogue], agent: AnswerAgent, budget_tokens: int | None) -> list[Asked]:
    """Return every question with its budget: `budget_tokens`, or less if the model's window leaves less room.

    That room is the window less the prompt without memories and the longest answer.

    Raises:
        ConfigurationError: `budget_tokens` is below 1, or the window has no room for memories in some question.
    """
    if budget_tokens is not None and budget_tokens < 1:
        raise ConfigurationError(
            f"budget_tokens is {budget_tokens}: give a whole number from 1, or leave it out to use the model's whole "
            "window"
        )
    asked = []
    for dialogue in dialogues:
        for question in dialogue.questions:
            bare = Asked(dialogue, question)
            room = agent.room(bare.request(Recall(())))
            if room is not None and room < 1:
                raise ConfigurationError(
                    f"question {bare.key!r} and an answer of up to {agent.max_new_tokens} tokens leave no room for "
                    f"memories in the model's window ({1 - room} tokens too many): allow shorter answers, or choose "
                    "another model"
                )
            bounds = [bound for bound in (budget_tokens, room) if bound is not None]
            asked.append(replace(bare, budget_tokens=min(bounds, default=None)))
    return asked


def ask(
    system: MemorySystem,
    answer_agent: AnswerAgent,
    asked: Sequence[Asked],
    writer: JsonLinesWriter,
    batch_size: int,
    bars: Progress,
) -> None:
    """Ask every question without a row; `seconds` is its even share of its batch's time for recall and answering."""
    answered = {Prediction.from_dict(row).key for row in writer.existing}
    left = [item for item in asked if item.key not in answered]
    task = bars.add_task("questions", total=len(asked), completed=len(asked) - len(left))
    for chunk in batches(len(left), batch_size):
        batch = [left[index] for index in chunk]
        started = time.perf_counter()
        recalls = recall_within(system, answer_agent, [item.query for item in batch])
        answers = answer_agent.answer([a.request(recall) for a, recall in zip(batch, recalls, strict=True)])
        seconds = (time.perf_counter() - started) / len(batch)
        scored = zip(batch, recalls, answers, strict=True)
        writer.append(*(_prediction(a, recall, answer, seconds).to_dict() for a, recall, answer in scored))
        bars.advance(task, len(batch))


def _prediction(asked: Asked, recall: Recall, answer: Answer, seconds: float) -> Prediction:
    question = asked.question
    metrics: dict[str, float | None] = {**score_answer(answer.text, question.answer, question.category)}
    sources = {turn_id for entry in recall.items for turn_id in entry.source_turn_ids}
    metrics["evidence_recall"] = evidence_recall(question.evidence, sources)
    by_id = {entry.entry_id: RecalledEntry.of(entry) for entry in recall.items}
    recall_cost = {name: int(count) for name, count in recall.usage.items() if name not in ("tokens", "cut")}
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
        tokens=answer.prompt_tokens + answer.completion_tokens + recall_cost.get("model_tokens", 0),
        seconds=seconds,
        cut=int(recall.usage.get("cut", 0)),
        recall_cost=recall_cost,
    )
