"""JSON and JSON-lines files that survive a process killed at any instant.

Rows are appended while a run goes on. Each append is one write that ends in a newline, so at most the last line can be
cut short. Opening the file again drops that line; whoever resumes reads what is there and does the rest. Files written
as a whole are replaced as a whole or not at all.
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
    """Appends rows to a JSONL file that another, killed process may have left half-written.

    `existing` are the rows found when the file was opened, `dropped` the length in bytes of a cut-off last line.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.dropped = _repair(self.path)
        self.existing = read_rows(self.path) if self.path.exists() else []
        self._file: BinaryIO = self.path.open("ab")

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write the rows in one go and hand them to the operating system at once.

        Raises:
            ValueError: a value is NaN or infinite; say None where a metric does not apply.
        """
        self._file.write(_encode(rows))
        self._file.flush()

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """Read a JSONL file of objects; a last line cut off by a kill is left out with a warning.

    Raises:
        DataError: the file is missing, or another line is no JSON object.
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
    """Replace a JSONL file as a whole, for instance by the rows of the dialogues that were played to their end."""
    _replace(Path(path), _encode(rows))


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a file that holds one JSON object; DataError where it is missing or something else."""
    path = Path(path)
    return _decode(_read(path), str(path))


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write readable JSON, replacing the file as a whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
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
    """JSON lines. A lone surrogate, which UTF-8 cannot hold, becomes the JSON escape it may have come from."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    return "".join(lines).encode("utf-8", errors="backslashreplace")


def _repair(path: Path) -> int:
    """End the file in a newline, at the cost of a cut-off last line; return the bytes dropped."""
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
        raise DataError(f"{where}: no JSON ({error}); one JSON object is allowed") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: found {type(row).__name__}; one JSON object is allowed")
    return row
