"""Stand-ins for the commands that a pipeline of recipes runs: they leave the folders that the real ones leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memory_r1.evaluation.records import OperationRow, Prediction, RunInfo, write_run
from memory_r1.evaluation.results import write_results
from memory_r1.jsonl import rewrite_rows, write_json
from memory_r1.types import OperationKind

N_QUESTIONS = 4
STEPS = {"sft": 24, "grpo": 10}
WALL_SECONDS = {"sft": 60.0, "grpo": 900.0}
LOOP_SECONDS = {"sft": 30.0, "grpo": 100.0}
# How many of the questions an Answer Agent of each method gets right; the base model has no adapter.
RIGHT = {"base": 0, "sft": 1, "sft_continued": 2, "grpo": 3, "sft_all_labels": 4}


class FakeCommands:
    """`launch` and `run_python` as recipes call them; `calls` names the folder (or module) of each, in order.

    With `fail_at`, the command with that name raises, as one that is interrupted would.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.options: dict[str, dict[str, Any]] = {}
        self.fail_at: str | None = None

    def launch(self, agent: str, method: str, **options: Any) -> None:
        folder = Path(options["output_dir"])
        self._note(folder.name, {"agent": agent, "method": method, **options})
        write_json(
            folder / "training_summary.json",
            {
                "steps": options.get("max_steps", STEPS[method]),
                "wall_seconds": WALL_SECONDS[method],
                "best_validation": 0.5,
                "start_validation": 0.25,
                "kept_start": False,
                "log_history": [
                    {"step": 1, "reward": 0.1},
                    {"step": 2, "reward": 0.2},
                    {"step": 2, "train_runtime": LOOP_SECONDS[method]},
                ],
            },
        )
        rewrite_rows(
            folder / "completions.jsonl",
            [
                {"step": step, "prompt": "Turn: hello", "completion": f"{agent} wrote", "rewards": {"answer_f1": 0.5}}
                for step in (1, 2)
            ],
        )

    def run_python(self, *arguments: str) -> None:
        if arguments[0] == "-m":
            self._note(arguments[1], {})
            return
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[1:])
        folder = Path(given["output"])
        self._note(folder.name, {"script": arguments[0], **given})
        write_evaluation(folder, given.get("system", "memory-r1"), given.get("answer"))

    def _note(self, name: str, options: dict[str, Any]) -> None:
        if name == self.fail_at:
            raise InterruptedError(f"told to stop at {name}")
        self.calls.append(name)
        self.options[name] = options


def write_evaluation(folder: Path, system: str, answer: str | None) -> None:
    """An evaluation folder of two dialogues with two questions each; the Answer Agent's adapter decides the scores."""
    right = RIGHT[Path(answer).name.split("_", 1)[1] if answer else "base"]
    rows = []
    for number in range(N_QUESTIONS):
        value = float(number < right)
        metrics = {"exact_match": value, "f1_squad": value, "evidence_recall": 0.5}
        rows.append(Prediction(f"q{number}", f"d{number % 2}", "recall", metrics, "Where?", "Oslo", "Oslo"))
    rewrite_rows(folder / "predictions.jsonl", [row.to_dict() for row in rows])
    operation = OperationRow("d0", "t1", OperationKind.ADD, 1, "Ann lives in Oslo", "applied")
    rewrite_rows(folder / "operations.jsonl", [operation.to_dict()])
    write_run(folder, RunInfo("synthetic", "heldout", system))
    write_results(folder)
