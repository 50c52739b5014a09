"""Gold of each writing task: what a writer should reply to a prompt, from what is known of a generated dialogue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.synthetic.triples import Told
from data.synthetic.writing import Known, facts_of, told
from memory_r1.systems.hipporag import FACT_FILTER
from memory_r1.systems.insights import ADD, AGREE, EDIT, HEADER, INSIGHTS, MAX_OPERATIONS, REMOVE
from memory_r1.systems.mem1 import STATE
from memory_r1.systems.memagent import MEMORY
from memory_r1.systems.memgpt import FUNCTION_CALLS, PAGING, SUMMARY
from memory_r1.systems.memgpt_context import APPEND, CONVERSATION, REPLACE
from memory_r1.systems.memorybank import DAY_SUMMARY, PORTRAIT
from memory_r1.systems.plain_tokens import spoken
from memory_r1.systems.profile import FACTS, MAX_FACTS
from memory_r1.systems.temporal_graph_facts import CONTRADICTIONS, ENTITY_MERGE, sentence
from memory_r1.systems.triples import MAX_TRIPLES, TRIPLES, Triple
from memory_r1.types import OperationKind, Question, Turn

SHORT, LONG, LONGER = 330, 500, 700
"""Characters that 96, 160 or 224 tokens hold, with some to spare for rare names."""
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

    def told(self) -> list[Told]:
        """Return the facts that were told up to the last turn, the last turn's last."""
        turns = self.known.dialogue.turns()
        return [fact for turn in turns[: turns.index(self.turn) + 1] for fact in self.known.triples(turn)]

    def _said(self) -> dict[str, Turn]:
        return {spoken(turn): turn for turn in self.known.dialogue.turns()}


def numbered(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return the numbers and texts of numbered lines, all but the last one."""
    parted = (line.partition(". ") for line in lines[:-1])
    return [(number, text) for number, _, text in parted]


def triple_of(fact: Told) -> Triple:
    """Return a fact as the systems write it."""
    return Triple(fact.subject, fact.relation, fact.object, fact.time)


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


def triples(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """List what the last turn tells: what is new, has changed, was withdrawn, or is said again."""
    return {"triples": [triple_of(fact).payload for fact in moment.known.triples(moment.turn)][:MAX_TRIPLES]}


def contradictions(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Say what the turn's fact repeats, and what it ends: all that was told before of what it changes or withdraws.

    A date or a name that comes later ends nothing, and is not the same.
    """
    facts = {sentence(triple_of(fact)): fact for fact in moment.told()}
    new = facts[lines[-1].removeprefix("New: ")]
    about = [number for number, text in numbered(lines) if facts[text].entry_id == new.entry_id]
    ends = new.kind in (OperationKind.UPDATE, OperationKind.DELETE)
    return {"same": about if new.kind is OperationKind.NOOP else [], "ended": about if ends else []}


def entity_merge(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Choose the first name that means the same value, or the same pet: "Kim's poodle", "poodle" and its own name."""
    means = [(number, moment.known.meant(text.partition(" (")[0])) for number, text in numbered(lines)]
    new = moment.known.meant(lines[-1].removeprefix("New: ").partition(" (")[0])
    return {"same": [number for number, meant in means if meant == new][:1]}


def fact_filter(moment: Moment, lines: Sequence[str]) -> dict[str, Any]:
    """Choose the facts that the question's evidence tells of its answer, or of what it names."""
    question = moment.question_of(lines)
    asked = {*moment.known.meant(question.question), *moment.known.meant(question.answer)}
    helping = {
        triple_of(fact).text
        for turn in moment.known.dialogue.turns()
        for fact in moment.known.triples(turn)
        if turn.turn_id in question.evidence
        and (fact.kind is OperationKind.DELETE or not asked.isdisjoint(moment.known.meant(fact.object)))
    }
    return {"numbers": [number for number, text in numbered(lines) if text in helping]}


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
    TRIPLES.name: triples,
    FACT_FILTER.name: fact_filter,
    ENTITY_MERGE.name: entity_merge,
    CONTRADICTIONS.name: contradictions,
}
"""The tasks that a writer learns."""
