"""JSON and JSON-lines files that survive a process killed at any instant.

A run appends rows as it goes. Each append is one write that ends in a newline, so only the last line can be truncated.
Reopening the file drops that line, and a resumed run does the missing rows. A file written as a whole is replaced
atomically.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from memory_r1.errors import DataError

logger = logging.getLogger(__name__)


class JsonLinesWriter:
    """Appends rows to a JSONL file, even one that a killed process left half-written.

    `existing` holds the rows found on opening; `dropped` is the length of a truncated last line, in bytes.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.dropped = _repair(self.path)
        self.existing = read_rows(self.path) if self.path.exists() else []
        self._file: BinaryIO = self.path.open("ab")

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write the rows in one call and flush them.

        Raises:
            ValueError: A value is NaN or infinite; use None if a metric does not apply.
        """
        self._file.write(_encode(rows))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """Read a JSONL file of objects; skip a truncated last line with a warning.

    Raises:
        DataError: The file is missing, or another line is not a JSON object.
    """
    path = Path(path)
    *lines, rest = _read(path).split(b"\n")
    rows = [_decode(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    if rest and _is_object(rest):
        rows.append(_decode(rest, f"{path}, line {len(lines) + 1}"))
    elif rest:
        logger.warning("%s, line %d is cut off after %d bytes and left out", path, len(lines) + 1, len(rest))
    return rows


def rewrite_rows(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSONL file atomically, for example to keep only the rows of completed dialogues."""
    _replace(Path(path), _encode(rows))


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a file that holds one JSON object; raise a DataError if it is missing or holds anything else."""
    path = Path(path)
    return _decode(_read(path), str(path))


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> Path:
    """Write JSON, indented or on one line, replacing the file atomically."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(path, text.encode("utf-8", errors="backslashreplace"))
    return path


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _encode(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Encode JSON lines. A lone surrogate, which UTF-8 cannot hold, becomes its JSON escape."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    return "".join(lines).encode("utf-8", errors="backslashreplace")


def _repair(path: Path) -> int:
    """Make the file end in a newline, dropping a truncated last line; return the number of bytes dropped."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    keep = content.rfind(b"\n") + 1
    rest = content[keep:]
    with path.open("r+b") as file:
        if _is_object(rest):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
            return 0
        file.truncate(keep)
    if rest:
        logger.warning("%s: dropped a last line cut off after %d bytes", path, len(rest))
    return len(rest)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a folder that holds it") from None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _decode(content: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(content)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); one JSON object is allowed") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: found {type(row).__name__}; one JSON object is allowed")
    return row
