"""The committed experiments on one CPU: who learned what, against fair controls, on held-out synthetic dialogues.

    make reproduce-cpu STAGE=answer
    make reproduce-cpu                  # all stages

Stages: `train` (the demo's SFT and GRPO adapters, SFT continued on the same labels for the time of GRPO's steps, and
SFT with gold for all dialogues as the ceiling), then one table each: `answer` (Answer Agents on identical banks),
`manager` (managers under one frozen Answer Agent), `both`, and `baselines` (other systems with the trained Answer
Agent). Every table trains all adapters that are missing first; what is finished is not run again. Tables go to
`docs/results/cpu-seed<N>.json`, without any text of the dialogues.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json, write_json
from recipes.commands import launch, run_python

STAGES = ("train", "answer", "manager", "both", "baselines")
ROWS = ("base", "sft", "sft-continued", "grpo", "sft-all-labels")
NEEDED = {"sft", "sft-continued", "grpo"}
BASELINES = ("none", "rag", "oracle", "add-only")
console = Console()


class Experiment:
    """All runs of one seed in one folder; `rows` are those of `ROWS` that are trained and compared."""

    def __init__(self, folder: Path, seed: int, rows: Sequence[str] = ROWS) -> None:
        self.folder = folder
        self.seed = seed
        self.rows = rows

    def adapter(self, agent: str, row: str) -> Path | None:
        """Adapter folder of an agent in a row of the tables; None for the base model."""
        return None if row == "base" else self.folder_of(agent, row)

    def train(self) -> None:
        """Train every adapter of the tables."""
        for agent in ("manager", "answer"):
            self._launch("sft", agent, "sft")
        sft = {agent: self.folder_of(agent, "sft") for agent in ("manager", "answer")}
        self._launch(
            "grpo",
            "manager",
            "grpo",
            warm_start=sft["manager"],
            manager_adapter=sft["manager"],
            answer_adapter=sft["answer"],
        )
        self._launch("grpo", "answer", "grpo", warm_start=sft["answer"], manager_adapter=sft["manager"])
        for agent in ("manager", "answer"):
            if "sft-continued" in self.rows:
                steps = self._continued_steps(agent)
                self._launch("sft", agent, "sft-continued", warm_start=sft[agent], max_steps=steps, learning_rate=2e-4)
        for agent in ("manager", "answer"):
            labelled = 30  # the 24 labelled dialogues and the 6 that GRPO learned from without labels
            more = round(self.summary(agent, "sft")["steps"] * labelled / 24)
            if "sft-all-labels" in self.rows:
                self._launch("sft", agent, "sft-all-labels", train_dialogues=labelled, max_steps=more)

    def evaluate(self, name: str, system: str, manager: str | None, answer: str) -> Path:
        """Evaluate one combination on the held-out dialogues; returns its folder.

        A manager's banks are written once, with whichever Answer Agent comes first.
        """
        folder = self.folder / "eval" / name
        if not (folder / "results.json").is_file():
            console.rule(name)
            adapters = {
                "manager": manager and self.adapter("manager", manager),
                "answer": self.adapter("answer", answer),
            }
            run_python(
                "recipes/evaluate.py",
                "--benchmark=synthetic",
                f"--system={system}",
                "--dtype=bfloat16",
                f"--output={folder}",
                *(f"--{agent}={path}" for agent, path in adapters.items() if path),
            )
        return folder

    def table(self, stage: str) -> list[dict[str, Any]]:
        """Run one stage's evaluations; returns its rows, with paired differences to SFT continued."""
        if stage == "baselines":
            folders = {
                system: self.evaluate(system, system, "grpo" if system == "add-only" else None, "grpo")
                for system in BASELINES
            }
            folders["memory-r1"] = self._memory("grpo", "grpo")
            return _rows(folders, "memory-r1")
        pairs = {
            "answer": {row: ("sft", row) for row in self.rows},
            "manager": {row: (row, "sft") for row in self.rows},
            "both": {row: (row, row) for row in self.rows},
        }[stage]
        return _rows({row: self._memory(*pair) for row, pair in pairs.items()}, "sft-continued")

    def _memory(self, manager: str, answer: str) -> Path:
        """Evaluate memory-r1; the demo's folder holds both agents at one stage already."""
        of_demo = self.folder / f"eval_{manager}"
        if manager == answer and (of_demo / "results.json").is_file():
            return of_demo
        return self.evaluate(f"memory-r1.{manager}.{answer}", "memory-r1", manager, answer)

    def _launch(self, method: str, agent: str, row: str, **options: object) -> None:
        folder = self.folder_of(agent, row)
        if not (folder / "training_summary.json").is_file():
            console.rule(f"{agent} {row}")
            launch(agent, method, output_dir=folder, seed=self.seed, **options)

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
    from memory_r1.evaluation.results import question_dialogues, question_scores
    from memory_r1.evaluation.statistics import paired_difference

    predictions = {name: read_predictions(folder) for name, folder in folders.items()}
    scores = {name: question_scores(rows, "f1_squad") for name, rows in predictions.items()}
    rows = []
    for name, folder in folders.items():
        results = read_json(folder / "results.json")
        difference = paired_difference(scores[name], scores[control], question_dialogues(predictions[name]))
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
    parser.add_argument("--results", type=Path, default=Path("docs/results"), metavar="FOLDER")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    if missing := NEEDED - set(options.rows):
        raise ConfigurationError(
            f"--rows lacks {', '.join(sorted(missing))}, which every table compares with; add them"
        )
    folder = options.folder or Path("outputs/reproduce") / f"seed{options.seed}"
    experiment = Experiment(folder, options.seed, options.rows)
    experiment.train()
    path = options.results / f"cpu-seed{options.seed}.json"
    tables = read_json(path) if path.is_file() else {"seed": options.seed, "tables": {}}
    for stage in [options.stage] if options.stage else STAGES[1:]:
        if stage != "train":
            tables["tables"][stage] = experiment.table(stage)
            tables["training"] = {
                f"{agent}_{row}": {
                    key: experiment.summary(agent, row).get(key)
                    for key in ("steps", "wall_seconds", "best_validation", "start_validation", "kept_start")
                }
                for agent in ("manager", "answer")
                for row in options.rows
                if row != "base"
            }
            write_json(path, tables)
            console.print(f"{stage}: written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
