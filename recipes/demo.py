"""The whole pipeline on one CPU: train both agents, and show what that changed on held-out dialogues.

    make demo

Stages: models, SFT of both agents, GRPO of the manager against the frozen SFT Answer Agent, GRPO of the Answer Agent on
the banks of the SFT manager, evaluation of base / SFT / GRPO, report. Two stages run at a time where they can; each is
a command that can be run by hand. Started again, the demo goes on with the stages that are not finished.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memory_r1.entry import run_main
from memory_r1.jsonl import read_json, write_json
from recipes.commands import evaluation, training
from recipes.task_graph import Task, add_jobs, run_tasks

STAGES = ("base", "sft", "grpo")
METRICS = ("exact_match", "f1_squad")
console = Console()


class Demo:
    """The stages of the demo in one folder; what is finished, and the time it took, survives an interruption."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "seconds.json"
        self.finished: dict[str, Any] = read_json(self.record) if self.record.is_file() else {"wall": 0.0, "stages": {}}

    def tasks(self) -> list[Task]:
        """The stages, each with those whose results it reads.

        The longest way comes first, and the Answer Agent's GRPO late: by then its banks, those of the manager's GRPO,
        are written.
        """
        sft = {agent: self.adapter(agent, "sft") for agent in ("manager", "answer")}
        start = {"manager_adapter": sft["manager"], "answer_adapter": sft["answer"]}
        both = ("manager sft", "answer sft")
        return [
            Task("models", lambda: ["-m", "memory_r1.models"]),
            self._train("manager", "sft", ("models",)),
            self._train("answer", "sft", ("models",)),
            self._evaluate("base", ("models",)),
            self._train("manager", "grpo", both, warm_start=sft["manager"], **start),
            self._evaluate("sft", both),
            self._train("answer", "grpo", both, warm_start=sft["answer"], manager_adapter=sft["manager"]),
            self._evaluate("grpo", ("manager grpo", "answer grpo")),
        ]

    def run(self, jobs: int | None) -> None:
        """Run the stages that no earlier launch finished."""
        before, started = self.finished["wall"], time.monotonic()

        def record() -> None:
            self.finished["wall"] = before + time.monotonic() - started
            write_json(self.record, self.finished)

        def ended(name: str, seconds: float) -> None:
            self.finished["stages"][name] = seconds
            record()

        for name in self.finished["stages"]:
            console.print(f"[dim]{name}: done before[/dim]")
        left = [task for task in self.tasks() if task.name not in self.finished["stages"]]
        try:
            run_tasks(left, self.folder / "logs", console, ended, jobs)
        finally:
            if left:  # the work of a stage that was cut is not lost, so its time counts
                record()

    def _train(self, agent: str, method: str, after: tuple[str, ...], **paths: Path) -> Task:
        command = training(agent, method, output_dir=self.adapter(agent, method), **paths)
        return Task(f"{agent} {method}", lambda: command, after)

    def _evaluate(self, stage: str, after: tuple[str, ...]) -> Task:
        manager, answer = (None if stage == "base" else self.adapter(agent, stage) for agent in ("manager", "answer"))
        command = evaluation(self.folder / f"eval_{stage}", "memory-r1", manager, answer)
        return Task(f"{stage} evaluation", lambda: command, after)

    def adapter(self, agent: str, stage: str) -> Path:
        """The adapter folder of an agent at a stage."""
        return self.folder / f"{agent}_{stage}"

    def results(self, stage: str) -> dict[str, Any]:
        """`results.json` of a stage's evaluation."""
        return read_json(self.folder / f"eval_{stage}" / "results.json")


def main(argv: Sequence[str]) -> int:
    """Run all stages, print the table, write `summary.json` and `report.html`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), metavar="FOLDER")
    add_jobs(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    demo = Demo(options.output)
    demo.run(options.jobs)
    report = write_report(demo)
    summary = {
        "wall_seconds": round(demo.finished["wall"], 1),
        "stages": [stage_summary(demo, stage) for stage in STAGES],
        "manager_adapter": str(demo.adapter("manager", "grpo")),
        "answer_adapter": str(demo.adapter("answer", "grpo")),
        "report": str(report),
        "seconds": demo.finished["stages"],
    }
    write_json(demo.folder / "summary.json", summary)
    show(summary)
    return 0


def stage_summary(demo: Demo, stage: str) -> dict[str, Any]:
    """A stage's row of `summary.json`."""
    results = demo.results(stage)
    return {
        "name": stage,
        **{metric: results["overall"][metric] for metric in METRICS},
        "n_questions": results["n_questions"],
    }


def write_report(demo: Demo) -> Path:
    """One page with the table, paired differences, training curves and sampled completions."""
    from memory_r1.evaluation.records import read_predictions
    from memory_r1.evaluation.report.write import Stage, write_stage_report
    from memory_r1.evaluation.scoring.comparison import metric_difference
    from recipes.logs import curves, samples

    stages = [Stage.from_folder(stage, demo.folder / f"eval_{stage}") for stage in STAGES]
    rows = {stage: read_predictions(demo.folder / f"eval_{stage}") for stage in STAGES}
    differences = {
        f"token F1, {later} less {earlier}": metric_difference(rows[later], rows[earlier], "f1_squad")
        for later, earlier in (("grpo", "base"), ("grpo", "sft"), ("sft", "base"))
    }
    folders = {agent: demo.adapter(agent, "grpo") for agent in ("manager", "answer")}
    return write_stage_report(
        demo.folder / "report.html",
        stages,
        samples=[sample for agent, folder in folders.items() for sample in samples(agent, folder)],
        curves=[curve for agent, folder in folders.items() for curve in curves(agent, folder)],
        differences=differences,
        facts={
            "wall time, minutes": round(demo.finished["wall"] / 60, 1),
            "held-out dialogues": len({row.dialogue_id for row in rows["base"]}),
        },
    )


def show(summary: dict[str, Any]) -> None:
    """Print the before/after table."""
    table = Table(title=f"held-out dialogues, {summary['stages'][0]['n_questions']} questions, 95% intervals")
    for heading in ("both agents", *METRICS):
        table.add_column(heading)
    for stage in summary["stages"]:
        cells = [stage[metric] for metric in METRICS]
        table.add_row(stage["name"], *(f"{c['mean']:.3f} ({c['low']:.3f} to {c['high']:.3f})" for c in cells))
    console.print(table)
    console.print(f"{summary['wall_seconds'] / 60:.1f} minutes; report: {summary['report']}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
