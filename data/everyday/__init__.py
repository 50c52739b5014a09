"""Everyday: 120 natural two-person chats, written for this project, with questions and gold operations.

The user's own domain in small: reinforcement learning reads the dialogues, questions, answers and evidence turns alone.
The gold operations serve the checks and the ceiling. `python -m data.everyday` checks all splits and prints their
counts.
"""

from __future__ import annotations

from pathlib import Path

from data.labelled import LabelledDialogue, read_labelled
from data.loading import check_name

SPLITS = ("train", "validation", "test")
FOLDER = Path(__file__).parent


def load_everyday(split: str) -> list[LabelledDialogue]:
    """Return the chats of a split with their gold operations.

    Raises:
        ConfigurationError: There is no such split.
    """
    check_name("split", split, SPLITS)
    return read_labelled(FOLDER, split)
