"""The committed experiments on one CPU: what reinforcement on written chats adds to a warm start on generated ones.

    make reproduce-cpu SEED=0
    make reproduce-cpu SEED=0 STAGE=train

Stages: `train` is the schedule itself: both agents are warmed up on generated, labelled dialogues; then, from the
questions and answers of everyday chats alone, the Answer Agent learns over plain turns, the Memory Manager under it,
and the Answer Agent again on that manager's banks (as in the paper's appendix E). `controls` trains what the same time,
or the same information, gives without reinforcement. The others evaluate one table each on the test chats: `answer`
(Answer Agents on identical banks), `manager` (managers under one frozen Answer Agent), `both`, and `systems` (other
memory systems with the trained Answer Agent).

What is finished is not run again, and an interrupted run goes on from its last checkpoint. Two commands run at a time
where there are two cores. The record, without any text of the chats, goes to `everyday-seed<N>.json` beside the runs;
`--results docs/results` publishes it instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from memory_r1.entry import run_main
from memory_r1.jsonl import write_json
from recipes.commands import evaluation, training
from recipes.records import evaluation_record, questions_of, training_record
from recipes.tables import TABLES, evaluations_of
from recipes.task_graph import Task, add_jobs, run_tasks

STAGES = ("train", "controls", *TABLES)
CEILING_SEED = 0  # the ceiling, and the base model, are one run for all seeds
console = Console()


class Experiment:
    """All runs of one seed in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed

    def run(self, stages: Sequence[str], console: Console, jobs: int | None = None) -> None:
        """Train what the stages need, and evaluate what their tables compare."""
        tasks = self._schedule()
        if set(stages) - {"train"}:
            tasks += self._controls()
        left = [task for task in tasks if not self._is_trained(task.name)]
        run_tasks([*left, *self._evaluations(stages)], self.folder / "logs", console, jobs=jobs)

    def record(self) -> dict[str, Any]:
        """Return what may be published of all finished runs and evaluations."""
        trained = sorted(path.parent for path in self.folder.glob("*/training_summary.json"))
        evaluated = sorted(path.parent for path in (self.folder / "eval").glob("*/results.json"))
        return {
            "seed": self.seed,
            "questions": questions_of(evaluated[0]) if evaluated else {},  # every evaluation asks the same
            "training": {folder.name: training_record(folder) for folder in trained},
            "evaluations": {folder.name: evaluation_record(folder) for folder in evaluated},
        }

    def _schedule(self) -> list[Task]:
        """The alternating schedule, in the order of its dependencies."""
        return [
            self._train("manager", "sft"),
            self._train("answer", "sft"),
            self._train("answer", "grpo", "turns", after=("answer_sft",), warm_start="answer_sft"),
            self._train("manager", "grpo", **self._under_turns()),
            self._train("answer", "grpo", **self._on_final_banks("answer_turns")),
        ]

    def _controls(self) -> list[Task]:
        """What equal time or equal information gives without reinforcement."""
        imitated: dict[str, Any] = {"best_of_group": True}
        answer = ("answer_turns", "answer_grpo")
        tasks = [
            self._train("manager", "grpo", "best", **self._under_turns(), **imitated),
            self._train("answer", "grpo", "best_turns", after=("answer_sft",), warm_start="answer_sft", **imitated),
            self._train("answer", "grpo", "best", **self._on_final_banks("answer_best_turns"), **imitated),
            self._continued("manager", "sft_continued", ("manager_grpo",)),
            self._continued("answer", "sft_continued", answer),
            # Question, answer and evidence make a worked answer, so no label is needed that GRPO does not have.
            self._continued("answer", "worked", answer, dataset="everyday", banks="turns"),
        ]
        if self.seed == CEILING_SEED:
            tasks.append(self._continued("manager", "gold", ("manager_grpo",), dataset="everyday-labelled"))
        return tasks

    def _under_turns(self) -> dict[str, Any]:
        return {
            "after": ("manager_sft", "answer_turns"),
            "warm_start": "manager_sft",
            "manager_adapter": "manager_sft",
            "answer_adapter": "answer_turns",
        }

    def _on_final_banks(self, start: str) -> dict[str, Any]:
        return {
            "after": (start, "manager_grpo"),
            "warm_start": start,
            "banks": "manager",
            "manager_adapter": "manager_grpo",
        }

    def _train(self, agent: str, method: str, name: str = "", *, after: tuple[str, ...] = (), **options: Any) -> Task:
        """A run of the agent's recipe of this method; options that name an adapter of this seed become its folder."""
        row = f"{agent}_{name or method}"
        adapters = ("warm_start", "manager_adapter", "answer_adapter")
        told = {key: self.folder / value if key in adapters else value for key, value in options.items()}
        command = training(agent, method, output_dir=self.folder / row, seed=self.seed, **told)
        return Task(row, partial(list, command), after)

    def _continued(self, agent: str, name: str, instead_of: tuple[str, ...], **options: Any) -> Task:
        """SFT from the warm start for as many CPU seconds as the runs that it stands against took."""
        start = f"{agent}_sft"

        def command() -> Sequence[str]:
            sft = training_record(self.folder / start)
            seconds = sum(training_record(self.folder / row)["cpu_seconds"] for row in instead_of)
            steps = max(1, round(seconds / sft["cpu_seconds"] * sft["steps"]))
            told = {"warm_start": start, "max_steps": steps, "learning_rate": 2e-4, "patience": 0, **options}
            return self._train(agent, "sft", name, **told).command()

        return Task(f"{agent}_{name}", command, (start, *instead_of))

    def _is_trained(self, row: str) -> bool:
        return (self.folder / row / "training_summary.json").is_file()

    def _evaluations(self, stages: Sequence[str]) -> list[Task]:
        """Evaluations that are not finished. The first of each manager writes its banks, which the others wait for."""
        tasks: dict[str, Task] = {}
        writers: dict[str, str] = {}
        for name in (name for stage in stages for name in evaluations_of(stage, ceiling=self.seed == CEILING_SEED)):
            if name in tasks or (self.folder / "eval" / name / "results.json").is_file():
                continue
            system, manager, answer = name.split(".")
            rows = {"manager": manager, "answer": answer}
            adapters = {agent: self.folder / f"{agent}_{row}" for agent, row in rows.items() if row not in ("", "base")}
            after = [folder.name for folder in adapters.values()]
            if system == "memory-r1" and (writer := writers.setdefault(manager, name)) != name:
                after.append(writer)
            command = [
                *evaluation(self.folder / "eval" / name, system, adapters.get("manager"), adapters.get("answer")),
                f"--banks={self.folder / 'banks'}",
            ]
            tasks[name] = Task(name, partial(list, command), tuple(after))
        return list(tasks.values())


def main(argv: Sequence[str]) -> int:
    """Run the stages asked for, each after those it needs, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, help="one stage (default: all); `train` always runs first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="default: outputs/reproduce/seed<N>")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="where the record goes (default: beside the runs)"
    )
    add_jobs(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    folder = options.folder or Path("outputs/reproduce") / f"seed{options.seed}"
    experiment = Experiment(folder, options.seed)
    try:
        experiment.run([options.stage] if options.stage else STAGES, console, options.jobs)
    finally:  # a run of hours that is cut keeps what it has shown so far
        path = write_json(
            (options.results or folder) / f"everyday-seed{options.seed}.json", experiment.record(), indent=None
        )
    console.print(f"written to {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
