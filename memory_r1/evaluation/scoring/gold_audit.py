"""Scores on audited gold: some published answers are wrong, and no system should gain or lose by them.

A recipe that knows of an audit writes into the run's configuration which questions it found fault with, by
`Prediction.key`: `config["audit"] = {"error_types": {"conv-41/conv-41:3": "HALLUCINATION", ...}}`. No text is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memory_r1.errors import DataError

SOUND_GOLD = frozenset({"WRONG_CITATION"})
"""Error types under which the answer is right all the same: only the evidence is cited wrongly."""


def unsound_questions(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Question key to error type of every question whose gold answer is wrong; None where there was no audit.

    Raises:
        DataError: the configuration's `audit` has another shape.
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
