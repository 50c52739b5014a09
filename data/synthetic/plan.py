"""The plot of a synthetic dialogue, before any wording: its facts, and the turns that state and change them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from data.synthetic.phrase_files import TRAIN
from data.synthetic.values import VALUES
from memory_r1.errors import ConfigurationError

SETS = ("class", "club", "magazine", "charity", "wish")
"""Attributes that may have several values at a time."""

DATED = ("trip", "appointment", "concert", "exam")
"""Attributes whose facts have a value and a date."""

UNCHANGING = ("sister",)
SINGLES = tuple(name for name in TRAIN if name not in (*SETS, *DATED, "pet", "den"))
"""Attributes with one value at a time."""


@dataclass(frozen=True, slots=True)
class DialogueShape:
    """Size of a dialogue.

    `facts` counts separately stated facts (one ADD each), at least 3 * `recalled`, the total number of memories
    recalled. At least a share `min_idle` of the turns answers no question.

    With `aliases`, both speakers have a pet, and a later session tells of it by name alone; these facts come on top.
    With `two_hop`, only questions are asked whose answer takes two facts.
    """

    sessions: int = 3
    turns: int = 20
    facts: int = 13
    questions: int = 12
    recalled: int = 4
    min_idle: float = 0.3
    aliases: bool = False
    two_hop: bool = False

    def check(self) -> None:
        """Raise ConfigurationError if no dialogue can have this shape."""
        if self.facts < 3 * self.recalled:
            raise ConfigurationError(
                f"facts={self.facts} with recalled={self.recalled}: a dialogue must hold at least 3 * recalled = "
                f"{3 * self.recalled} facts, or recall returns everything; raise facts or lower recalled"
            )
        if self.sessions < 2:
            raise ConfigurationError(f"sessions={self.sessions}: at least 2, since facts change in a later session")
        if self.aliases and self.sessions < 3:
            raise ConfigurationError(
                f"sessions={self.sessions} with aliases: at least 3, since a pet is told of, named and told of by name"
            )
        if self.questions < 1 or self.turns < self.sessions:
            raise ConfigurationError(f"{self}: at least one question and one turn per session")


@dataclass(eq=False)
class Fact:
    """A fact that a speaker states, and its memory entry as the dialogue is written.

    `then` is the later event (c change, r refine, w withdraw, p repeat; empty: none), `new` the changed value or date,
    `kept_after` the other member of a set, which is withdrawn, and `of` the pet that a den is told of.
    """

    speaker: str
    attribute: str
    value: str
    date: str = ""
    pet_name: str = ""
    then: str = ""
    new: str = ""
    asked: bool = True
    kept_after: Fact | None = None
    of: Fact | None = None
    entry_id: int = 0
    text: str = ""
    turn_ids: list[str] = field(default_factory=list)

    @property
    def current(self) -> str:
        """The value at the end of the dialogue."""
        return self.new if self.then == "c" and self.attribute not in DATED else self.value

    @property
    def undated(self) -> bool:
        """Whether the fact is stated without its date, which the refinement adds."""
        return self.attribute in DATED and self.then == "r"


@dataclass(eq=False)
class Event:
    """An event in a fact's life: s (state), u (state without a date), or a kind of `Fact.then`."""

    kind: str
    fact: Fact
    session: int = 0


Group = tuple[Event, ...]
"""The events of one turn: none for small talk, two for facts stated together."""


