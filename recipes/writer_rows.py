"""What a writer learns: each system's writing tasks on generated dialogues, with gold for every prompt that it sends.

The systems themselves play the dialogues. Their writer is a `Teacher`, which writes the gold and keeps the prompt, so
prompts are those of an evaluation, and a prompt that continues an earlier text continues its gold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from data.sources import Source
from data.synthetic.writing import Known, facts_of, told
from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Messages
from memory_r1.memory.retriever import Retriever
from memory_r1.systems.base import MemorySystem, RecallRequest
from memory_r1.systems.insights import ADD, AGREE, EDIT, HEADER, INSIGHTS, MAX_OPERATIONS, REMOVE
from memory_r1.systems.mem1 import STATE
from memory_r1.systems.memagent import MEMORY
from memory_r1.systems.memgpt import FUNCTION_CALLS, PAGING, SUMMARY
from memory_r1.systems.memgpt_context import APPEND, CONVERSATION, REPLACE
from memory_r1.systems.memorybank import DAY_SUMMARY, PORTRAIT
from memory_r1.systems.plain_tokens import spoken
from memory_r1.systems.profile import FACTS, MAX_FACTS
from memory_r1.systems.table import build_system
from memory_r1.systems.writer import Writer, Writing, WritingTask, prompt_for
from memory_r1.types import Dialogue, Question, Turn

SHORT, LONG, LONGER = 330, 500, 700
"""Characters that 96, 160 or 224 tokens hold, with some to spare for rare names."""
ROWS_PER_TASK = 6
"""Rows of a dialogue for each task, so that no task drowns the others."""
MOST_CALLS = 4
"""As in the schema of `FUNCTION_CALLS`."""
SMALL_TALK = "Only small talk."
"""The summary of turns without a fact."""


@dataclass(slots=True)
class Moment:
    """When something is written: what is known of the dialogue, and the last turn heard."""

    known: Known
    turn: Turn

    def last_of(self, lines: Sequence[str]) -> Turn:
        """Return the last turn among the lines."""
        said = self._said()
        return next(said[line] for line in reversed(lines) if line in said)

    def question_of(self, lines: Sequence[str]) -> Question:
        """Return the question in the last line."""
        asked = lines[-1].removeprefix("Question: ")
        return next(question for question in self.known.dialogue.questions if question.question == asked)

    def heard(self, turn_ids: Sequence[str], lines: Sequence[str]) -> bool:
        """Return whether all these turns are among the lines."""
        return {*turn_ids} <= {turn.turn_id for line, turn in self._said().items() if line in lines}

    def written_in(self, lines: Sequence[str]) -> str:
        """Return the lines that are no turns: what a writer wrote before."""
        said = self._said()
        return "\n".join(line for line in lines if line not in said)

    def _said(self) -> dict[str, Turn]:
        return {spoken(turn): turn for turn in self.known.dialogue.turns()}


T = TypeVar("T")
Gold = Callable[[Moment, Sequence[str]], dict[str, Any]]


def facts(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """List the facts of the last turn."""
    return {"facts": [text for _, text in moment.known.stated(moment.turn)][:MAX_FACTS]}


def day_summary(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Tell the facts of the session's turns, each session being a day of its own."""
    turns = [turn for turn in moment.known.dialogue.turns() if turn.timestamp[:10] == moment.turn.timestamp[:10]]
    return {"summary": told((fact for turn in turns for fact in moment.known.stated(turn)), SHORT) or SMALL_TALK}


