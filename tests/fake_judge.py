"""A judge that follows a script, and an evaluation folder for it to judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memory_r1.evaluation.judging.judge_model import Outcome
from memory_r1.evaluation.records import OPERATIONS, PREDICTIONS, Prediction, RunInfo, write_run
from memory_r1.inference.language_model import Completion, Messages
from memory_r1.jsonl import rewrite_rows

CORRECT = Completion('They agree.\n{"label": "CORRECT"}', 100, 10)
WRONG = Completion('They differ.\n{"label": "WRONG"}', 100, 10)


class ScriptedJudge:
    """Answers by a function of the conversation's text, and records what it was asked."""

    def __init__(self, script: Callable[[str], Outcome], name: str = "scripted") -> None:
        self.script = script
        self.name = name
        self.asked: list[str] = []

    def ask(
        self, conversations: Sequence[Messages], max_tokens: int, on_outcome: Callable[[int, Outcome], None]
    ) -> None:
        for number, messages in enumerate(conversations):
            self.asked.append(messages[-1]["content"])
            on_outcome(number, self.script(self.asked[-1]))


def fair(text: str) -> Completion:
    """Reply as a fair judge: an answer is right if it names Rome."""
    return CORRECT if "Rome" in text.split("<answer>")[1] else WRONG


def write_answers(folder: Path, *answers: str, benchmark: str = "locomo", **fields: Any) -> Path:
    """Write an evaluation folder with one question per answer; `fields` go into its predictions."""
    common = {"dialogue_id": "d1", "category": "4", "metrics": {}, "gold": "Rome"}
    rows = [
        Prediction(**{**common, "question_id": f"q{n}", "question": f"Where is {n}?", **fields}, prediction=answer)
        for n, answer in enumerate(answers)
    ]
    rewrite_rows(folder / PREDICTIONS, [row.to_dict() for row in rows])
    rewrite_rows(folder / OPERATIONS, [])
    write_run(folder, RunInfo(benchmark, "test", "rag"))
    return folder
