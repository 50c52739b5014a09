"""Read the headers of safetensors files and hash their weights, without torch."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from memory_r1.errors import ModelError

_READ_BYTES = 1 << 22


def hash_weights(folder: Path) -> str | None:
    """Hash the names, types, shapes and bytes of a folder's tensors (SHA-256); None without safetensors files.

    The hash ignores adapter weights, file metadata and how the tensors are split into files.

    Raises:
        ModelError: A file is not a safetensors file or is truncated.
    """
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if not files:
        return None
    return _hash_tensors(tuple((str(file.resolve()), file.stat().st_mtime_ns, file.stat().st_size) for file in files))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensor_headers(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the byte offset of a safetensors file's data, and each tensor's dtype, shape and offsets.

    Raises:
        ModelError: The file is missing, is not a safetensors file, or is truncated.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing; the folder is incomplete, write or download it again")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            headers = json.loads(file.read(length))
        headers.pop("__metadata__", None)
        data_end = 8 + length + max((header["data_offsets"][1] for header in headers.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{path} is not a safetensors file ({error}); write or download it again") from error
    if path.stat().st_size != data_end:
        raise ModelError(
            f"{path} holds {path.stat().st_size} bytes, but its header promises {data_end}: "
            "it is truncated or damaged; write or download it again"
        )
    return 8 + length, headers


@lru_cache(maxsize=8)
def _hash_tensors(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash the tensors of `files`, sorted by name; modification time and size only key the cache."""
    tensors = {}
    for name, _, _ in files:
        start, headers = read_tensor_headers(Path(name))
        tensors.update({tensor: (name, start, header) for tensor, header in headers.items()})
    digest = hashlib.sha256()
    for tensor in sorted(tensors):
        name, start, header = tensors[tensor]
        digest.update(json.dumps([tensor, header["dtype"], header["shape"]]).encode())
        begin, end = header["data_offsets"]
        with open(name, "rb") as file:
            file.seek(start + begin)
            for position in range(begin, end, _READ_BYTES):
                digest.update(file.read(min(_READ_BYTES, end - position)))
    return digest.hexdigest()
