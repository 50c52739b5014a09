"""The whole pipeline on one CPU: train both agents, and show what that changed on test chats that nothing trained on.

    make demo

The recipes of `make reproduce-cpu` on a smaller budget: models; SFT of both agents on generated, labelled dialogues;
then, from the questions and answers of everyday chats alone, GRPO of the Answer Agent over plain turns and GRPO of the
Memory Manager under it; evaluation of base, SFT, GRPO and `rag` with the GRPO Answer Agent on the first test chats;
report. Two stages run at a time where they can; each is a command that can be run by hand. Started again, the demo goes
on with the stages that are not finished, if it would run the same commands.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from memory_r1.adapter_settings import SUMMARY
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json, write_json
from memory_r1.weights import hash_file
from recipes.commands import ROOT, evaluation, recipe_fields, training
from recipes.task_graph import Task, add_jobs, run_tasks

if TYPE_CHECKING:
    from memory_r1.evaluation.report.played import PlayedDialogue
    from memory_r1.evaluation.scoring.statistics import PairedDifference

AGENTS = ("manager", "answer")
STAGES = ("base", "sft", "grpo")
TITLES = {"base": "base", "sft": "SFT", "grpo": "GRPO", "rag": "rag, GRPO Answer Agent"}
METRICS = ("exact_match", "f1_squad")
CHATS = 20  # with fewer, an interval would not be over dialogues
# What is smaller than in the recipes. SFT passes once over its rows; GRPO takes 32 completions a step, half as many.
# The manager is validated by rows, since playing chats twice would take as long as four of its steps.
BUDGET: dict[tuple[str, str], dict[str, object]] = {
    ("manager", "sft"): {"max_steps": 60, "train_dialogues": 24, "validation_dialogues": 2},
    ("answer", "sft"): {"max_steps": 40, "train_dialogues": 27, "validation_dialogues": 4},
    ("answer", "grpo"): {
        **{"max_steps": 20, "warmup_steps": 0, "gradient_accumulation_steps": 2},
        "max_validation_rows": 120,
    },
    ("manager", "grpo"): {
        **{"max_steps": 8, "warmup_steps": 0, "gradient_accumulation_steps": 2, "train_dialogues": 8},
        **{"validation": "rows", "validation_dialogues": 4, "max_validation_rows": 32},
    },
}
console = Console()


class Demo:
    """The stages of the demo in one folder; what is finished, and the time it took, survives an interruption."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "seconds.json"
        new: dict[str, Any] = {"wall": 0.0, "stages": {}, "commands_sha256": self._hash_commands()}
        self.finished = read_json(self.record) if self.record.is_file() else new
        lost = [stage for stage in self.finished["stages"] if not self._result(stage).is_file()]
        if lost or self.finished.get("commands_sha256") != new["commands_sha256"]:
            why = f"has lost the results of {', '.join(lost)}" if lost else "holds the runs of another demo"
            raise ConfigurationError(
                f"{folder} {why}, so this one cannot go on there: `rm -r {folder}` or give another folder with --output"
            )

    def tasks(self) -> list[Task]:
        """The stages, each with those whose results it reads; the longest way through them comes first."""
        manager, answer = (self.adapter(agent, "sft") for agent in AGENTS)
        reader = self.adapter("answer", "grpo")
        start = {"warm_start": manager, "manager_adapter": manager}
        return [
            Task("models", lambda: ["-m", "memory_r1.models"]),
            self._train("answer", "sft", ("models",)),
            self._train("manager", "sft", ("models",)),
            self._train("answer", "grpo", ("answer sft",), warm_start=answer),
            self._train("manager", "grpo", ("manager sft", "answer grpo"), **start, answer_adapter=reader),
            self._evaluate("grpo", ("manager grpo", "answer grpo"), self.adapter("manager", "grpo"), reader),
            self._evaluate("base", ("models",)),
            self._evaluate("sft", ("manager sft", "answer sft"), manager, answer),
            self._evaluate("rag", ("answer grpo",), answer=reader),
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
        if left:
            record()
        try:
            run_tasks(left, self.folder / "logs", console, ended, jobs)
        finally:
            if left:  # the work of a stage that was cut is not lost, so its time counts
                record()

    def _train(self, agent: str, method: str, after: tuple[str, ...], **paths: Path) -> Task:
        budget = BUDGET[agent, method]
        once = dict.fromkeys(("eval_steps", "save_steps"), budget["max_steps"])
        command = training(agent, method, output_dir=self.adapter(agent, method), **paths, **budget, **once)
        return Task(f"{agent} {method}", lambda: command, after)

    def _evaluate(
        self, name: str, after: tuple[str, ...], manager: Path | None = None, answer: Path | None = None
    ) -> Task:
        system = "rag" if name == "rag" else "memory-r1"
        command = [*evaluation(self.evaluated(name), system, manager, answer), f"--dialogues={CHATS}"]
        return Task(f"{name} evaluation", lambda: command, after)

    def _hash_commands(self) -> str:
        """Hash what the stages run: their commands, and the recipes that these name."""
        commands = [list(task.command()) for task in self.tasks()]
        recipes = [command[command.index("--config") + 1] for command in commands if "--config" in command]
        content = [commands, [hash_file(ROOT / recipe) for recipe in recipes]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _result(self, stage: str) -> Path:
        """The file that a finished stage has left."""
        first, _, second = stage.partition(" ")
        if second == "evaluation":
            return self.evaluated(first) / "results.json"
        return self.adapter(first, second) / SUMMARY if second else self.record

    def adapter(self, agent: str, stage: str) -> Path:
        """The adapter folder of an agent at a stage."""
        return self.folder / f"{agent}_{stage}"

    def evaluated(self, name: str) -> Path:
        """The evaluation folder of a stage, or of `rag`."""
        return self.folder / f"eval_{name}"


def main(argv: Sequence[str]) -> int:
    """Run all stages, print one dialogue and the table, write `summary.json` and `report.html`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), metavar="FOLDER")
    add_jobs(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    demo = Demo(options.output)
    demo.run(options.jobs)
    differences, played = paired_differences(demo), played_dialogue(demo)
    summary = {
        "wall_seconds": round(demo.finished["wall"], 1),
        "stages": [stage_summary(demo, stage) for stage in STAGES],
        "rag": stage_summary(demo, "rag"),
        "differences": {
            name: {metric: value.interval.to_dict() for metric, value in of.items()} for name, of in differences.items()
        },
        "warm_start": warm_start(),
        "manager_adapter": str(demo.adapter("manager", "grpo")),
        "answer_adapter": str(demo.adapter("answer", "grpo")),
        "report": str(write_report(demo, differences, played)),
        "seconds": demo.finished["stages"],
    }
    write_json(demo.folder / "summary.json", summary)
    show_dialogue(played)
    show(summary)
    return 0


def paired_differences(demo: Demo) -> dict[str, dict[str, PairedDifference]]:
    """GRPO's scores less those of the others on the same questions, by metric."""
    from memory_r1.evaluation.records import read_predictions
    from memory_r1.evaluation.scoring.comparison import metric_difference

    rows = {name: read_predictions(demo.evaluated(name)) for name in (*STAGES, "rag")}

    def differences(other: str) -> dict[str, PairedDifference]:
        pairs = {metric: metric_difference(rows["grpo"], rows[other], metric) for metric in METRICS}
        return {metric: pair for metric, pair in pairs.items() if pair is not None}

    return {f"grpo less {other}": differences(other) for other in ("sft", "rag", "base")}


def stage_summary(demo: Demo, name: str) -> dict[str, Any]:
    """A row of `summary.json`."""
    results = read_json(demo.evaluated(name) / "results.json")
    return {
        "name": name,
        **{metric: results["overall"][metric] for metric in METRICS},
        "n_questions": results["n_questions"],
    }


def warm_start() -> str:
    """Say how much shorter the demo's SFT is than its recipes'."""
    steps = (
        f"{agent} {BUDGET[agent, 'sft']['max_steps']} steps instead of up to {recipe_fields(agent, 'sft')['max_steps']}"
        for agent in AGENTS
    )
    return f"shorter than the full recipes': {', '.join(steps)}"


def played_dialogue(demo: Demo) -> PlayedDialogue:
    """The first test chat, as the GRPO stage played it."""
    from data.everyday import load_everyday
    from memory_r1.evaluation.report.played import PlayedDialogue

    return PlayedDialogue.read(demo.evaluated("grpo"), load_everyday("test")[0].dialogue)


def write_report(demo: Demo, differences: dict[str, dict[str, PairedDifference]], played: PlayedDialogue) -> Path:
    """One page with the table, paired differences, a dialogue, training curves and sampled completions."""
    from memory_r1.evaluation.report.write import Stage, write_stage_report
    from recipes.logs import curves, samples

    stages = [Stage.from_folder(TITLES[name], demo.evaluated(name)) for name in (*STAGES, "rag")]
    stages[-1] = replace(stages[-1], operations={})  # it has no manager
    folders = {agent: demo.adapter(agent, "grpo") for agent in AGENTS}
    return write_stage_report(
        demo.folder / "report.html",
        stages,
        samples=[sample for agent, folder in folders.items() for sample in samples(agent, folder)],
        curves=[curve for agent, folder in folders.items() for curve in curves(agent, folder)],
        differences={f"token F1, {name}": pairs["f1_squad"] for name, pairs in differences.items()},
        facts={
            "wall time, minutes": round(demo.finished["wall"] / 60, 1),
            "test": f"the first {CHATS} of everyday's test chats",
            "warm start": warm_start(),
        },
        played=played,
    )


def show(summary: dict[str, Any]) -> None:
    """Print the before/after table and GRPO's differences."""
    table = Table(
        title=f"first {CHATS} test chats, {summary['rag']['n_questions']} questions, 95% intervals",
        caption=f"warm start {summary['warm_start']}",
    )
    for heading in ("", *METRICS):
        table.add_column(heading)
    for row in (*summary["stages"], summary["rag"]):
        cells = [row[metric] for metric in METRICS]
        table.add_row(TITLES[row["name"]], *(f"{c['mean']:.3f} ({c['low']:.3f} to {c['high']:.3f})" for c in cells))
    console.print(table)
    for other, name in (("sft", "SFT"), ("rag", "rag")):
        f1 = summary["differences"][f"grpo less {other}"]["f1_squad"]
        line = f"GRPO less {name}: {f1['mean']:+.3f} ({f1['low']:+.3f} to {f1['high']:+.3f}) token F1"
        console.print(line, highlight=False)
    console.print(f"{summary['wall_seconds'] / 60:.1f} minutes; report: {summary['report']}", soft_wrap=True)


def show_dialogue(played: PlayedDialogue) -> None:
    """Print a dialogue with what the manager did on each turn, and some of its questions."""
    table = Table("turn", "what the GRPO manager did", title=played.dialogue.dialogue_id)
    for session in played.dialogue.sessions:
        table.add_section()
        table.add_row(Text(session.timestamp, style="dim"))
        for turn in session.turns:
            done = "\n".join(played.operations.get(turn.turn_id, ()))
            table.add_row(Text.assemble((turn.speaker, "bold"), f": {turn.text}"), Text(done))
    console.print(table)
    for row in played.questions:
        console.print(Text.assemble((row.question, "bold"), f" ({row.category})"))
        for entry in row.recalled:
            console.print(Text(f"  {'*' if entry in row.distilled else '-'} {entry.text}", style="dim"))
        console.print(Text(f"  answer: {row.prediction}; gold: {row.gold}"))
    console.print(Text("  * memories that the Answer Agent selected of those recalled", style="dim"))


if __name__ == "__main__":
    sys.exit(run_main(main))
