"""The whole pipeline on one CPU: train both agents, and show what that changed on held-out dialogues.

    make demo

Stages: models, SFT of both agents, GRPO of the manager against the frozen SFT Answer Agent, GRPO of the Answer Agent on
the banks of the SFT manager, evaluation of base / SFT / GRPO, report. Each stage is a command that can be run by hand;
started again, the demo goes on with the first stage that is not finished.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memory_r1.entry import run_main
from memory_r1.jsonl import read_json, write_json
from recipes.commands import launch, run_python

STAGES = ("base", "sft", "grpo")
METRICS = ("exact_match", "f1_squad")
console = Console()


class Demo:
    """The stages of the demo in one folder; `seconds` of finished stages survive an interruption."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "seconds.json"
        self.seconds: dict[str, float] = read_json(self.record) if self.record.is_file() else {}

    def run(self, name: str, action: Callable[[], None]) -> None:
        """Run a stage unless an earlier launch finished it."""
        if name in self.seconds:
            console.print(f"[dim]{name}: done before[/dim]")
            return
        console.rule(name)
        started = time.monotonic()
        action()
        self.seconds[name] = time.monotonic() - started
        write_json(self.record, self.seconds)

    def train(self, agent: str, method: str, **paths: Path) -> None:
        """Launch one training recipe with the demo's own folders."""
        launch(agent, method, output_dir=self.adapter(agent, method), **paths)

    def evaluate(self, stage: str) -> None:
        """Evaluate the system whose two agents are both at `stage`."""
        adapters = (
            [] if stage == "base" else [f"--{agent}={self.adapter(agent, stage)}" for agent in ("manager", "answer")]
        )
        run_python(
            "recipes/evaluate.py",
            "--benchmark=synthetic",
            "--dtype=bfloat16",
            f"--output={self.folder / ('eval_' + stage)}",
            *adapters,
        )

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
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    demo = Demo(parser.parse_args(argv).output)
    sft_manager, sft_answer = demo.adapter("manager", "sft"), demo.adapter("answer", "sft")
    demo.run("models", lambda: run_python("-m", "memory_r1.models"))
    demo.run("base evaluation", lambda: demo.evaluate("base"))
    demo.run("manager sft", lambda: demo.train("manager", "sft"))
    demo.run("answer sft", lambda: demo.train("answer", "sft"))
    demo.run("sft evaluation", lambda: demo.evaluate("sft"))
    demo.run(
        "manager grpo",
        lambda: demo.train(
            "manager", "grpo", warm_start=sft_manager, manager_adapter=sft_manager, answer_adapter=sft_answer
        ),
    )
    demo.run("answer grpo", lambda: demo.train("answer", "grpo", warm_start=sft_answer, manager_adapter=sft_manager))
    demo.run("grpo evaluation", lambda: demo.evaluate("grpo"))
    report = write_report(demo)
    summary = {
        "wall_seconds": round(sum(demo.seconds.values()), 1),
        "stages": [stage_summary(demo, stage) for stage in STAGES],
        "manager_adapter": str(demo.adapter("manager", "grpo")),
        "answer_adapter": str(demo.adapter("answer", "grpo")),
        "report": str(report),
        "seconds": demo.seconds,
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
    from memory_r1.evaluation.report import Stage, write_stage_report
    from memory_r1.evaluation.results import question_dialogues, question_scores
    from memory_r1.evaluation.statistics import paired_difference
    from recipes.logs import curves, samples

    stages = [Stage.from_folder(stage, demo.folder / f"eval_{stage}") for stage in STAGES]
    rows = {stage: read_predictions(demo.folder / f"eval_{stage}") for stage in STAGES}
    scores = {stage: question_scores(rows[stage], "f1_squad") for stage in STAGES}
    groups = question_dialogues(rows["base"])
    differences = {
        f"token F1, {later} less {earlier}": paired_difference(scores[later], scores[earlier], groups)
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
            "wall time, minutes": round(sum(demo.seconds.values()) / 60, 1),
            "held-out dialogues": len(set(groups.values())),
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
