"""Read JSON documents strictly; every value knows its location, so that errors can report it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from memory_r1.errors import DataError

_SHOWN = 80  # characters of a bad value quoted in an error


@dataclass(frozen=True, slots=True)
class JsonField:
    """A value inside a JSON document, with its location for errors.

    `where` is the file and, in JSONL, the line; `path` leads to the value from the root, as in
    `sessions[0].turns[2].speaker`. Every public method raises `DataError` if the value is not of the requested kind.
    """

    value: object
    where: str
    path: str = ""

    def fail(self, allowed: str, found: str = "") -> NoReturn:
        """Raise an error that names what is allowed and what was `found`, by default the start of the value."""
        raise DataError(f"{self._place()}: found {found or shown(self.value)}, allowed: {allowed}")

    def members(
        self, required: Collection[str], optional: Collection[str] = (), *, closed: bool = True
    ) -> dict[str, JsonField]:
        """Return the members of an object; `closed` refuses keys that are neither required nor optional."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        for key in required:
            if key not in self.value:
                raise DataError(f"{self._member(key)._place()}: found nothing, required: {', '.join(required)}")
        for key in self.value if closed else ():
            if key not in required and key not in optional:
                names = ", ".join([*required, *optional])
                raise DataError(f"{self._member(key)._place()}: found an unknown key, allowed: {names}")
        return {key: self._member(key, value) for key, value in self.value.items()}

    def items(self, *, at_least: int = 0) -> list[JsonField]:
        """Return the items of an array, of which there must be `at_least` so many."""
        if not isinstance(self.value, list) or len(self.value) < at_least:
            self.fail("an array" if not at_least else f"an array of at least {at_least}")
        return [JsonField(value, self.where, f"{self.path}[{index}]") for index, value in enumerate(self.value)]

    def text(self, *, blank: bool = False) -> str:
        """Return a string that UTF-8 can encode, blank only if `blank` is set."""
        if not isinstance(self.value, str) or not (blank or self.value.strip()):
            self.fail("a string" if blank else "a string that is not empty")
        if any("\ud800" <= character <= "\udfff" for character in self.value):
            self.fail("text without lone surrogates (half an emoji; write the whole character)")
        return self.value

    def timestamp(self) -> str:
        """Return an ISO 8601 date or time, normalised by `datetime.isoformat`."""
        try:
            return datetime.fromisoformat(self.text()).isoformat()
        except ValueError:  # includes the DataError of a value that is not a string
            self.fail("a string with an ISO 8601 time, such as 2023-05-08T13:56:00")

    def time_like(self, pattern: str, example: str) -> str:
        """Return a time that matches a `datetime.strptime` pattern, normalised by `datetime.isoformat`."""
        try:
            return datetime.strptime(self.text(), pattern).isoformat()
        except ValueError:
            self.fail(f"a time such as {example}")

    def _member(self, key: str, value: object = None) -> JsonField:
        step = f".{key}" if key.isidentifier() else f"[{shown(key)}]"
        return JsonField(value, self.where, (self.path + step).removeprefix("."))

    def _place(self) -> str:
        return f"{self.where}: {self.path}" if self.path else self.where


def read_bytes(path: Path, give: str) -> bytes:
    """Return a file's content; if it cannot be read, raise a DataError that says what to `give` instead."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give {give}") from error


def text_lines(content: bytes, path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines of a file with their numbers; as in JSONL, only line feeds end a line.

    A byte order mark, which programs on Windows write first, is no part of them.
    """
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: found bytes that are not UTF-8, allowed: UTF-8 text") from error
        if text.strip():
            yield number, text


def parse_document(content: bytes, path: Path, allowed: str) -> JsonField:
    """Parse a file that holds a single JSON value; `allowed` describes it in the error."""
    try:
        return JsonField(json.loads(content), str(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: found malformed JSON ({error}), allowed: {allowed}") from error


def parse_json(text: str, where: str) -> object:
    """Parse one JSON value; a duplicate key is an error, since one of its values would be lost."""

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
        raise DataError(f"{where}: {found}, allowed: one JSON object per line") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: found JSON nested too deep or a number too long, allowed: one dialogue") from error


def shown(value: object) -> str:
    """Describe a value on one line: an object or array by its kind, a scalar as JSON cut to a readable length."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
