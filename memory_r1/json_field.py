"""Strict reading of JSON documents: every value knows where it stands, so that a refusal can say so."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from memory_r1.errors import DataError

_SHOWN = 80  # characters of a bad value that an error repeats


@dataclass(frozen=True, slots=True)
class JsonField:
    """A value inside a JSON document that knows where it stands, so that every check can say so.

    `where` is the file (with the line, where there is one); `path` is the way from its root, as in
    `sessions[0].turns[2].speaker`. Every method raises `DataError` when the value is not what it asks for.
    """

    value: object
    where: str
    path: str = ""

    def fail(self, allowed: str, found: str = "") -> NoReturn:
        """Refuse this value: say what is allowed and what was `found`, by default the start of the value."""
        raise DataError(f"{self._place()}: found {found or shown(self.value)}, allowed: {allowed}")

    def members(
        self, required: Collection[str], optional: Collection[str] = (), *, closed: bool = True
    ) -> dict[str, JsonField]:
        """The members of an object; `closed` refuses keys that are neither required nor optional."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        for key in required:
            if key not in self.value:
                raise DataError(f"{self._member(key)._place()}: found nothing, required are: {', '.join(required)}")
        for key in self.value if closed else ():
            if key not in required and key not in optional:
                names = ", ".join([*required, *optional])
                raise DataError(f"{self._member(key)._place()}: found an unknown key, allowed: {names}")
        return {key: self._member(key, value) for key, value in self.value.items()}

    def items(self, *, at_least: int = 0) -> list[JsonField]:
        """The items of an array of `at_least` so many."""
        if not isinstance(self.value, list) or len(self.value) < at_least:
            self.fail("an array" if not at_least else f"an array of at least {at_least}")
        return [JsonField(value, self.where, f"{self.path}[{index}]") for index, value in enumerate(self.value)]

    def text(self, *, blank: bool = False) -> str:
        """A string that UTF-8 can hold; not an empty one unless `blank`."""
        if not isinstance(self.value, str) or not (blank or self.value.strip()):
            self.fail("a string" if blank else "a string that is not empty")
        if any("\ud800" <= character <= "\udfff" for character in self.value):
            self.fail("text without lone surrogates (half an emoji; write the whole character)")
        return self.value

    def timestamp(self) -> str:
        """An ISO 8601 date or time, in the one form `datetime.isoformat` gives it."""
        try:
            return datetime.fromisoformat(self.text()).isoformat()
        except ValueError:  # DataError, where it is no string at all, is one too
            self.fail("a string with an ISO 8601 time, as in 2023-05-08T13:56:00")

    def time_like(self, pattern: str, example: str) -> str:
        """A time that `datetime.strptime` reads by `pattern`, in the form that `datetime.isoformat` gives it."""
        try:
            return datetime.strptime(self.text(), pattern).isoformat()
        except ValueError:
            self.fail(f"a time as in {example}")

    def _member(self, key: str, value: object = None) -> JsonField:
        step = f".{key}" if key.isidentifier() else f"[{shown(key)}]"
        return JsonField(value, self.where, (self.path + step).removeprefix("."))

    def _place(self) -> str:
        return f"{self.where}: {self.path}" if self.path else self.where


def read_bytes(path: Path, give: str) -> bytes:
    """A file's content; DataError with what to `give` instead where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give {give}") from error


def text_lines(content: bytes, path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of `path` that are not blank; only line feeds end a line, as JSONL has it."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: found bytes that are not UTF-8, allowed: UTF-8 text") from error
        if text.strip():
            yield number, text


def parse_document(content: bytes, path: Path, allowed: str) -> JsonField:
    """The one JSON value that a file holds; `allowed` says in the error what was to be there."""
    try:
        return JsonField(json.loads(content), str(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: found malformed JSON ({error}), allowed: {allowed}") from error


def parse_json(text: str, where: str) -> object:
    """One JSON value; a key given twice is an error, since one of its values would be lost."""

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        record: dict[str, object] = {}
        for key, value in pairs:
            if key in record:
                raise DataError(f"{where}: found the key {shown(key)} twice in one object, allowed: once")
            record[key] = value
        return record

    try:
        return json.loads(text, object_pairs_hook=members)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        found = f"found malformed JSON at column {error.colno} ({error.msg})"
        raise DataError(f"{where}: {found}, allowed: one JSON object a line") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: found JSON nested too deep or a number too long, allowed: one dialogue") from error


def shown(value: object) -> str:
    """A scalar as JSON on one line, cut to a readable length; of an object or array only what it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
