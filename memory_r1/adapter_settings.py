"""The training settings that using an adapter must match, read from its `training_summary.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json

SUMMARY = "training_summary.json"
QUERIES = "queries.safetensors"
"""What a weaver of memory tokens has learnt beside its adapter."""
BASE = "base"
"""Names the untrained base model where an adapter folder could be named."""
SHARED = ("dtype", "embedder")
"""Settings that two agents must share to work together; `check_adapter` compares their base model."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The settings an agent was trained with, each None if unknown.

    Attributes:
        recall_per_speaker: Number of memories shown per speaker.
        max_new_tokens: Longest completion on one turn or question, in tokens.
        dtype: Precision of the base model.
        answer_style: How the Answer Agent cites memories: "ids" or "quotes".
        embedder: Sentence model used for recall.
        credit: How a manager's completions were credited; no evaluation depends on it.
        operations: The form of a manager's operations, a key of `FORMS`.
    """

    recall_per_speaker: int | None = None
    max_new_tokens: int | None = None
    dtype: str | None = None
    answer_style: str | None = None
    embedder: str | None = None
    credit: str | None = None
    operations: str | None = None

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read the settings of an adapter folder, all None if it has no summary (an adapter made elsewhere).

        Raises:
            DataError: The summary is unreadable.
        """
        path = Path(folder).expanduser() / SUMMARY
        if not path.is_file():
            return cls()
        summary = read_json(path)
        settings = summary.get("settings") or _of_earlier_version(summary)
        return cls(**{name: settings[name] for name in cls.__slots__ if name in settings})

    def to_dict(self) -> dict[str, Any]:
        """Return the value of `settings` in a summary."""
        return asdict(self)


def agree(manager: AgentSettings, answer: AgentSettings, given: Mapping[str, object]) -> None:
    """Check that two agents agree on every shared setting that `given`, the command's options, does not settle.

    Raises:
        ConfigurationError: They differ in one.
    """
    for name in SHARED:
        theirs = getattr(manager, name), getattr(answer, name)
        if None not in theirs and theirs[0] != theirs[1] and given.get(name) is None:
            raise ConfigurationError(
                f"the manager was trained with {name} {theirs[0]!r}, the Answer Agent with {theirs[1]!r}: pair agents "
                f"that agree, or settle it with --{name}"
            )


def check_form(folder: Path | str, operations: str, needed_by: str) -> None:
    """Check that a manager's adapter writes operations of this form; one without a summary may write any.

    Raises:
        ConfigurationError: It writes another form.
        DataError: The summary is unreadable.
    """
    if not (Path(folder).expanduser() / SUMMARY).is_file():
        return
    trained = AgentSettings.read(folder).operations or "flat"  # all that earlier versions knew
    if trained != operations:
        raise ConfigurationError(
            f"{folder} is a manager that writes {trained} operations, but {needed_by} needs {operations} ones: give "
            f"one that was trained with operations: {operations}"
        )


def _of_earlier_version(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a summary that holds only the recipe fields that differed from that version's defaults."""
    recipe = summary.get("recipe", {})
    agent = summary.get("agent")
    of_turn = recipe.get("answer_max_tokens", 32) if agent == "answer" else recipe.get("manager_max_tokens", 48)
    method = summary.get("method")
    if agent == "answer" and method == "sft" and recipe.get("answer_style") == "quotes":
        of_turn = recipe.get("answer_max_tokens")  # the default of that version is too short for an answer
    sampled = method in ("grpo", "ppo") or "max_completion_length" in recipe
    if sampled and recipe.get("credit") != "session":
        of_turn = recipe.get("max_completion_length", 512)  # TRL's default then
    return {
        "recall_per_speaker": recipe.get("recall_per_speaker", 2),
        "max_new_tokens": of_turn,
        "dtype": recipe.get("dtype"),
        "answer_style": recipe.get("answer_style", "ids"),
        "embedder": recipe.get("embedder", "all-MiniLM-L6-v2"),
        "credit": recipe.get("credit", "turn"),
    }