class Planner:
    """Chooses the facts of one dialogue. No value is drawn twice."""

    def __init__(self, split: str, speakers: tuple[str, str], rng: random.Random) -> None:
        self._split, self._speakers, self._rng = split, speakers, rng
        self._drawn: dict[str, list[str]] = {}
        self._singles = self._shuffled(SINGLES)
        self._set_slots = [(name, s) for name in self._shuffled(SETS) for s in self._shuffled(speakers)]
        self._dated_slots = [(name, s) for name in self._shuffled(DATED) for s in self._shuffled(speakers)]
        self._pet_slots = self._shuffled(speakers)
        self._facts: list[Fact] = []

    def facts(self, count: int) -> list[Fact]:
        """Plan exactly `count` facts, in rounds of all kinds.

        Most single-valued attributes go to both speakers with different values, which are each other's distractors.

        Raises:
            ConfigurationError: `count` is more than one dialogue can hold.
        """
        changing = (self._pair, self._set) * 2
        units = (self._repeated, self._alone, *changing, self._dated, self._dated, self._pet)
        while len(self._facts) < count:
            before = len(self._facts)
            for unit in units:
                made = unit(count - len(self._facts))
                self._facts.extend(made)
            if len(self._facts) == before:
                raise ConfigurationError(f"facts={count} is more than one dialogue can hold; {before} is the most")
        return self._facts

    def told_by_name(self) -> list[Fact]:
        """Plan a pet for whoever has none yet, and where every pet sleeps."""
        made = [pet for _ in self._speakers for pet in self._pet(1)]
        pets = [fact for fact in (*self._facts, *made) if fact.attribute == "pet"]
        dens = [Fact(pet.speaker, "den", self._draw("den"), pet_name=pet.pet_name, of=pet) for pet in pets]
        return [*made, *dens]

    def _shuffled(self, items: Sequence[str]) -> list[str]:
        return self._rng.sample(items, len(items))

    def _draw(self, pool: str) -> str:
        """Draw a new value that shares no word with earlier ones, or at least none with the last, if possible."""
        drawn = self._drawn.setdefault(pool, [])
        fresh = [value for value in self._shuffled(VALUES[pool][self._split]) if value not in drawn]
        apart = [value for value in fresh if not _share_words(value, drawn)]
        drawn.append((apart or [value for value in fresh if not _share_words(value, drawn[-1:])] or fresh)[0])
        return drawn[-1]

    def _alone(self, room: int) -> list[Fact]:
        """Plan an attribute of one speaker; the same question about the other is unanswerable."""
        if not self._singles or not room:
            return []
        attribute = self._singles.pop()
        return [Fact(self._rng.choice(self._speakers), attribute, self._draw(attribute))]

    def _repeated(self, room: int) -> list[Fact]:
        """Plan a fact that is stated twice and never asked about."""
        made = self._alone(room)
        for fact in made:
            fact.asked, fact.then = False, "p"
        return made

    def _pair(self, room: int) -> list[Fact]:
        """Plan one attribute for both speakers; one of the values changes later."""
        if not self._singles or room < 2:
            return []
        attribute = self._singles.pop()
        first, second = self._shuffled(self._speakers)
        changing = Fact(first, attribute, self._draw(attribute))
        if attribute not in UNCHANGING:
            changing.then, changing.new = "c", self._draw(attribute)
        return [changing, Fact(second, attribute, self._draw(attribute))]

    def _set(self, room: int) -> list[Fact]:
        """Plan two members of a set; one is withdrawn later."""
        if not self._set_slots or room < 2:
            return []
        attribute, speaker = self._set_slots.pop(0)
        leaving = Fact(speaker, attribute, self._draw(attribute), then="w", asked=False)
        return [leaving, Fact(speaker, attribute, self._draw(attribute), kept_after=leaving)]

    def _dated(self, room: int) -> list[Fact]:
        """Plan a fact whose date stays or, for every other one, may also move or be told later."""
        if not self._dated_slots or not room:
            return []
        attribute, speaker = self._dated_slots.pop(0)
        fact = Fact(speaker, attribute, self._draw(attribute), self._draw("date"))
        if len(self._dated_slots) % 2:
            fact.then = self._rng.choice("cr")
        if fact.then == "c":  # dates are postponed, never brought forward
            both = (fact.date, self._draw("date"))
            fact.date, fact.new = sorted(both, key=VALUES["date"][self._split].index)
        return [fact]

    def _pet(self, room: int) -> list[Fact]:
        """Plan a pet whose name is told later."""
        if not self._pet_slots or not room:
            return []
        return [Fact(self._pet_slots.pop(), "pet", self._draw("pet"), pet_name=self._draw("pet_name"), then="r")]


