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
`--results docs/results` publishes it.
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
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.resume import alone_in
from memory_r1.jsonl import read_json, write_json
from memory_r1.models import adapter_hash
from recipes.commands import evaluation, recipe_fields, training
from recipes.records import evaluation_record, questions_of, training_record
from recipes.tables import TABLES, evaluations_of
from recipes.task_graph import Task, add_jobs, run_tasks

STAGES = ("train", "controls", *TABLES)
CEILING_SEED = 0  # the ceiling, and the base model, are one run for all seeds
HASHED = {"warm_start": "warm_start", "manager_adapter": "manager_adapter", "answer_adapter": "answer_folder"}
"""Fields of a recipe that name an adapter to the name under which its hash is kept."""
console = Console()


class Experiment:
    """All runs of one seed in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed

    def run(self, stages: Sequence[str], console: Console, jobs: int | None = None) -> None:
        """Train what the stages need, and evaluate what their tables compare.

        Raises:
            ConfigurationError: The folder holds a run or an evaluation of another seed, or of adapters that are not
                there any more.
        """
        self._refuse_stale()
        trained = [*self._schedule(), *self._controls()]
        evaluated = self._evaluations(stages)
        wanted = {name for task in evaluated for name in task.after}
        wanted |= {task.name for task in self._schedule() if "train" in stages}
        wanted |= {task.name for task in self._controls() if "controls" in stages}
        for task in reversed(trained):  # each stands after those it needs
            if task.name in wanted:
                wanted.update(task.after)
        left = [task for task in trained if task.name in wanted and not self._is_trained(task.name)]
        run_tasks([*left, *evaluated], self.folder / "logs", console, jobs=jobs)

    def record(self) -> dict[str, Any]:
        """Return what may be published of all finished runs and evaluations."""
        evaluated = self._evaluated()
        questions = questions_of(evaluated[0]) if evaluated else {}
        for folder in evaluated:
            if questions_of(folder) != questions:
                raise DataError(f"{folder} and {evaluated[0]} asked different questions; remove one and run it again")
        return {
            "seed": self.seed,
            "questions": questions,
            "training": {folder.name: training_record(folder) for folder in self._trained()},
            "evaluations": {folder.name: evaluation_record(folder) for folder in evaluated},
        }

    def _trained(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("*/training_summary.json"))

    def _evaluated(self) -> list[Path]:
        return sorted(path.parent for path in (self.folder / "eval").glob("*/results.json"))

    def _refuse_stale(self) -> None:
        """Refuse finished runs and evaluations whose seed or adapters are not those of this folder."""
        from memory_r1.evaluation.records import read_run

        hashes = {row.name: adapter_hash(row) for row in self._trained()}
        for folder in self._trained():
            recipe = read_json(folder / "training_summary.json")["recipe"]
            if recipe["seed"] != self.seed:
                raise ConfigurationError(
                    f"{folder} was trained with seed {recipe['seed']}, not {self.seed}; give another --folder"
                )
            for field, hashed in HASHED.items():
                if f"{hashed}_sha256" in recipe:
                    self._check_adapter(folder, Path(recipe[field]).name, recipe[f"{hashed}_sha256"], hashes)
        for folder in self._evaluated():
            config = read_run(folder).config
            for agent, row in zip(("manager", "answer"), folder.name.split(".")[1:], strict=True):
                if f"{agent}_sha256" in config:
                    self._check_adapter(folder, f"{agent}_{row}", config[f"{agent}_sha256"], hashes)

    def _check_adapter(self, folder: Path, row: str, used: str, hashes: dict[str, str]) -> None:
        if hashes.get(row) != used:
            raise ConfigurationError(
                f"{folder} used another {row} than {self.folder / row}; remove {folder.name} to run it again"
            )

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
            self._continued("answer", "worked", answer, **self._rows_of("answer"), learning_rate=5e-4),
        ]
        if self.seed == CEILING_SEED:
            labelled = {**self._rows_of("manager"), "dataset": "everyday-labelled", "learning_rate": 5e-4}
            tasks.append(self._continued("manager", "gold", ("manager_grpo",), **labelled))
        return tasks

    def _rows_of(self, agent: str) -> dict[str, Any]:
        """The fields of the agent's GRPO recipe that say which rows it learns from and is validated on."""
        recipe = recipe_fields(agent, "grpo")
        fields = ["dataset", "train_dialogues", "validation_dialogues"]
        fields += ["max_validation_rows", "banks", "answerable_only"] if agent == "answer" else []
        return {field: recipe[field] for field in fields}

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
        """SFT from the warm start for as many CPU seconds as the runs that it stands against took.

        The steps, over which the learning rate falls, are an estimate; the seconds end the run.
        """
        start = f"{agent}_sft"

        def command() -> Sequence[str]:
            sft = training_record(self.folder / start)
            seconds = sum(training_record(self.folder / row)["cpu_seconds"] for row in instead_of)
            steps = max(1, round(seconds / sft["cpu_seconds"] * sft["steps"]))
            told = {"max_steps": steps, "max_cpu_seconds": seconds, "learning_rate": 2e-4, "patience": 0, **options}
            return self._train(agent, "sft", name, warm_start=start, **told).command()

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
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="publish the record there too, once all is done")
    add_jobs(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    folder = options.folder or Path("outputs/reproduce") / f"seed{options.seed}"
    experiment = Experiment(folder, options.seed)
    name = f"everyday-seed{options.seed}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, "reproduction"):
        try:
            experiment.run([options.stage] if options.stage else STAGES, console, options.jobs)
        finally:  # a run of hours that is cut keeps what it has shown so far
            path = write_json(folder / name, experiment.record(), indent=None)
    if options.results:
        path = write_json(options.results / name, experiment.record(), indent=None)
    console.print(f"written to {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
