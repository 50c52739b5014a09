"""Probes for a judge audit: answers of known correctness, made by rule from questions and golds.

`gold` is the gold itself, and `reworded` says it in other words: a judge should accept both. `vague_wrong` names the
question's topic and then another question's gold: a judge should reject it, but a generous one often accepts it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache

from memory_r1.evaluation.judging.rubrics import PREFERENCE, JudgedAnswer
from memory_r1.metrics import normalize_answer

PROBES: Mapping[str, bool] = {"gold": True, "reworded": True, "vague_wrong": False}
"""Kinds of probes, and whether a good judge accepts them."""
TOPIC_WORDS = 6

_FRAMES = ("From what was said back then, it is this: {}.", "As far as I remember: {}.", "I would say: {}.")
_VAGUE = "That had to do with {topic}, as we talked about; if I am right, it was {other}."
_NUMBERS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty",
)
_MONTHS = re.findall(r"\w+", "January February March April May June July August September October November December")
_MONTH = "|".join(_MONTHS)
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}}) ({_MONTH}),? (\d{{4}})\b", re.IGNORECASE)
_MONTH_FIRST = re.compile(rf"\b({_MONTH}) (\d{{1,2}}),? (\d{{4}})\b", re.IGNORECASE)
_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
# A count such as in "8 days", not part of a time, price or name ("7:30", "$8", "iPhone 13 Pro").
_DIGITS = re.compile(r"(?:^|(?<=[a-z] ))(\d{1,2})(?=$|[.;]?$| [a-z])")
_WORDS = re.compile(rf"\b({'|'.join(_NUMBERS)})\b(?=$| [a-z])", re.IGNORECASE)
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about after against all also am an and any are as at be been before between but by can could did do does "
        "doing during for from had has have he her hers him his how i if in into is it its like m many me much my of "
        "on or our re s she should so some than that the their them then there these they this those to ve was we "
        "were what when where which while who whom whose why will with would you your",
    )
)


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer to a question, of one of the kinds in `PROBES`."""

    kind: str
    answer: JudgedAnswer


def make_probes(answers: Sequence[JudgedAnswer]) -> list[Probe]:
    """Make the probes of each question, in order, ignoring predictions.

    A question gets no `vague_wrong` probe if every other gold of its category shares a word with its own and so might
    be right. Questions without a gold, or whose gold only describes a good answer, get no probes.
    """
    usable = [item for item in answers if item.category != PREFERENCE and item.gold.strip() and item.question.strip()]
    by_category: dict[str, list[JudgedAnswer]] = {}
    for item in usable:
        by_category.setdefault(item.category, []).append(item)
    probes = []
    for item in usable:
        probes.append(Probe("gold", replace(item, prediction=item.gold)))
        probes.append(Probe("reworded", replace(item, prediction=reword(item.gold, item.key))))
        wrong = vague_wrong(item, by_category[item.category])
        if wrong is not None:
            probes.append(Probe("vague_wrong", replace(item, prediction=wrong)))
    return probes


def reword(gold: str, key: str = "") -> str:
    """Put the gold into a sentence, with dates in another format and numbers as words (or words as numbers).

    `key` selects the sentence, so that an audit does not depend on one phrase.
    """
    text = _other_dates(gold.strip())
    if not re.search(_MONTH, text, re.IGNORECASE):  # a day of the month is not a count
        text = _DIGITS.sub(_as_word, text) if _DIGITS.search(text) else _WORDS.sub(_as_digits, text)
    return _FRAMES[_draw(key) % len(_FRAMES)].format(text.rstrip("."))


def vague_wrong(item: JudgedAnswer, others: Sequence[JudgedAnswer]) -> str | None:
    """Make an answer on the topic of `item` that names another question's gold; None if none is surely wrong.

    Questions that begin with the same words are preferred, since their golds are of the same kind (a time, a number).
    """
    own = _content(f"{item.gold} {item.question}")
    wrong = [
        other
        for other in others
        if other.key != item.key and not other.unanswerable and _content(other.gold) and not own & _content(other.gold)
    ]
    if not wrong:
        return None
    for words in (2, 1, 0):
        alike = [other for other in wrong if _start(other.question, words) == _start(item.question, words)]
        if alike:
            break
    other = alike[_draw(item.key) % len(alike)]
    return _VAGUE.format(topic=topic(item.question), other=other.gold.strip().rstrip("."))


def topic(question: str) -> str:
    """Return the first content words of a question, in order, or the question itself if it has none."""
    words = [word for word in re.findall(r"[^\W_][\w-]*(?:'s)?", question) if word.lower() not in _STOP_WORDS]
    return " ".join(words[:TOPIC_WORDS]) or question.strip().rstrip("?")


def by_draw(keys: Iterable[str]) -> list[str]:
    """Return the keys in a reproducible pseudo-random order."""
    return sorted(keys, key=lambda key: (_draw(key), key))


@lru_cache(maxsize=8192)
def _content(text: str) -> frozenset[str]:
    """Return the content words, with numbers as digits, so that "3" and "three" are equal."""
    words = frozenset(normalize_answer(text).split()) - _STOP_WORDS
    return frozenset(str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in words)


def _start(question: str, words: int) -> list[str]:
    return question.lower().split()[:words]


def _draw(key: str) -> int:
    """Return a pseudo-random number that depends only on the key."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", errors="replace")).digest()[:4], "big")


def _other_dates(text: str) -> str:
    """Render `7 May 2023` and `2023-05-07` as `May 7, 2023`, and `May 7, 2023` as `7 May 2023`."""
    if _DAY_FIRST.search(text):
        return _DAY_FIRST.sub(r"\2 \1, \3", text)
    if _MONTH_FIRST.search(text):
        return _MONTH_FIRST.sub(r"\2 \1 \3", text)
    return _ISO.sub(_spelled_out, text)


def _spelled_out(match: re.Match[str]) -> str:
    try:
        day = date.fromisoformat(match[0])
    except ValueError:  # not a real date
        return match[0]
    return f"{_MONTHS[day.month - 1]} {day.day}, {day.year}"


def _as_word(match: re.Match[str]) -> str:
    return _NUMBERS[int(match[1])] if int(match[1]) < len(_NUMBERS) else match[1]


def _as_digits(match: re.Match[str]) -> str:
    return str(_NUMBERS.index(match[1].lower()))
