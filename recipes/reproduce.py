"""The committed experiments on one CPU: who learned what, against fair controls, on held-out synthetic dialogues.

    make reproduce-cpu STAGE=answer
    make reproduce-cpu                  # all stages

Stages: `train` (the demo's SFT and GRPO adapters, SFT continued on the same labels for the time of GRPO's steps, and
SFT with gold for all dialogues as the ceiling), then one table each: `answer` (Answer Agents on identical banks),
`manager` (managers under one frozen Answer Agent), `both`, and `baselines` (other systems with the trained Answer
Agent). Every table trains all adapters that are missing first; what is finished is not run again. Two commands run at a
time where they can. Tables go to `cpu-seed<N>.json` beside the runs, without any text of the dialogues; `--results
docs/results` publishes them instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json, write_json
from recipes.commands import evaluation, training
from recipes.task_graph import Task, add_jobs, run_tasks

STAGES = ("train", "answer", "manager", "both", "baselines")
ROWS = ("base", "sft", "sft-continued", "grpo", "sft-all-labels")
AGENTS = ("manager", "answer")
NEEDED = {"sft", "sft-continued", "grpo"}
BASELINES = ("none", "rag", "oracle", "add-only")
console = Console()


class Experiment:
    """All runs of one seed in one folder; `rows` are those of `ROWS` that are trained and compared."""

    def __init__(self, folder: Path, seed: int, rows: Sequence[str] = ROWS) -> None:
        self.folder = folder
        self.seed = seed
        self.rows = rows

    def run(self, stages: Sequence[str], console: Console, jobs: int | None = None) -> None:
        """Train every adapter of the tables, and evaluate what the tables of `stages` compare."""
        run_tasks([*self._training(), *self._evaluations(stages)], self.folder / "logs", console, jobs=jobs)

    def table(self, stage: str) -> list[dict[str, Any]]:
        """A stage's rows, with paired differences to SFT continued, or of other systems to the trained one."""
        folders = {row: self._evaluation_folder(*compared) for row, compared in self._compared(stage).items()}
        return _rows(folders, "memory-r1" if stage == "baselines" else "sft-continued")

    def _training(self) -> list[Task]:
        """Training that is not finished, the longest way first, as in the demo."""
        sft = {agent: self.folder_of(agent, "sft") for agent in AGENTS}
        start = {agent: {"warm_start": sft[agent], "manager_adapter": sft["manager"]} for agent in AGENTS}
        both = ("manager sft", "answer sft")
        tasks = [
            *(self._train(agent, "sft") for agent in AGENTS),
            self._train("manager", "grpo", both, answer_adapter=sft["answer"], **start["manager"]),
            *(self._train_all_labels(agent) for agent in AGENTS if "sft-all-labels" in self.rows),
            self._train("answer", "grpo", both, **start["answer"]),
            *(self._train_continued(agent) for agent in AGENTS if "sft-continued" in self.rows),
        ]
        finished = {folder.name for folder in self.folder.glob("*") if (folder / "training_summary.json").is_file()}
        return [task for task in tasks if task.name.replace(" ", "_").replace("-", "_") not in finished]

    def _train(self, agent: str, method: str, after: tuple[str, ...] = (), **options: object) -> Task:
        """A row of the tables that is named after its method."""
        command = training(agent, method, output_dir=self.folder_of(agent, method), seed=self.seed, **options)
        return Task(f"{agent} {method}", lambda: command, after)

    def _train_continued(self, agent: str) -> Task:
        def command() -> list[str]:
            sft, folder = self.folder_of(agent, "sft"), self.folder_of(agent, "sft-continued")
            options = {"warm_start": sft, "max_steps": self._continued_steps(agent), "learning_rate": 2e-4}
            return training(agent, "sft", output_dir=folder, seed=self.seed, **options)

        return Task(f"{agent} sft-continued", command, (f"{agent} sft", f"{agent} grpo"))

    def _train_all_labels(self, agent: str) -> Task:
        def command() -> list[str]:
            labelled = 30  # the 24 labelled dialogues and the 6 that GRPO learned from without labels
            steps = round(self.summary(agent, "sft")["steps"] * labelled / 24)
            folder = self.folder_of(agent, "sft-all-labels")
            options = {"train_dialogues": labelled, "max_steps": steps}
            return training(agent, "sft", output_dir=folder, seed=self.seed, **options)

        return Task(f"{agent} sft-all-labels", command, (f"{agent} sft",))

    def _evaluations(self, stages: Sequence[str]) -> list[Task]:
        """Evaluations that are not finished. The first of each manager writes its banks, which the others wait for."""
        tasks: dict[Path, Task] = {}
        writers: dict[str | None, str] = {}
        for system, manager, answer in (compared for stage in stages for compared in self._compared(stage).values()):
            folder = self._evaluation_folder(system, manager, answer)
            if folder in tasks or (folder / "results.json").is_file():
                continue
            rows = {"manager": manager, "answer": answer}
            adapters = {agent: self.folder_of(agent, row) for agent, row in rows.items() if row not in (None, "base")}
            after = [f"{agent} {rows[agent]}" for agent in adapters]
            if system == "memory-r1" and (writer := writers.setdefault(manager, folder.name)) != folder.name:
                after.append(writer)
            command = [
                *evaluation(folder, system, adapters.get("manager"), adapters.get("answer")),
                f"--banks={self.folder / 'banks'}",
            ]
            tasks[folder] = Task(folder.name, partial(list, command), tuple(after))
        return list(tasks.values())

    def _compared(self, stage: str) -> dict[str, tuple[str, str | None, str]]:
        """What the rows of a stage's table are: system, row of its manager, row of its Answer Agent."""
        if stage == "baselines":
            systems = {system: (system, "grpo" if system == "add-only" else None, "grpo") for system in BASELINES}
            return {**systems, "memory-r1": ("memory-r1", "grpo", "grpo")}
        pairs = {
            "train": {},
            "answer": {row: ("sft", row) for row in self.rows},
            "manager": {row: (row, "sft") for row in self.rows},
            "both": {row: (row, row) for row in self.rows},
        }[stage]
        return {row: ("memory-r1", *pair) for row, pair in pairs.items()}

    def _evaluation_folder(self, system: str, manager: str | None, answer: str) -> Path:
        """Where an evaluation lies; the demo's folder holds those of both agents at one stage already."""
        of_demo = self.folder / f"eval_{manager}"
        if system == "memory-r1" and manager == answer and (of_demo / "results.json").is_file():
            return of_demo
        return self.folder / "eval" / (f"{system}.{manager}.{answer}" if system == "memory-r1" else system)

    def folder_of(self, agent: str, row: str) -> Path:
        """Where a trained adapter lies."""
        return self.folder / f"{agent}_{row.replace('-', '_')}"

    def summary(self, agent: str, row: str) -> dict[str, Any]:
        """`training_summary.json` of an adapter."""
        return read_json(self.folder_of(agent, row) / "training_summary.json")

    def _continued_steps(self, agent: str) -> int:
        """SFT steps that take as long as the agent's GRPO steps took, validation and rollouts included.

        Times are those of the training loops: neither loading nor playing the manager's banks is training.
        """
        sft, grpo = self.summary(agent, "sft"), self.summary(agent, "grpo")
        return max(1, round(_loop_seconds(grpo) / _loop_seconds(sft) * sft["steps"]))


