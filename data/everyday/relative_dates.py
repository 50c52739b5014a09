"""Dates that a turn names relative to the day it is said on: "tomorrow", "next Friday", "in two weeks", "the 14th".

Conventions, where people differ: "Friday" and "this Friday" are the next such day after today; "next Friday" is that of
the calendar week after this one (weeks begin on Monday); "last Friday" is the latest one before today; "a week on
Friday" is a week after the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"a": 1} | {word: number for number, word in enumerate(_WORDS)}
_DAY = timedelta(days=1)
_NEAR = {
    "the day after tomorrow": 2,
    "tomorrow": 1,
    "today": 0,
    "tonight": 0,
    "this morning": 0,
    "this afternoon": 0,
    "this evening": 0,
    "last night": -1,
    "yesterday": -1,
    "the day before yesterday": -2,
}
_COUNT = rf"(\d+|{'|'.join(_NUMBERS)})"
_WEEKDAY = re.compile(
    rf"\b(?:(this|last|next|a week on|a week from|a week next) )?({'|'.join(WEEKDAYS)})(?!s|\w)", re.IGNORECASE
)
_AHEAD = re.compile(rf"\bin {_COUNT} (day|week)s?\b|\b{_COUNT} (day|week)s? from (?:now|today)\b", re.IGNORECASE)
_AGO = re.compile(rf"\b{_COUNT} (day|week)s? ago\b", re.IGNORECASE)
_DAY_OF_MONTH = re.compile(r"\bthe (\d{1,2})(?:st|nd|rd|th)\b", re.IGNORECASE)


def named_dates(text: str, said: date) -> Iterator[date]:
    """Yield every date that a text says relative to the day `said`."""
    for phrase, days in _NEAR.items():
        if re.search(rf"\b{phrase}\b", text, re.IGNORECASE):
            yield said + days * _DAY
    for how, name in _WEEKDAY.findall(text):
        yield _weekday(how.lower(), WEEKDAYS.index(name.lower()), said)
    for first, unit, second, other in _AHEAD.findall(text):
        yield said + _days(first or second, unit or other) * _DAY
    for count, unit in _AGO.findall(text):
        yield said - _days(count, unit) * _DAY
    for day in _DAY_OF_MONTH.findall(text):
        found = next((said + n * _DAY for n in range(62) if (said + n * _DAY).day == int(day)), None)
        if found is not None:
            yield found


def written(day: date) -> str:
    """Return a date as answers have it: `14 June`."""
    return f"{day.day} {MONTHS[day.month - 1].title()}"


def _weekday(how: str, weekday: int, said: date) -> date:
    if how == "last":
        return said - ((said.weekday() - weekday) % 7 or 7) * _DAY
    if how == "next":
        return said + (7 - said.weekday() + weekday) * _DAY
    ahead = (weekday - said.weekday()) % 7 or 7
    return said + (ahead + (7 if how.startswith("a week") else 0)) * _DAY


def _days(count: str, unit: str) -> int:
    number = int(count) if count.isdigit() else _NUMBERS[count.lower()]
    return number * (7 if unit.lower() == "week" else 1)
