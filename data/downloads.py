"""Find published data files, fetch them into the cache, and check that their bytes are the published ones."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from memory_r1.errors import ChecksumError, DataError
from memory_r1.json_field import JsonField, parse_document, read_bytes

CACHE_VARIABLE = "MEMORY_R1_CACHE"
_CHUNK = 1 << 16
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A data file as its authors published it; `size` is in bytes, `sha256` in hexadecimal."""

    name: str
    url: str
    size: int
    sha256: str

    def read(self, path: Path | str | None = None, cache: Path | str | None = None, *, verify: bool = True) -> bytes:
        """Read the file from `path` (the file or its folder) or, without one, from the cache.

        Raises:
            ChecksumError: `verify` is on and the bytes are not the published ones.
            DataError: There is no such file, or it cannot be fetched.
        """
        found = self.find(path, cache)
        content = read_bytes(found, f"{self.name} or a folder that holds it ({self.url})")
        if verify:
            self.check(content, found)
        return content

    def document(
        self, path: Path | str | None = None, cache: Path | str | None = None, *, verify: bool = True
    ) -> JsonField:
        """Parse the file as JSON; raise like `read`, and DataError if it is malformed."""
        found = self.find(path, cache)
        return parse_document(self.read(found, verify=verify), found, f"{self.name} as published")

    def find(self, path: Path | str | None = None, cache: Path | str | None = None) -> Path:
        """Return the file's path: `path` itself, inside the folder `path`, or, without one, fetched into the cache."""
        found = self.fetch(cache) if path is None else Path(path)
        return found / self.name if found.is_dir() else found

    def fetch(self, cache: Path | str | None = None) -> Path:
        """Return the file's path in the cache (see `cache_folder`); download it whole or not at all if missing."""
        target = self.cached(cache)
        if target.exists():
            return target
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._download(part)
            self.check(part.read_bytes(), part)
            os.replace(part, target)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise DataError(
                f"{target}: cannot be downloaded ({reason}); get {self.url} by hand and put it there"
            ) from error
        finally:
            part.unlink(missing_ok=True)
        return target

    def cached(self, cache: Path | str | None = None) -> Path:
        """Return the file's path in the cache, whether or not it exists."""
        return cache_folder(cache) / "data" / self.name

    def check(self, content: bytes, path: Path) -> None:
        """Raise ChecksumError, naming `path`, unless `content` is the published bytes."""
        found = hashlib.sha256(content).hexdigest()
        if found == self.sha256:
            return
        what = "cut short" if len(content) < self.size else "changed or another version"
        raise ChecksumError(
            f"{path}: {what}: found {len(content)} bytes with sha256 {found}, expected {self.size} bytes with sha256 "
            f"{self.sha256}; remove it and get {self.url} again"
        )

    def _download(self, part: Path) -> None:
        """Stream the URL into `part`; the progress bar goes to standard error, away from printed results."""
        with (
            urllib.request.urlopen(self.url, timeout=_TIMEOUT_SECONDS) as response,
            part.open("wb") as file,
            Progress(console=Console(stderr=True), transient=True) as progress,
        ):
            bar = progress.add_task(self.name, total=self.size)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress.advance(bar, len(chunk))


def cache_folder(cache: Path | str | None = None) -> Path:
    """Return the download folder: `cache`, else the value of MEMORY_R1_CACHE, else ~/.cache/memory_r1."""
    return Path(cache or os.environ.get(CACHE_VARIABLE) or "~/.cache/memory_r1").expanduser()
