"""Sentences of the generator as edges and triples, from the person to the value and in their own words if possible."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from data.synthetic.values import VALUES
from data.synthetic.wording import phrases, with_article
from memory_r1.errors import ConfigurationError
from memory_r1.types import Edge, OperationKind

ATTRIBUTES = {
    value: (attribute, split)
    for attribute, splits in VALUES.items()
    if attribute != "date"
    for split, values in splits.items()
    for value in values
}
"""The attribute and the split of each value."""
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
_DATE = re.compile(r",? (?:on )?(\d{1,2} [A-Z][a-z]+)$")
_NOUNS = (
    "class|workshops|tuition|club|society|subscription|lessons|vocabulary|evening|concert|recital|exam|test|finals|"
    "assessment|consultation"
)
_HAS_LEFT = {
    "class": "no longer takes",
    "club": "is no longer in",
    "magazine": "no longer gets",
    "charity": "no longer helps",
    "wish": "no longer wants",
}
"""What is said of someone who withdraws a member of a set, since turns say it in many ways."""
_REWORDED = {
    "{v} hired {n}": "was hired by",
    "{v} pays {n}'s salary": "is paid by",
    "nothing beats {v} for {n}": "thinks nothing beats",
    "the best film {n} knows is {v}": "'s best film is",
    "{v} is {n}'s favourite film": "'s favourite film is",
    "{n} thinks {v} is better": "prefers",
    "{v} is {n}'s sister": "'s sister is",
    "a friend got {n} into {v}": "got into",
    "the phone {n} ordered is {v}": "ordered the phone,",
    "{v} club let {n} in": "was let into",
    "{v} took {n} on as a volunteer": "was taken on as a volunteer by",
    "{n} has an allergy: no {v}": "has an allergy to",
    "doctors banned {n} from eating {v}": "is banned from eating",
    "a coach drills {n} in {v}": "is drilled in",
    "{v} society welcomed {n}": "was welcomed by",
    "{v} expects {n}": "is expected by",
    "{n} asked {v} for a slot": "asked for a slot with",
    "{n} put {v} on the shopping list": "put on the shopping list",
    "{n} added {v} to the wish list": "added to the wish list",
    "{n} rates {v} above all movies": "rates above all movies",
}
"""Relations of the sentences that do not end with the value, or not begin with the person; keys lack its article."""


def any_of(values: Iterable[str], after: str = "") -> re.Pattern[str]:
    """Return a pattern of the values as whole words, longer ones first; `after` is a pattern of what may follow."""
    return re.compile(r"\b(" + "|".join(sorted(map(re.escape, values), key=len, reverse=True)) + rf"){after}\b")


_VALUE = any_of(ATTRIBUTES)
_THING = any_of(ATTRIBUTES, rf"(?: (?:{_NOUNS}))?")


@dataclass(frozen=True, slots=True)
class Told:
    """A fact that a turn tells, as a triple.

    Attributes:
        subject: The person, or a pet: "Kim's poodle".
        relation: What leads from one to the other.
        object: The value, without its article.
        time: The ISO 8601 day of a dated fact; empty for others, and if the day of the turn is unknown.
        entry_id: The gold entry that it is about.
        kind: UPDATE or DELETE if what was told of the entry before is over, NOOP if it is said again, ADD otherwise.
    """

    subject: str
    relation: str
    object: str
    time: str
    entry_id: int
    kind: OperationKind


def edge_of(text: str, speaker: str) -> Edge:
    """Cut an entry of the generator into an edge, from its speaker, or a pet by its name, to the value.

    Words after the value are left out, unless they name it ("the chess club"). The time is the day as it was said: a
    manager can copy it, and questions ask for it.

    Raises:
        ConfigurationError: The text is no sentence of the generator.
    """
    dated = _DATE.search(text)
    bare = text[: dated.start()] if dated else text
    found = [*_THING.finditer(bare)]
    if not found:
        raise ConfigurationError(
            f"gold operation {text!r} is no sentence of the generator, so it has no edge or triple; use dataset: "
            "synthetic or synthetic-aliases, or (for a manager) banks: manager"
        )
    last = found[-1]
    value, after = last[1], bare[last.end() :]
    before = re.sub(r"\b(?:an?|the) $", "", bare[: last.start()], flags=re.IGNORECASE)
    thing = bare[len(before) : last.start()].lower() + last[0]
    plain = re.sub(rf"\b{re.escape(speaker)}\b", "{n}", f"{before}{{v}}{bare[last.end(1) :]}")
    subject, _, relation = before.strip().partition(" ")
    if reworded := _REWORDED.get(plain[:1].lower() + plain[1:]):
        subject, relation = speaker, reworded
    elif ATTRIBUTES[value][0] == "pet_name":  # what is named is told of itself: "Kim's poodle"
        subject, _, relation = before.strip().partition(" is ")
        relation = f"is {relation}"
    elif subject.endswith("'s"):
        subject = subject.removesuffix("'s")
        if not after:
            relation = f"'s {relation.replace(':', ' is')}"
        elif relation:
            relation = f"has {with_article(relation)}"
        else:
            relation, thing = "has", with_article(last[0])
    return Edge(subject, relation, thing, dated[1] if dated else "")


def told_of(text: str, speaker: str, today: str, entry_id: int, kind: OperationKind) -> Told:
    """Return the triple of an entry: its edge without article and possessive, at the day that its time means.

    Args:
        text: The entry, as it can be told from the turn alone.
        speaker: Whose turn it is.
        today: The time of the turn (ISO 8601), or empty.
        entry_id: Its id.
        kind: As in `Told`.

    Raises:
        ConfigurationError: The text is no sentence of the generator.
    """
    edge = edge_of(text, speaker)
    relation = edge.relation.removeprefix("'s ").rstrip(",")
    thing = re.sub("^(?:an?|the) ", "", edge.object)
    time = _next(edge.time, today) if edge.time else ""
    return Told(edge.subject, relation, thing, time, entry_id, kind)


def withdrawn(text: str, said: str, speaker: str, entry_id: int) -> Told:
    """Return what is told by a turn, of the text `said`, that withdraws an entry: that it no longer holds."""
    value = _VALUE.findall(text)[-1]
    thing = next((found[0] for found in _THING.finditer(said) if found[1] == value), value)
    return Told(speaker, _HAS_LEFT[ATTRIBUTES[value][0]], thing, "", entry_id, OperationKind.DELETE)


def in_words_of(said: str, text: str, speaker: str) -> str:
    """Return the entry for a value that a turn, of the text `said`, repeats in other words than `text` has."""
    value = _VALUE.findall(text)[-1]
    attribute, split = ATTRIBUTES[value]
    words = {"n": speaker, "v": value, "av": with_article(value)}
    # Without its first letter, which is small behind "As I said,".
    again = (phrase for phrase in phrases(split)[attribute]["s"] if phrase.turn.format(**words)[1:] in said)
    return next((phrase.entry.format(**words) for phrase in again), text)


def values_in(text: str) -> set[str]:
    """Return the generator's values that a text names."""
    return {*_VALUE.findall(text)}


def animals(entries: Iterable[str]) -> dict[str, str]:
    """Return the animal of each pet's name."""
    found = [{ATTRIBUTES[value][0]: value for value in values_in(text)} for text in entries]
    return {values["pet_name"]: values["pet"] for values in found if {"pet_name", "pet"} <= values.keys()}


def _next(day: str, today: str) -> str:
    """Return the next such day ("9 June") from today on, as ISO 8601; empty if today is unknown."""
    if not today:
        return ""
    now = date.fromisoformat(today[:10])
    number, month = day.split()
    coming = (date(now.year + later, 1 + _MONTHS.index(month[:3]) // 3, int(number)) for later in (0, 1))
    return next(found for found in coming if found >= now).isoformat()
