"""MemoryBank: turns that fade unless recalled, summaries by day, and portraits (Zhong et al., AAAI 2024).

Recalls that strengthen an entry are those of the dialogue itself: each turn recalls what earlier sessions left, as the
original's chat does. A question's recall only reads, so an evaluation's order of questions changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import Embedder
from memory_r1.memory.record import RECALLED, SESSION_END, Event, Record
from memory_r1.systems.banked import Proposal, check_not_erased, reading_again
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.baselines import add_every_turn
from memory_r1.systems.embedded import EmbeddedSystem
from memory_r1.systems.memorybank_state import MemoryBankState
from memory_r1.systems.plain_tokens import spoken
from memory_r1.systems.rules import statements
from memory_r1.systems.state import ScopeState
from memory_r1.systems.writer import Writer, Writing, WritingTask, joined, lines_of, text_object, written_from
from memory_r1.types import MemoryEntry, OperationKind, Turn

LONGEST = 600
"""Characters of a summary or a portrait."""
DAY_SUMMARY = WritingTask(
    "day summary",
    "Summarise what was said, in at most three short sentences with names. Reply with JSON only: "
    '{"summary": "Kim adopted a goat."}.',
    text_object("summary", LONGEST),
    max_new_tokens=96,
)
PORTRAIT = WritingTask(
    "portrait",
    "Describe the person named in the last line, who said the other lines: character, tastes, work, people around "
    'them, in at most three short sentences. Reply with JSON only: {"portrait": "Kim is patient."}.',
    text_object("portrait", LONGEST),
    max_new_tokens=96,
)
FORGETTING = ("threshold", "seeded")
_BY_RULES = 4  # statements that the rules keep in a summary or a portrait


@dataclass(frozen=True, slots=True)
class _Derived:
    """A summary or a portrait: the key that marks it in the log, whose it is, its source turns, and its text."""

    key: dict[str, str]
    speaker: str
    sources: tuple[str, ...]
    text: str


class MemoryBankSystem(EmbeddedSystem):
    """Stores every turn, strengthens what turns recall, and summarises, portrays and forgets when a session ends.

    Args:
        embedder: Encodes turns, summaries and questions.
        writer: Writes summaries and portraits; by default the rules do.
        recall_per_speaker: Turns and summaries recalled for a question, per speaker.
        recalled_per_turn: Turns and summaries that a turn recalls, and so strengthens.
        forgetting: "threshold" forgets entries with a retention below `forget_below`; "seeded" forgets each with
            probability 1 - R, drawn from `seed`, scope, entry and time, so that order and batching change nothing.
        forget_below: By default, an entry of strength S lasts for 2.99 S days.
        seed: Seed of the draws.
        count_tokens: As in `BankedSystem`.
        states: As in `BankedSystem`.

    Raises:
        ConfigurationError: `forgetting` is unknown, `forget_below` not from 0 to 1, or `recalled_per_turn` below 0.
    """

    name = "memorybank"
    capabilities = frozenset({Capability.ENTRIES, Capability.EDITS})
    start: ClassVar[ScopeState] = MemoryBankState()

    def __init__(
        self,
        embedder: Embedder,
        writer: Writer | None = None,
        *,
        recall_per_speaker: int,
        recalled_per_turn: int = 6,
        forgetting: str = "threshold",
        forget_below: float = 0.05,
        seed: int = 0,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        if forgetting not in FORGETTING:
            raise ConfigurationError(f"forgetting is {forgetting!r}; allowed are {', '.join(FORGETTING)}")
        if not 0 <= forget_below <= 1:
            raise ConfigurationError(f"forget_below is {forget_below}: give a retention from 0 to 1")
        if recalled_per_turn < 0:
            raise ConfigurationError(
                f"recalled_per_turn is {recalled_per_turn}: give how many a turn recalls, at least 0"
            )
        super().__init__(embedder, count_tokens=count_tokens, states=states)
        self._writer = writer or Writer()
        self._recall_per_speaker = recall_per_speaker
        self._recalled_per_turn = recalled_per_turn
        self._forgetting = forgetting
        self._forget_below = forget_below
        self._seed = seed
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_WRITES}

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        rows = self.embed([spoken(turn) for turn, _ in turns])  # (B, E)
        proposals = []
        for added, row, (turn, held) in zip(add_every_turn(turns), rows, turns, strict=True):
            state = cast(MemoryBankState, held)
            earlier = [entry_id for entry_id in state.fading() if entry_id <= state.indexed]
            recalled = state.nearest(row, self._recalled_per_turn, earlier) if added.operations else []
            event = Event(RECALLED, payload={"items": sorted(recalled), "on": turn.timestamp[:10]})
            record = Record(events=(event,) if recalled else ())
            note, tensor = {0: self.encoder_note}, {0: self.event_tensor(row)}
            proposals.append(Proposal(added.operations, record, note, tensor))
        return proposals

    @reading_again
    def end_session(self, scope: str, now: str) -> None:
        state = self.state(scope)
        if state.ended:
            return
        said = [entry for entry in state.turns() if entry.entry_id > state.indexed]
        summaries, of_days = self._summarise(state, said, now)
        portraits, of_speakers = self._portray(state, said)
        derived = [new for new in (*summaries, *portraits) if new.text]
        rows = self.embed([new.text for new in derived])  # (M, E)
        cost = joined([*of_days, *of_speakers])

        def decide(held: ScopeState) -> Record:
            check_not_erased(state, held)
            events = [Event(SESSION_END, payload={"now": now})]
            for new, row in zip(derived, rows, strict=True):
                before = cast(MemoryBankState, held.after(Record(events=tuple(events[1:]))))
                events.append(replace(self._event(before, new, now), tensor=self.event_tensor(row)))
            after = cast(MemoryBankState, held.after(Record(events=tuple(events))))
            events += [Event(OperationKind.DELETE.value, item) for item in self._faded(scope, after, now)]
            return replace(cost, events=(*events, *cost.events))

        self._log.write([(scope, decide)])

    def _summarise(
        self, state: MemoryBankState, said: Sequence[MemoryEntry], now: str
    ) -> tuple[list[_Derived], list[Writing]]:
        """Write anew the summary of every day on which something was said in this session."""
        days = {(entry.timestamp or now)[:10]: None for entry in said}
        turns = [[entry for entry in state.turns() if (entry.timestamp or now)[:10] == day] for day in days]
        rules = [{"summary": _told(of_day, named=True)} for of_day in turns]
        written = self._writer.write(DAY_SUMMARY, [lines_of(of_day) for of_day in turns], rules)
        summaries = [
            _Derived({"day": day}, "", _sources(of_day), writing.value["summary"])
            for day, of_day, writing in zip(days, turns, written, strict=True)
        ]
        return summaries, written

    def _portray(self, state: MemoryBankState, said: Sequence[MemoryEntry]) -> tuple[list[_Derived], list[Writing]]:
        """Continue the portrait of everyone who spoke in this session."""
        speakers = list(dict.fromkeys(entry.speaker for entry in said))
        turns = [[entry for entry in said if entry.speaker == speaker] for speaker in speakers]
        earlier = [state.bank.find(state.portraits.get(speaker, 0)) for speaker in speakers]
        lines, rules = [], []
        for speaker, of_speaker, old in zip(speakers, turns, earlier, strict=True):
            known = f" Known before: {old.text}" if old else ""
            lines.append([*lines_of(of_speaker), f"Describe {speaker}.{known}"])
            rules.append({"portrait": _told([*([old] if old else []), *of_speaker])})
        written = self._writer.write(PORTRAIT, lines, rules)
        portraits = [
            _Derived(
                {"portrait": speaker},
                speaker,
                _sources([*([old] if old else []), *of_speaker]),
                writing.value["portrait"],
            )
            for speaker, of_speaker, old, writing in zip(speakers, turns, earlier, written, strict=True)
        ]
        return portraits, written

    def _event(self, state: MemoryBankState, new: _Derived, now: str) -> Event:
        """Return the event that adds a derived entry, or replaces the one it continues."""
        ((kind, name),) = new.key.items()
        held = (state.summaries if kind == "day" else state.portraits).get(name, 0)
        live = held in state.bank
        payload = {"text": new.text, "speaker": new.speaker, "timestamp": now, "turn_ids": list(new.sources)}
        operation = OperationKind.UPDATE if live else OperationKind.ADD
        item = held if live else state.bank.highest_id + 1
        return state.bank.shortened(Event(operation.value, item, {**payload, **new.key, **self.encoder_note}))

    def _faded(self, scope: str, state: MemoryBankState, now: str) -> list[int]:
        """Return the ids of the entries to forget at the end of a session."""

        def forgotten(entry_id: int) -> bool:
            retained = state.retention(entry_id, now)
            if self._forgetting == "threshold":
                return retained < self._forget_below
            return random.Random(f"{self._seed}/{scope}/{entry_id}/{now}").random() > retained

        return [entry_id for entry_id in state.fading() if forgotten(entry_id)]

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        queries = self.embed([request.query for request in requests])  # (B, E)
        ranked = []
        for request, query in zip(requests, queries, strict=True):
            state = self.state(request.scope)
            k = self._recall_per_speaker * max(1, len(state.speakers))
            portraits = [entry_id for entry_id in state.portraits.values() if entry_id in state.bank]
            found = state.nearest(query, k, state.fading())
            ranked.append(tuple(state.bank.get(entry_id) for entry_id in (*found, *sorted(portraits))))
        return ranked

    def _arrange(self, kept: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        """Put the entries in order of time, as the original merges what it finds."""
        return tuple(sorted(kept, key=lambda entry: (entry.timestamp, entry.entry_id)))

    def state(self, scope: str) -> MemoryBankState:
        """Return the state of a scope; a StoreError if another encoder wrote it."""
        return cast(MemoryBankState, self.embedded_state(scope))

    def _with_derived(self, records: Sequence[Record], ids: set[int]) -> set[int]:
        """Add the summaries and portraits that were written from the turns of the entries."""
        return written_from(records, ids, {"day", "portrait"})


def _sources(entries: Sequence[MemoryEntry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(turn_id for entry in entries for turn_id in entry.source_turn_ids))


def _told(entries: Sequence[MemoryEntry], *, named: bool = False) -> str:
    """Return the last statements in the entries, with their speakers if `named`: what rules make of them."""
    told = [f"{entry.speaker}: {said}" if named else said for entry in entries for said in statements(entry.text)]
    return " ".join(list(dict.fromkeys(told))[-_BY_RULES:])
