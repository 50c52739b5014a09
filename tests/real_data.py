"""Find the published benchmark files, for tests that count them; they are never in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_folder(name: str) -> Path | None:
    """Return the folder with the file `name`: MEMORY_R1_DATA, or the shared data beside a checkout."""
    folders = [os.environ.get("MEMORY_R1_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    return next((Path(folder) for folder in folders if folder and (Path(folder) / name).exists()), None)


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test if the file is missing."""
    return pytest.mark.skipif(real_folder(name) is None, reason=f"{name} is not here; set MEMORY_R1_DATA to its folder")
