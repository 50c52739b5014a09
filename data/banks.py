"""Memory banks along a dialogue: their entries before each turn, from gold operations or noted observations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from memory_r1.errors import DataError, StoreError
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.record import Event
from memory_r1.metrics import holds_answer
from memory_r1.types import Dialogue, MemoryEntry, Operation, OperationKind, Question

Entries = tuple[MemoryEntry, ...]
GoldOperations = Mapping[str, Sequence[Operation]]
"""Turn id to the turn's gold operations, with the ids that a `MemoryBank` assigns if all are played from empty."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A noted fact, the speaker it is about, and its source turns in dialogue order."""

    speaker: str
    text: str
    turn_ids: tuple[str, ...]


class Banks(Mapping[str, Entries]):
    """Turn id to the entries before that turn.

    Attributes:
        final: The entries after the last turn.
        events: Turn id to what the turn changed; empty if that is unknown.
    """

    def __init__(
        self, before: Mapping[str, Entries], final: Entries, events: Mapping[str, Sequence[Event]] | None = None
    ) -> None:
        self._before = dict(before)
        self.final = final
        self.events = dict(events or {})

    def __getitem__(self, turn_id: str) -> Entries:
        return self._before[turn_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._before)

    def __len__(self) -> int:
        return len(self._before)


def gold_banks(dialogue: Dialogue, gold: GoldOperations) -> Banks:
    """Play the gold operations in order from an empty bank.

    Raises:
        DataError: `gold` names a turn the dialogue lacks, or an entry the bank lacks at that point.
    """
    refuse_unknown_turns(dialogue, gold, "gold operations")
    bank = MemoryBank()
    before: dict[str, Entries] = {}
    events: dict[str, list[Event]] = {}
    for turn in dialogue.turns():
        before[turn.turn_id] = bank.entries()
        events[turn.turn_id] = []
        for operation in gold.get(turn.turn_id, ()):
            try:
                event = bank.event(operation, turn)
            except StoreError as error:
                where = f"operations of turn {turn.turn_id} of dialogue {dialogue.dialogue_id}"
                raise DataError(f"{where}: {error}") from error
            bank.play(event)
            events[turn.turn_id].append(event)
    return Banks(before, bank.entries(), events)


def turn_banks(dialogue: Dialogue) -> Banks:
    """Return the banks of a manager that stores every turn as it was said, one entry each, as `rag` does."""
    gold = {turn.turn_id: [Operation(OperationKind.ADD, turn.text)] for turn in dialogue.turns()}
    return gold_banks(dialogue, gold)


def observation_banks(dialogue: Dialogue, observations: Iterable[Observation]) -> Banks:
    """Add one entry per observation, after the last of its turns; nothing is revised.

    Observations without turns cannot be placed and are left out.
    """
    position = {turn.turn_id: index for index, turn in enumerate(dialogue.turns())}
    turns = dialogue.turns()
    placed = []
    for observation in observations:
        refuse_unknown_turns(dialogue, observation.turn_ids, "an observation")
        if observation.turn_ids:
            placed.append((max(position[turn_id] for turn_id in observation.turn_ids), observation))
    placed.sort(key=lambda pair: pair[0])
    entries = [
        (last, MemoryEntry(entry_id, noted.text, noted.speaker, turns[last].timestamp, noted.turn_ids))
        for entry_id, (last, noted) in enumerate(placed, start=1)
    ]

    def bank_at(index: int) -> Entries:
        return tuple(entry for last, entry in entries if last < index)

    before = {turn.turn_id: bank_at(index) for index, turn in enumerate(turns)}
    return Banks(before, bank_at(len(turns)))


def with_inferred_evidence(dialogue: Dialogue, banks: Banks) -> Dialogue:
    """Return the dialogue with a turn of evidence for every question that has none and whose answer reaches the bank.

    It is the first turn after which a live entry holds the answer word by word, so that plain question-answer pairs,
    such as users' logs have, can train a manager. A question whose answer never stands in the bank is left as it is.
    """
    turn_ids = [turn.turn_id for turn in dialogue.turns()]
    after = [*(banks[turn_id] for turn_id in turn_ids[1:]), banks.final]

    def inferred(question: Question) -> Question:
        if question.evidence:
            return question
        held = (
            turn_id
            for turn_id, entries in zip(turn_ids, after, strict=True)
            if any(holds_answer(entry.text, question.answer) for entry in entries)
        )
        found = next(held, None)
        return question if found is None else replace(question, evidence=(found,))

    return replace(dialogue, questions=tuple(inferred(question) for question in dialogue.questions))


def refuse_unknown_turns(dialogue: Dialogue, turn_ids: Iterable[str], what: str) -> None:
    """Raise DataError if one of `turn_ids` is not a turn of the dialogue; `what` describes them in the error."""
    known = {turn.turn_id for turn in dialogue.turns()}
    unknown = [turn_id for turn_id in turn_ids if turn_id not in known]
    if unknown:
        raise DataError(f"{what}: found turn {unknown[0]}, allowed: the turns of dialogue {dialogue.dialogue_id}")