def _loop_seconds(summary: dict[str, Any]) -> float:
    """Seconds of a run's training loop, as transformers logs them at its end."""
    return float(next(row["train_runtime"] for row in reversed(summary["log_history"]) if "train_runtime" in row))


def _rows(folders: dict[str, Path], control: str) -> list[dict[str, Any]]:
    from memory_r1.evaluation.records import read_predictions
    from memory_r1.evaluation.scoring.comparison import metric_difference

    predictions = {name: read_predictions(folder) for name, folder in folders.items()}
    rows = []
    for name, folder in folders.items():
        results = read_json(folder / "results.json")
        difference = metric_difference(predictions[name], predictions[control], "f1_squad")
        rows.append(
            {
                "row": name,
                "n_questions": results["n_questions"],
                "exact_match": results["overall"]["exact_match"],
                "f1_squad": results["overall"]["f1_squad"],
                "evidence_recall": results["overall"]["evidence_recall"],
                "operations": results["operations"],
                f"f1_less_{control}": difference and dataclasses.asdict(difference),
                "f1_by_category": {key: value["f1_squad"]["mean"] for key, value in results["by_category"].items()},
            }
        )
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the stages asked for, each after those it needs, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, help="one stage (default: all); `train` always runs first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="rows of the tables (default: all)")
    parser.add_argument("--folder", type=Path, help="default: outputs/reproduce/seed<N>; the demo's holds its adapters")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the tables go (default: beside the runs)")
    add_jobs(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    if missing := NEEDED - set(options.rows):
        raise ConfigurationError(
            f"--rows lacks {', '.join(sorted(missing))}, which every table compares with; add them"
        )
    folder = options.folder or Path("outputs/reproduce") / f"seed{options.seed}"
    experiment = Experiment(folder, options.seed, options.rows)
    stages = [options.stage] if options.stage else STAGES
    experiment.run(stages, console, options.jobs)
    path = (options.results or folder) / f"cpu-seed{options.seed}.json"
    tables = read_json(path) if path.is_file() else {"seed": options.seed, "tables": {}}
    for stage in stages:
        if stage != "train":
            tables["tables"][stage] = experiment.table(stage)
            tables["training"] = {
                f"{agent}_{row}": {
                    key: experiment.summary(agent, row).get(key)
                    for key in ("steps", "wall_seconds", "best_validation", "start_validation", "kept_start")
                }
                for agent in AGENTS
                for row in options.rows
                if row != "base"
            }
            write_json(path, tables)
            console.print(f"{stage}: written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
