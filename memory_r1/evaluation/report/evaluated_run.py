"""One evaluated run for the pages: its records, its numbers, and the outcome of each question."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from memory_r1.evaluation.records import OperationRow, Prediction, RunInfo, read_operations, read_run
from memory_r1.evaluation.scoring.diagnosis import History, Step, failed_step
from memory_r1.evaluation.scoring.results import METRICS, judges_of, scored_predictions, summarize

# The metrics in the benchmarks' papers; elsewhere those of the demo's claims.
_HEADLINES = dict.fromkeys(("locomo", "longmemeval", "msc"), ("f1_mem0", "bleu1", "judge"))
_HEADLINE = ("exact_match", "f1_squad", "judge")


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """The content of an evaluation folder; `results` is as in `results.json`, and `steps` has one per prediction."""

    title: str
    folder: Path
    predictions: tuple[Prediction, ...]
    operations: tuple[OperationRow, ...]
    run: RunInfo
    results: dict[str, Any]
    history: History
    steps: tuple[Step, ...]

    @classmethod
    def read(cls, folder: Path | str, title: str = "") -> Self:
        """Read a folder and recompute its results; the title defaults to the memory system's name.

        Raises:
            DataError: A file is missing or malformed, or a question was answered twice.
        """
        folder = Path(folder)
        predictions, operations, run = scored_predictions(folder), read_operations(folder), read_run(folder)
        history = History(operations)
        return cls(
            title=title or run.system,
            folder=folder,
            predictions=tuple(predictions),
            operations=tuple(operations),
            run=run,
            results=summarize(predictions, operations, run, judges_of(folder)),
            history=history,
            steps=tuple(failed_step(prediction, history) for prediction in predictions),
        )

    @property
    def headline(self) -> list[str]:
        """The main metrics: those of the benchmark's papers that were measured."""
        names = _HEADLINES.get(self.run.benchmark.split("-")[0], _HEADLINE)
        return [name for name in names if self.results["overall"].get(name)]

    @property
    def measured(self) -> list[str]:
        """Every metric that has a value."""
        return [name for name, value in self.results["overall"].items() if value]

    @property
    def cards(self) -> list[str]:
        """The metrics that get their own card; the others, such as recall at several k, fill a table."""
        rubrics = [name for name in self.measured if name.startswith("judge_")]
        return [name for name in self.measured if name in METRICS] + (rubrics if len(rubrics) > 1 else [])

    @property
    def judges(self) -> dict[str, str]:
        """Maps each judge metric to the judge's model."""
        return {name: row["judge"] for name, row in (self.results["verdicts"] or {}).items()}

    @property
    def judged(self) -> bool:
        """Whether correctness is a judge's verdict, not an exact match."""
        return bool(self.results["overall"].get("judge"))

    @property
    def dialogues(self) -> int:
        """The number of dialogues with questions."""
        return len({prediction.dialogue_id for prediction in self.predictions})

    @property
    def tokens_per_question(self) -> float:
        """The total tokens per question, including its share of building the memory."""
        cost = self.results["cost"]
        return float(cost["write_tokens"] + cost["read_tokens"]) / max(len(self.predictions), 1)

    def step_counts(self) -> dict[str, int]:
        """Count questions by outcome, from the earliest failure to the right answer, without empty failure steps."""
        counts = Counter(self.steps)
        return {step.value: counts[step] for step in Step if counts[step] or step is Step.CORRECT}
