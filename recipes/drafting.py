"""What a drafter of questions learns: the questions of a dialogue that each of its windows of turns answers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from data.sources import Source
from memory_r1.drafting.drafts import CATEGORIES, DRAFT, MAX_QUESTIONS, window_lines, windows
from memory_r1.systems.writer import prompt_for
from memory_r1.types import Dialogue, Turn


def drafter_rows(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return a row of every window, with the prompt that a drafter gets and its gold as completion."""
    return [
        {
            "prompt": prompt_for(DRAFT, window_lines(window)),
            "completion": [{"role": "assistant", "content": json.dumps({"questions": gold}, ensure_ascii=False)}],
        }
        for source in sources
        for window, gold in gold_windows(source.dialogue)
    ]


def gold_windows(dialogue: Dialogue) -> Iterator[tuple[tuple[Turn, ...], list[dict[str, Any]]]]:
    """Yield each window with up to `MAX_QUESTIONS` questions whose evidence lies in it, by their last evidence.

    A fact that changes later is not asked about where it was first told, as its answer would be out of date.
    """
    for window in windows(dialogue):
        numbers = {turn.turn_id: number for number, turn in enumerate(window, start=1)}
        gold: list[dict[str, Any]] = [
            {
                "question": asked.question,
                "answer": asked.answer,
                "category": asked.category,
                "evidence": [numbers[turn_id] for turn_id in asked.evidence],
            }
            for asked in dialogue.questions
            if asked.evidence and asked.category in CATEGORIES and numbers.keys() >= {*asked.evidence}
        ]
        yield window, sorted(gold, key=lambda item: item["evidence"][-1])[:MAX_QUESTIONS]