def _share_words(value: str, others: Sequence[str]) -> bool:
    return any(set(value.lower().split()) & set(other.lower().split()) for other in others)


def schedule(
    facts: Sequence[Fact], speakers: tuple[str, str], shape: DialogueShape, rng: random.Random
) -> list[list[tuple[str, Group]]] | None:
    """Return each session's turns as (speaker, events); None if this draw does not fit the shape (draw again)."""
    events = _events(facts, shape.sessions, rng)
    small_talk = max(3, shape.turns // 8)
    groups = _merged(events, max(0, len(events) + small_talk - shape.turns), rng)
    if groups is None:
        return None
    sessions: list[list[Group]] = [[] for _ in range(shape.sessions)]
    for group in groups:
        sessions[group[0].session].append(group)
    for _ in range(shape.turns - len(groups)):
        min(sessions, key=lambda session: (len(session), rng.random())).append(())
    return [_alternating(session, speakers, rng) for session in sessions]


def _events(facts: Sequence[Fact], sessions: int, rng: random.Random) -> list[Event]:
    """Spread all events evenly over the sessions; a fact changes in a later session than the one that states it."""
    load = [0] * sessions
    stated: dict[Fact, int] = {}
    events: list[Event] = []

    def place(kind: str, fact: Fact, low: int, high: int) -> int:
        session = min(range(low, high), key=lambda s: (load[s], rng.random()))
        load[session] += 1
        events.append(Event(kind, fact, session))
        return session

    dens = [fact for fact in facts if fact.of]
    named = {fact.of for fact in dens}
    others = [fact for fact in facts if not fact.of]
    for fact in rng.sample(others, len(others)):
        more_to_come = bool(fact.then or fact.kept_after) + (fact in named)
        stated[fact] = place("u" if fact.undated else "s", fact, 0, sessions - more_to_come)
    # The withdrawal comes after both members of the set, so that it is the turn that settles the answer.
    both = {f.kept_after: max(stated[f], stated[f.kept_after]) for f in facts if f.kept_after}
    for fact in facts:
        if fact.then:
            then = place(fact.then, fact, both.get(fact, stated[fact]) + 1, sessions - (fact in named))
            for den in (den for den in dens if den.of is fact):
                place("s", den, then + 1, sessions)
    return events


def _merged(events: Sequence[Event], count: int, rng: random.Random) -> list[Group] | None:
    """Group events into turns, `count` of which join two statements of a speaker; None if there are too few pairs."""
    single = rng.sample(events, len(events))
    pairs: list[Group] = []
    for first in list(single):
        if len(pairs) == count:
            break
        partner = next((e for e in single if first in single and _fit_one_turn(first, e)), None)
        if partner is not None:
            pairs.append((first, partner))
            single = [event for event in single if event not in (first, partner)]
    return [*pairs, *((event,) for event in single)] if len(pairs) == count else None


def _fit_one_turn(first: Event, second: Event) -> bool:
    same_place = (first.session, first.fact.speaker) == (second.session, second.fact.speaker)
    both_state = first.kind in ("s", "u") and second.kind in ("s", "u")
    return same_place and both_state and first.fact.attribute != second.fact.attribute


def _alternating(groups: Sequence[Group], speakers: tuple[str, str], rng: random.Random) -> list[tuple[str, Group]]:
    """Order a session so that speakers alternate if possible; either may make small talk."""
    left = rng.sample(groups, len(groups))
    ordered: list[tuple[str, Group]] = []
    last = rng.choice(speakers)
    while left:
        other = speakers[last == speakers[0]]
        theirs = [group for group in left if group and group[0].fact.speaker == other]
        chosen = () if () in left and (not theirs or rng.random() < 0.3) else (theirs or left)[0]
        left.remove(chosen)
        last = chosen[0].fact.speaker if chosen else other
        ordered.append((last, chosen))
    return ordered
