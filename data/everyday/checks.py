"""What is checked of the everyday chats, chat by chat and across splits.

A chat passes if its evidence turns hold each answer (or name its date), its gold operations can be played and leave a
bank that answers every question, and its weekdays fit their dates. Across splits no person, place, other name or answer
recurs. What can be answered without memory is measured by `data/floors.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime

from data.banks import gold_banks
from data.everyday.relative_dates import MONTHS, WEEKDAYS, named_dates, written
from data.labelled import LabelledDialogue
from memory_r1.errors import DataError
from memory_r1.metrics import normalize_answer
from memory_r1.types import Dialogue, MemoryEntry, OperationKind, Question, Turn

CATEGORIES = {"recall": 2, "update": 2, "deletion": 1, "temporal": 2, "multi-hop": 1, "unanswerable": 1}
"""Least number of questions per category and chat."""
UNKNOWN = "unknown"
_RELATIVE = re.compile(
    rf"\b(tomorrow|yesterday|tonight|today|ago|(?:next|last) (?:week|night|month)|next (?:{'|'.join(WEEKDAYS)}))\b",
    re.IGNORECASE,
)
_WEEKDAY_AND_DATE = re.compile(
    rf"\b({'|'.join(WEEKDAYS)}),?(?: the)? (\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({'|'.join(MONTHS)})\b", re.IGNORECASE
)

# Letters may follow an apostrophe, straight or curved (U+2019); dashes are hyphen, en and em dash (U+2013, U+2014).
_WORD = re.compile(r"[^\W\d_][\w'\u2019-]*")
_TOKEN = re.compile(r"[\w'\u2019-]+")
_GENITIVE = re.compile(r"['\u2019]s$")
_SENTENCE_END = re.compile(r"(?<=[.!?\u2026:;\"\u201c\u201d])\s+|\s[-\u2013\u2014]\s")
_DASHES = re.compile(r"[-\u2013\u2014/]")
_NO_NAMES = frozenset(
    [
        *("I", "Mum", "Dad", "Granny", "Gran", "Nan", "Grandpa", "Grandad", "Grandma", "Auntie", "Aunt", "Uncle"),
        *(
            "Mr",
            "Mrs",
            "Ms",
            "Dr",
            "St",
            "OK",
            "TV",
            "UK",
            "GP",
            "Christmas",
            "Easter",
            "English",
            "British",
            "American",
        ),
        *("French", "German", "Spanish", "Italian", "Portuguese", "Japanese", "Korean", "Chinese", "Arabic", "Polish"),
        *("Turkish", "Dutch", "Welsh", "Irish", "Greek", "Swedish", "Norwegian", "Danish", "Finnish", "Indian"),
        *("Russian", "Ukrainian", "Scottish", "European"),
    ]
)
"""Capitalised words that are no names; several splits may say them."""


def complaints(item: LabelledDialogue) -> Iterator[str]:
    """Yield what is wrong with one chat."""
    dialogue, turns = item.dialogue, item.dialogue.turns()
    operations = [operation for gold in item.gold.values() for operation in gold]
    kinds = Counter(operation.kind for operation in operations)
    bounds = {
        "sessions": (len(dialogue.sessions), 3, 5),
        "turns": (len(turns), 18, 26),
        "speakers": (len(dialogue.speakers), 2, 2),
        "added facts": (kinds[OperationKind.ADD], 13, 99),
        "updates": (kinds[OperationKind.UPDATE], 3, 99),
        "deletions": (kinds[OperationKind.DELETE], 2, 99),
        "turns that store nothing": (kinds[OperationKind.NOOP], 5, 99),
        "turns with several operations": (sum(len(gold) > 1 for gold in item.gold.values()), 3, 99),
        "questions": (len(dialogue.questions), 12, 15),
    }
    for what, (found, least, most) in bounds.items():
        if not least <= found <= most:
            yield f"found {found} {what}, allowed: {least} to {most}"
    asked = Counter(question.category for question in dialogue.questions)
    yield from (
        f"found {asked[name]} {name} questions, needed: {n}" for name, n in CATEGORIES.items() if asked[name] < n
    )
    for text in (operation.text for operation in operations if operation.text):
        if not any(speaker in text for speaker in dialogue.speakers):
            yield f"a memory names neither speaker: {text}"
        if _RELATIVE.search(text):
            yield f"a memory has a relative date: {text}"
    yield from _wrong_weekdays(turns)
    try:
        bank = gold_banks(dialogue, item.gold).final
    except DataError as error:
        yield str(error)
        return
    for question in dialogue.questions:
        yield from (f"{question.question_id}: {complaint}" for complaint in _of_question(question, dialogue, bank))


def shared_between(splits: Mapping[str, Sequence[LabelledDialogue]]) -> Iterator[str]:
    """Yield every name and answer that two splits have in common."""
    taken: dict[str, str] = {}
    for split, items in splits.items():
        answers = {normalize_answer(q.answer) for item in items for q in item.dialogue.questions} - {UNKNOWN}
        names = {name.lower() for item in items for name in proper_names(item.dialogue)}
        for value in sorted(answers | names):
            if taken.setdefault(value, split) != split:
                yield f"'{value}' is in {taken[value]} and {split}"


def proper_names(dialogue: Dialogue) -> set[str]:
    """Return the speakers and every word that is capitalised both inside a sentence and nowhere written small."""
    texts = [turn.text for turn in dialogue.turns()]
    inside = {
        _GENITIVE.sub("", word)
        for text in texts
        for sentence in _SENTENCE_END.split(text)
        for word in _WORD.findall(sentence)[1:]
    }
    small = {word for text in texts for word in _WORD.findall(text) if word[0].islower()}
    known = {*WEEKDAYS, *MONTHS, *(f"{day}s" for day in WEEKDAYS)}
    named = {word for word in inside if word[0].isupper() and word.lower() not in known and word.lower() not in small}
    named = {word for word in named if not re.match("I['\u2019]", word)}  # I'm, I'd
    return (named | set(dialogue.speakers)) - _NO_NAMES


def masked_grams(items: Sequence[LabelledDialogue], size: int = 5) -> set[tuple[str, ...]]:
    """Return the word n-grams of all turns, with names and numbers masked."""
    grams = set()
    for item in items:
        names = {name.lower() for name in proper_names(item.dialogue)}
        for turn in item.dialogue.turns():
            words = [_GENITIVE.sub("", word) for word in _TOKEN.findall(turn.text.lower())]
            masked = ["_" if word in names or any(map(str.isdigit, word)) else word for word in words]
            grams |= {tuple(masked[start : start + size]) for start in range(len(masked) - size + 1)}
    return grams


def _of_question(question: Question, dialogue: Dialogue, bank: Sequence[MemoryEntry]) -> Iterator[str]:
    answer = _words(question.answer)
    if question.answer == UNKNOWN:
        if question.category not in ("unanswerable", "deletion"):
            yield f"the answer is '{UNKNOWN}', but the category {question.category}"
        if question.category == "unanswerable" and question.evidence:
            yield "it has evidence, but is unanswerable"
        return
    if answer <= _words(question.question):
        yield f"the question holds the answer {question.answer}"
    turns = {turn.turn_id: turn for turn in dialogue.turns()}
    said = [turns[turn_id] for turn_id in question.evidence]
    if not answer <= set().union(*(_words(turn.text) for turn in said)) and question.answer not in _dates(said):
        yield f"no evidence turn holds {question.answer}"
    entries = [entry for entry in bank if set(entry.source_turn_ids) & set(question.evidence)]
    held = [_words(entry.text) for entry in entries]
    together = [set().union(*held)] if question.category == "multi-hop" else held
    if not any(answer <= words for words in together):
        yield f"no live memory from its evidence turns holds {question.answer}"


def _dates(turns: Sequence[Turn]) -> set[str]:
    return {written(day) for turn in turns for day in named_dates(turn.text, _day(turn))}


def _wrong_weekdays(turns: Sequence[Turn]) -> Iterator[str]:
    for turn in turns:
        for weekday, day, month in _WEEKDAY_AND_DATE.findall(turn.text):
            near = _in_years(MONTHS.index(month.lower()) + 1, int(day), _day(turn).year)
            fits = [d for d in near if WEEKDAYS[d.weekday()] == weekday.lower() and abs((d - _day(turn)).days) < 300]
            if not fits:
                yield f"{turn.turn_id}: {weekday} {day} {month} is not that day of the week"


def _in_years(month: int, day: int, around: int) -> list[date]:
    """Return a day in the year before, in that year and in the one after, if it is in the calendar."""
    days = []
    for year in (around - 1, around, around + 1):
        with suppress(ValueError):
            days.append(date(year, month, day))
    return days


def _day(turn: Turn) -> date:
    return datetime.fromisoformat(turn.timestamp).date()


def _words(text: str) -> set[str]:
    return set(normalize_answer(_DASHES.sub(" ", text)).split())
