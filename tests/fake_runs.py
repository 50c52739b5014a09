"""Stand-ins for the commands that a pipeline of recipes runs; they leave the same folders as the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from memory_r1.evaluation.records import OperationRow, Prediction, RunInfo, write_run
from memory_r1.evaluation.scoring.results import write_results
from memory_r1.jsonl import rewrite_rows, write_json
from memory_r1.models import adapter_hash
from memory_r1.types import OperationKind
from recipes.reproduce import HASHED
from recipes.task_graph import Running, Task

N_QUESTIONS = 4
DIALOGUES = ("everyday-test-001", "everyday-test-002")
STEPS = {"sft": 24, "grpo": 10}
WALL_SECONDS = {"sft": 60.0, "grpo": 900.0}
LOOP_SECONDS = {"sft": 30.0, "grpo": 100.0}  # of the CPU and of the clock alike
SAMPLING: dict[str, dict[str, Any]] = {"sft": {}, "grpo": {"generation_batch_size": 64, "steps_per_generation": 1}}
LOGGED = {
    "sft": {"reward": 0.1, "eval_loss": 0.5},
    "grpo": {"reward": 0.1, "eval_score": 0.25, "entropy": 0.3, "groups/flat": 0.75},
}
# Questions that each row's Answer Agent gets right; the base model has no adapter.
RIGHT = {"base": 0, "sft": 1, "worked": 1, "sft_continued": 2, "turns": 2, "best": 2, "grpo": 3}


class FakeProcess:
    """A process that has ended, with an unused process id."""

    pid = 2**30

    def __init__(self, returncode: int, ended: Callable[[], None] = lambda: None) -> None:
        self.returncode = returncode
        self.ended = ended

    def poll(self) -> int:
        self.ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode


class FakeCommands:
    """`task_graph.start`, whose commands end at once; `calls` names the folder (or module) of each, in order.

    `before` has for each command those that had ended when it started. The command named `fail_at` ends with status 1
    and leaves only its log.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.before: dict[str, list[str]] = {}
        self.ended: list[str] = []
        self.options: dict[str, dict[str, Any]] = {}
        self.fail_at: str | None = None

    def start(self, task: Task, logs: Path) -> Running:
        command = list(task.command())
        if "accelerate.commands.launch" in command:
            at = command.index("--config")
            options = dict(zip((key.removeprefix("--") for key in command[at::2]), command[at + 1 :: 2], strict=True))
            name, run = Path(options["output_dir"]).name, self._train
        elif command[0] == "-m":
            name, options, run = command[1], {}, lambda options: None
        else:
            options = dict(argument.removeprefix("--").split("=", 1) for argument in command[1:])
            name, run = Path(options["output"]).name, self._evaluate
        log = logs / "fake.log"
        log.write_text("error: told to fail\n")
        if name == self.fail_at:
            return Running(FakeProcess(1), log)
        self.calls.append(name)
        self.before[name] = list(self.ended)
        self.options[name] = options
        run(options)
        return Running(FakeProcess(0, lambda: self.ended.append(name)), log)

    def _train(self, options: dict[str, str]) -> None:
        agent, method = Path(options["config"]).stem.split("_")
        folder = Path(options["output_dir"])
        write_json(
            folder / "training_summary.json",
            {
                **{"agent": agent, "method": method, "seed": int(options.get("seed", 0)), "git_revision": "abc"},
                "recipe": {
                    **{"seed": int(options.get("seed", 0)), "learning_rate": 1e-4, **SAMPLING[method]},
                    **{field: options.get(field) for field in HASHED},
                    **_hashes({hashed: options.get(field) for field, hashed in HASHED.items()}),
                },
                "steps": int(options.get("max_steps", STEPS[method])),
                "wall_seconds": WALL_SECONDS[method],
                "best_validation": 0.5,
                "start_validation": 0.25,
                "kept_start": False,
                "log_history": [
                    {"step": 1, "cpu_seconds": 0.4 * LOOP_SECONDS[method], **LOGGED[method], "lr": 0.1},
                    {"step": 2, "cpu_seconds": 0.8 * LOOP_SECONDS[method], **LOGGED[method], "reward": 0.2},
                    {"step": 2, "cpu_seconds": LOOP_SECONDS[method], "train_runtime": LOOP_SECONDS[method]},
                ],
            },
        )
        write_json(folder / "adapter_config.json", {"of": folder.name, "trained": len(self.calls)})
        save_file({"weight": np.zeros(1, np.float32)}, folder / "adapter_model.safetensors")
        rewrite_rows(
            folder / "completions.jsonl",
            [
                {"step": step, "prompt": "Turn: hello", "completion": f"{agent} wrote", "rewards": {"answer_f1": 0.5}}
                for step in (1, 2)
            ],
        )

    def _evaluate(self, options: dict[str, str]) -> None:
        used = _hashes({agent: options.get(agent) for agent in ("manager", "answer")})
        write_evaluation(Path(options["output"]), options["system"], options.get("answer"), used)


def _hashes(folders: dict[str, str | None]) -> dict[str, str]:
    """The hashes of the adapters that are there."""
    there = {name: Path(folder) for name, folder in folders.items() if folder}
    return {f"{name}_sha256": adapter_hash(folder) for name, folder in there.items() if folder.is_dir()}


def write_evaluation(folder: Path, system: str, answer: str | None, config: dict[str, str] | None = None) -> None:
    """Write an evaluation of two dialogues with two questions each; the Answer Agent's adapter decides the scores."""
    right = RIGHT[Path(answer or "base").name.split("_", 1)[-1]]
    rows = []
    for number in range(N_QUESTIONS):
        value = float(number < right)
        metrics = {"exact_match": value, "f1_squad": value, "evidence_recall": 0.5}
        rows.append(Prediction(f"q{number}", DIALOGUES[number % 2], "recall", metrics, "Where?", "Oslo", "Oslo"))
    rewrite_rows(folder / "predictions.jsonl", [row.to_dict() for row in rows])
    operation = OperationRow(DIALOGUES[0], "s1:1", OperationKind.ADD, 1, "Ann lives in Oslo", "applied")
    rewrite_rows(folder / "operations.jsonl", [operation.to_dict()])
    write_run(folder, RunInfo("synthetic", "heldout", system, config=config or {}))
    write_results(folder)
