"""What a writer learns: each system's writing tasks on generated dialogues, with gold for every prompt that it sends.

The systems themselves play the dialogues. Their writer is a `Teacher`, which writes the gold and keeps the prompt, so
prompts are those of an evaluation, and a prompt that continues an earlier text continues its gold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from data.sources import Source
from data.synthetic.writing import Known
from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Completion, Messages
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import MemorySystem, RecallRequest
from memory_r1.systems.plain_tokens import spoken
from memory_r1.systems.table import build_system
from memory_r1.systems.writer import Writer, Writing, WritingTask, prompt_for
from memory_r1.types import Dialogue
from recipes.writer_gold import GOLD, Moment

ROWS_PER_TASK = 6
"""Rows of a dialogue for each task, so that no task drowns the others."""
T = TypeVar("T")
PLAYED: tuple[tuple[str, Mapping[str, int | float | str]], ...] = (
    ("profile", {}),
    ("memorybank", {}),
    ("mem1", {}),
    ("memagent", {"section_tokens": 150}),
    ("memagent", {}),
    ("memgpt", {"context_tokens": 300}),
    ("hierarchical-graph", {}),
    ("hipporag", {}),
    ("hipporag2", {}),
    ("temporal-graph", {"alike": 0.4}),
)
"""The systems that send the prompts, with settings under which even a short dialogue has sections and overflows."""


@dataclass(frozen=True, slots=True)
class WriterRow:
    """A prompt that a system sends, its gold, and what the rules write instead."""

    dialogue_id: str
    task: WritingTask
    prompt: Messages
    gold: dict[str, Any]
    by_rules: dict[str, Any]

    @property
    def completion(self) -> str:
        """The gold as a reply."""
        return json.dumps(self.gold, ensure_ascii=False)


def spread(rows: Sequence[T], limit: int) -> list[T]:
    """Return up to `limit` rows, spread evenly."""
    count = min(limit, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


class Silent:
    """A language model that never replies, so that what stands in counts, and systems ask for all that a model does."""

    def generate(self, prompts: Sequence[Messages], **options: Any) -> list[Completion]:
        return [Completion("", 0, 0) for _ in prompts]

    def count_tokens(self, text: str) -> int:
        return 0


class Teacher(Writer):
    """Writes the gold, and keeps a row of every prompt."""

    def __init__(self, moment: Moment) -> None:
        super().__init__(Silent())
        self.moment = moment
        self.rows: list[WriterRow] = []

    def write(
        self, task: WritingTask, texts: Sequence[Sequence[str]], by_rules: Sequence[dict[str, Any]]
    ) -> list[Writing]:
        values = [GOLD[task.name](self.moment, lines) for lines in texts]
        dialogue_id = self.moment.known.dialogue.dialogue_id
        self.rows += [
            WriterRow(dialogue_id, task, prompt_for(task, lines), value, rules)
            for lines, value, rules in zip(texts, values, by_rules, strict=True)
        ]
        return super().write(task, texts, values)


def writer_rows(sources: Sequence[Source], retriever: Retriever, recall_per_speaker: int) -> list[WriterRow]:
    """Return up to `ROWS_PER_TASK` rows of each task and dialogue, spread evenly over the prompts that systems send.

    Raises:
        ConfigurationError: A dialogue has no gold operations.
    """
    if retriever.embedder is not None:  # all at once; the systems find them in its cache
        dialogues = [source.dialogue for source in sources]
        texts = [spoken(turn) for dialogue in dialogues for turn in dialogue.turns()]
        retriever.embedder.embed([*texts, *(asked.question for dialogue in dialogues for asked in dialogue.questions)])
    return [row for source in sources for row in _rows_of(source, retriever, recall_per_speaker)]


def _rows_of(source: Source, retriever: Retriever, recall_per_speaker: int) -> list[WriterRow]:
    if source.gold is None:
        raise ConfigurationError(
            f"dialogue {source.dialogue.dialogue_id} has no gold operations; use dataset: synthetic"
        )
    known = Known(source.dialogue, source.gold)
    rows: dict[str, dict[str, WriterRow]] = {}
    for name, settings in PLAYED:
        teacher = Teacher(Moment(known, source.dialogue.turns()[0]))
        system = build_system(
            name, retriever=retriever, writer=teacher, recall_per_speaker=recall_per_speaker, settings=settings
        )
        _play(system, source.dialogue, teacher.moment)
        for row in teacher.rows:
            rows.setdefault(row.task.name, {})[json.dumps(row.prompt)] = row  # two systems may send the same
    return [row for of_task in rows.values() for row in spread([*of_task.values()], ROWS_PER_TASK)]


def _play(system: MemorySystem, dialogue: Dialogue, moment: Moment) -> None:
    """Play a dialogue and ask its questions, as an evaluation does, and keep the moment."""
    scope = dialogue.dialogue_id
    system.begin(scope, dialogue.speakers)
    for session in dialogue.sessions:
        for moment.turn in session.turns:
            system.observe(moment.turn, scope)
        system.end_session(scope, session.timestamp)
    system.recall_many([RecallRequest(asked.question, scope, asked.asked_at) for asked in dialogue.questions])