def portrait(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Tell all that is known of the speaker of the lines."""
    speaker = lines[0].partition(":")[0]
    own = [entry for entry in moment.known.after(moment.turn) if entry.speaker == speaker]
    return {"portrait": told(facts_of(own), SHORT) or f"{speaker} has told nothing yet."}


def state(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Tell all that is known."""
    return {"state": told(facts_of(moment.known.after(moment.turn)), LONG)}


def memory(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Tell what the section and those before it hold of the question's answer."""
    helping = moment.known.supporting(moment.question_of(lines), moment.last_of(lines))
    return {"memory": told(facts_of(helping), LONG)}


def summary(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Tell all that was known after the last of the flushed turns."""
    return {"summary": told(facts_of(moment.known.after(moment.last_of(lines))), LONG) or SMALL_TALK}


def function_calls(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Append to the core blocks what is new, replace there what has changed, and mark what was withdrawn."""
    known, turn, saved = moment.known, moment.turn, moment.written_in(lines)
    new: dict[str, list[str]] = {}
    replaced = []
    for entry in known.after(turn):
        *earlier, text = (f"{version}." for version in known.versions(entry, turn))
        old = next((version for version in reversed(earlier) if version in saved), None)
        if text in saved:
            continue
        if old is not None:
            replaced.append((entry.speaker, old, text))
        elif moment.heard(entry.source_turn_ids[-1:], lines):
            new.setdefault(entry.speaker, []).append(text)
    for entry in known.withdrawn(turn):
        old, text = f"{entry.text}.", f"No longer: {entry.text}."
        if old in saved and text not in saved:
            replaced.append((entry.speaker, old, text))
    calls = [{"function": APPEND, "block": block, "text": " ".join(texts)} for block, texts in new.items()]
    calls += [{"function": REPLACE, "block": block, "old": old, "text": text} for block, old, text in replaced]
    while len(calls) > MOST_CALLS or len(json.dumps(calls)) > LONG:
        calls.pop()  # what stays unsaved comes up again while it is in view, and then goes into the summary
    return {"calls": calls}


def paging(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Search the conversation for the question, once.

    It is searched even if the context seems to hold the answer, which costs little and, on longer dialogues, is safer.
    """
    searched = any(line.startswith(CONVERSATION) for line in lines)
    query = moment.question_of(lines).question
    return {"calls": [] if searched else [{"function": CONVERSATION, "query": query}]}


def insights(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Edit what the session changed, remove what it ended, agree with what it repeated, and add its new facts."""
    known, turn = moment.known, moment.turn
    shown = {text: number for number, _, text in (line.partition(". ") for line in lines[lines.index(HEADER) + 1 :])}
    session = [said for said in known.dialogue.turns() if said.session_id == turn.session_id]
    again = {entry.entry_id for said in session for entry in known.repeated(said)}
    edits, added, agreed = [], [], []
    for entry in known.after(turn):
        *earlier, text = known.versions(entry, turn)
        old = next((version for version in reversed(earlier) if version in shown), None)
        if text in shown:
            agreed += [{"operation": AGREE, "insight": shown[text]}] if entry.entry_id in again else []
        elif old is not None and moment.heard(entry.source_turn_ids[-1:], lines):
            edits.append({"operation": EDIT, "insight": shown[old], "text": text})
        elif moment.heard(entry.source_turn_ids, lines):
            added.append({"operation": ADD, "text": text})
    ended = [entry.text for said in session for entry in known.ended(said)]
    removed = [{"operation": REMOVE, "insight": shown[text]} for text in ended if text in shown]
    operations = [*edits, *removed, *agreed, *added][:MAX_OPERATIONS]
    while len(json.dumps(operations)) > LONGER:
        operations.pop()
    return {"operations": operations}


GOLD: Mapping[str, Gold] = {
    FACTS.name: facts,
    DAY_SUMMARY.name: day_summary,
    PORTRAIT.name: portrait,
    STATE.name: state,
    MEMORY.name: memory,
    FUNCTION_CALLS.name: function_calls,
    PAGING.name: paging,
    SUMMARY.name: summary,
    INSIGHTS.name: insights,
}
"""The tasks that a writer learns. To add one, write its gold, give it a line here, and its system one in `PLAYED`."""
PLAYED: tuple[tuple[str, Mapping[str, int | float | str]], ...] = (
    ("profile", {}),
    ("memorybank", {}),
    ("mem1", {}),
    ("memagent", {"section_tokens": 150}),
    ("memagent", {}),
    ("memgpt", {"context_tokens": 300}),
    ("hierarchical-graph", {}),
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


class Teacher(Writer):
    """Writes the gold, and keeps a row of every prompt."""

    def __init__(self, moment: Moment) -> None:
        super().__init__()
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
