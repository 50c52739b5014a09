"""Exclude questions with wrong gold: some published answers are wrong, and no system should gain or lose by them.

A recipe writes the faults found by an audit into the run's configuration, by `Prediction.key` and without texts:
`config["audit"] = {"error_types": {"conv-41/conv-41:3": "HALLUCINATION", ...}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memory_r1.errors import DataError

SOUND_GOLD = frozenset({"WRONG_CITATION"})
"""Error types with a right answer: only its evidence is cited wrongly."""


def unsound_questions(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Map the key of each question with a wrong gold answer to its error type; None without an audit.

    Raises:
        DataError: The configuration's `audit` is malformed.
    """
    audit = config.get("audit")
    if audit is None:
        return None
    types = audit.get("error_types") if isinstance(audit, Mapping) else None
    if not isinstance(types, Mapping) or not all(isinstance(value, str) for value in types.values()):
        raise DataError(
            f"config.audit is {str(audit)[:80]!r}: give {{'error_types': question key to error type}}, or leave it out"
        )
    return {key: kind for key, kind in types.items() if kind not in SOUND_GOLD}
