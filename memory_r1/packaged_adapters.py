"""The trained pair of adapters that comes with the package, for the embedded base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from memory_r1.adapter_settings import BASE
from memory_r1.packaged_models import LANGUAGE_MODEL

AGENTS = ("manager", "answer")
FOLDER = Path(__file__).parent / "adapters"
"""Holds one adapter folder per agent, and maybe one of a writer, which `recipes/package_adapters.py` writes."""
MODELS = (LANGUAGE_MODEL.name, LANGUAGE_MODEL.hub_id)
"""Names of the base model that the pair was trained on."""
PACKAGED = "packaged"
"""Names a packaged adapter in records, since its path differs between machines."""


def may_be_packaged(model: str) -> bool:
    """Return whether a base model, named as on the command line, is the one of packaged adapters."""
    return model in MODELS


def has_packaged_pair() -> bool:
    """Return whether this installation holds both adapters."""
    return all((FOLDER / agent / "adapter_model.safetensors").is_file() for agent in AGENTS)


def choose(named: Mapping[str, str | None], model: str) -> dict[str, str | None]:
    """Return the adapter folder of each agent, or None for the untrained base model.

    The packaged adapters were trained together: they are used only where no adapter is named.

    Args:
        named: For each agent ("manager", "answer") that the system has: an adapter folder, "base", or None.
        model: The base model, by name, hub id or folder.
    """
    if not any(named.values()) and may_be_packaged(model) and has_packaged_pair():
        return {agent: str(FOLDER / agent) for agent in named}
    return {agent: None if folder == BASE else folder for agent, folder in named.items()}


def recorded_name(agent: str, folder: str | None) -> str | None:
    """Return an adapter's name in records: "packaged", its folder, or None for the untrained base model."""
    if folder and Path(folder).expanduser().resolve() == (FOLDER / agent).resolve():
        return PACKAGED
    return folder
