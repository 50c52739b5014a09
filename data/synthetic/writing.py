"""What a writer should write about a generated dialogue: texts of its facts, as its gold operations have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from data.banks import Entries, GoldOperations, gold_banks
from data.synthetic.plan import DATED, SINGLES
from data.synthetic.triples import Told, animals, any_of, in_words_of, told_of, values_in, withdrawn
from data.synthetic.values import VALUES
from data.synthetic.wording import phrases
from memory_r1.types import Dialogue, MemoryEntry, Operation, OperationKind, Question, Turn

Fact = tuple[str, str]
"""Whose a fact is, and its text."""

_DATE = re.compile(r"\b\d{1,2} [A-Z][a-z]+\b")
_REFINED = {
    value: (attribute, split)
    for attribute in (*DATED, "pet")
    for split, values in VALUES[attribute].items()
    for value in values
}

_VALUE = any_of(_REFINED)
_STATED = any_of({value for attribute in SINGLES for values in VALUES[attribute].values() for value in values})


class Known:
    """What is known after each turn of one dialogue.

    Args:
        dialogue: A generated dialogue.
        gold: Its gold operations by turn id.

    Raises:
        DataError: They do not fit the dialogue.
    """

    def __init__(self, dialogue: Dialogue, gold: GoldOperations) -> None:
        self.dialogue = dialogue
        self._gold = gold
        self._before = gold_banks(dialogue, gold)
        ids = [turn.turn_id for turn in dialogue.turns()]
        self._after = dict(zip(ids, [*(self._before[later] for later in ids[1:]), self._before.final], strict=True))
        self._animals = animals([entry.text for entry in self._before.final])

    def after(self, turn: Turn) -> Entries:
        """Return the facts that hold after a turn."""
        return self._after[turn.turn_id]

    def stated(self, turn: Turn) -> list[Fact]:
        """Return the facts that a turn states, each as it can be told from the turn alone."""
        before = {entry.entry_id: entry.text for entry in self._before[turn.turn_id]}
        written = (operation for operation in self._gold.get(turn.turn_id, ()) if operation.text is not None)
        return [(turn.speaker, _alone(operation, before, turn.speaker)) for operation in written]

    def withdrawn(self, turn: Turn) -> list[MemoryEntry]:
        """Return the facts that had been withdrawn by the end of a turn, as they last stood."""
        ends = self.dialogue.turns()[: self.dialogue.turns().index(turn) + 1]
        return [entry for end in ends for entry in self.ended(end)]

    def ended(self, turn: Turn) -> list[MemoryEntry]:
        """Return the facts that a turn withdraws, as they last stood."""
        gone = {op.entry_id for op in self._gold.get(turn.turn_id, ()) if op.kind is OperationKind.DELETE}
        return [entry for entry in self._before[turn.turn_id] if entry.entry_id in gone]

    def repeated(self, turn: Turn) -> list[MemoryEntry]:
        """Return the facts about its speaker that a turn states again: it names their value and changes nothing."""
        if any(operation.kind is not OperationKind.NOOP for operation in self._gold.get(turn.turn_id, ())):
            return []
        named = {*_STATED.findall(turn.text)}
        own = [entry for entry in self.after(turn) if entry.speaker == turn.speaker]
        return [entry for entry in own if not named.isdisjoint(_STATED.findall(entry.text))]

    def triples(self, turn: Turn) -> list[Told]:
        """Return the facts that a turn tells, as triples: new, changed, withdrawn, or said again.

        Raises:
            ConfigurationError: The dialogue is not the generator's.
        """
        speaker, today, told = turn.speaker, turn.timestamp, []
        before = {entry.entry_id: entry.text for entry in self._before[turn.turn_id]}
        added = (entry.entry_id for entry in self.after(turn) if entry.entry_id not in before)
        for operation in self._gold.get(turn.turn_id, ()):
            kind, item = operation.kind, operation.entry_id or 0
            if kind is OperationKind.DELETE:
                told.append(withdrawn(before[item], turn.text, speaker, item))
            elif operation.text is not None:
                adds = kind is OperationKind.ADD or operation.text.startswith(before[item])  # "... called Momo"
                item = item or next(added)
                kind = OperationKind.ADD if adds else kind
                told.append(told_of(_alone(operation, before, speaker), speaker, today, item, kind))
        for entry in self.repeated(turn):
            text = in_words_of(turn.text, entry.text, speaker)
            told.append(told_of(text, speaker, today, entry.entry_id, OperationKind.NOOP))
        return told

    def meant(self, name: str) -> set[str]:
        """Return what a name of a triple means: its values, an animal for that of its pet, or else the name itself."""
        return {self._animals.get(value, value) for value in values_in(name)} or {name}

    def versions(self, entry: MemoryEntry, turn: Turn) -> list[str]:
        """Return the texts that an entry had until a turn, oldest first and with its text after that turn."""
        ends = self.dialogue.turns()[: self.dialogue.turns().index(turn) + 1]
        texts = (held.text for end in ends for held in self.after(end) if held.entry_id == entry.entry_id)
        return list(dict.fromkeys(texts))

    def supporting(self, question: Question, turn: Turn) -> list[MemoryEntry]:
        """Return the entries after a turn that answer a question at the end, or that will once they are changed."""
        ids = {
            entry.entry_id for entry in self._before.final if not {*entry.source_turn_ids}.isdisjoint(question.evidence)
        }
        return [entry for entry in self.after(turn) if entry.entry_id in ids]


def told(facts: Iterable[Fact], longest: int) -> str:
    """Return the newest facts that fit into `longest` characters, a sentence per person; empty without facts."""
    kept = list(dict.fromkeys(facts))
    while len(text := _sentences(kept)) > longest:
        kept = kept[1:]
    return text


def facts_of(entries: Sequence[MemoryEntry]) -> list[Fact]:
    """Return entries as facts."""
    return [(entry.speaker, entry.text) for entry in entries]


def clause(fact: Fact) -> str:
    """Return a fact without the name at its start, as it follows another fact about the same person."""
    speaker, text = fact
    return text.removeprefix(f"{speaker} ")


def _sentences(facts: Sequence[Fact]) -> str:
    people = dict.fromkeys(speaker for speaker, _ in facts)
    by_person = [[fact for fact in facts if fact[0] == person] for person in people]
    return " ".join("; ".join([own[0][1], *map(clause, own[1:])]) + "." for own in by_person)


def _alone(operation: Operation, before: dict[int, str], speaker: str) -> str:
    """Return the text of an ADD or UPDATE, without the words of the entry before that the turn does not repeat.

    A new date, or a pet's name, is added to what was said in an earlier session.
    """
    new, old = operation.text or "", before.get(operation.entry_id or 0, "")
    value = next((found for found in _VALUE.findall(new) if found in _VALUE.findall(old)), None)
    if value is None:
        return new
    attribute, split = _REFINED[value]
    if attribute == "pet":
        return f"{speaker}'s {value} is{new.removeprefix(old)}"
    date = _DATE.findall(new)[-1]
    text = phrases(split)[attribute]["s"][0].entry.format(n=speaker, v=value, d=date)
    return text[:1].upper() + text[1:]
