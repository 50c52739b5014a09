"""Recipes are tested as in an installation without packaged adapters, whether or not this checkout holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1 import packaged_adapters


@pytest.fixture(autouse=True)
def packaged_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder, still empty, where packaged adapters are looked for during a test."""
    folder = tmp_path_factory.mktemp("packaged")
    monkeypatch.setattr(packaged_adapters, "FOLDER", folder)
    return folder
