"""Rows of the training benchmark: stored as they are measured, shown as a table, drawn as a figure."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.jsonl import read_json, write_json
from memory_r1.provenance import git_revision, package_versions
from recipes.bench.measuring import Job, Measurement, Settings, Side, forward_tokens
from recipes.bench.worker import Worker

Row = dict[str, Any]
KEYS = ("name", "ours_seconds", "stock_seconds", "ratio", "ideal_ratio", "peak_memory_ratio")
_COLOURS = ("#2a78d6", "#c9ced6")
# Figures in a remark: digits, format and unit.
_SHOWN = {
    "tokens_per_second": (0, "f", "tokens/s"),
    "share_of_peak": (0, "%", "of the machine's peak"),
    "prompts_per_second": (1, "f", "prompts/s"),
    "reward_share": (0, "%", "of the step for its reward"),
}


def configuration(settings: Settings) -> dict[str, Any]:
    """Return the settings, versions and machine under which figures are comparable."""
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        **dataclasses.asdict(settings),
        "threads": settings.threads or torch.get_num_threads(),
        "spins of a waiting thread": os.environ.get("GOMP_SPINCOUNT"),
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "adapter": "LoRA of rank 16 on all linear layers, dropout 0",
        "both sides": "dynamic key-value cache, temperature 1, beta 0, no activation checkpointing",
        "versions": package_versions(),
    }


def ideal_ratio(prompt: int, generations: int, completion: int) -> float:
    """Return the tokens that stock runs through the layers per token of ours: G (P + C) / (P + G C) for one prompt."""
    stock, ours = (forward_tokens(side, [prompt], generations, completion) for side in ("stock", "ours"))
    return stock / ours


def row_of(
    name: str, part: str, job: Job, sides: Mapping[Side, Worker], failed: Mapping[Side, str], peak: float
) -> tuple[Row, dict[str, Any]]:
    """Return a row and its details: the rates of each side and every measurement.

    Args:
        name: Name of the row.
        part: Part of the job's measurements.
        job: The job.
        sides: The workers, by side.
        failed: Failed sides, with reasons.
        peak: The machine's peak, in operations per second (`peak.py`).
    """
    seconds: dict[str, float | None] = {"ours": None, "stock": None}
    memory: dict[str, float | None] = dict(seconds)
    tokens: dict[str, float | None] = dict(seconds)
    details: dict[str, Any] = {"repeats": job.repeats, "git_revision": git_revision(), "failed": dict(failed)}
    details["peak_flops_per_second"] = peak
    for side, worker in sides.items():
        done = worker.measurements
        details[side] = {**worker.notes, "measurements": [dataclasses.asdict(one) for one in done]}
        if done and side not in failed:
            seconds[side] = statistics.median(one.seconds[part] for one in done)
            tokens[side] = statistics.median(one.tokens[part] for one in done)
            known = [held for one in done if (held := one.memory[part]) is not None]
            memory[side] = statistics.median(known) if known else None
            details[side] |= _rates(part, done, worker.notes["flops_a_token"], peak)
            details[side]["peak_bytes"] = memory[side]
    ideal = (
        ideal_ratio(job.prompt, job.generations, job.completion)
        if job.kind == "steps"
        else _over(tokens["stock"], tokens["ours"])
    )
    row: Row = {
        "name": name,
        "ours_seconds": seconds["ours"],
        "stock_seconds": seconds["stock"],
        "ratio": _over(seconds["stock"], seconds["ours"]),
        "ideal_ratio": ideal,
        "peak_memory_ratio": _over(memory["ours"], memory["stock"]),
    }
    return row, details


def _rates(part: str, done: Sequence[Measurement], flops_a_token: Sequence[int], peak: float) -> dict[str, float]:
    """Return medians: tokens per second, share of the machine's peak, prompts per second, reward's share of a step."""
    layers, head = flops_a_token
    work = [layers * one.tokens[part] + head * one.projected[part] for one in done]
    rates = {
        "tokens_per_second": [one.tokens[part] / one.seconds[part] for one in done],
        "share_of_peak": [flops / one.seconds[part] / peak for flops, one in zip(work, done, strict=True)],
    }
    if "prompts" in done[0].tokens:
        rates["prompts_per_second"] = [one.tokens["prompts"] / one.seconds[part] for one in done]
    if done[0].tokens.get("reward"):
        rates["reward_share"] = [one.seconds["reward"] / one.seconds["step"] for one in done]
    return {name: statistics.median(values) for name, values in rates.items()}


def remark(name: str, details: Mapping[str, Any]) -> str:
    """Summarise a row's details in one line for the terminal."""
    said = []
    for side in ("ours", "stock"):
        notes = details.get(side, {})
        shown = [f"{notes[key]:.{digits}{kind}} {what}" for key, (digits, kind, what) in _SHOWN.items() if key in notes]
        if notes.get("peak_bytes") is not None:
            shown.append(f"{notes['peak_bytes'] / 2**30:.2f} GiB")
        if "rows_at_once" in notes:
            shown.append(f"{notes['rows_at_once']} rows a micro-batch ({notes['rows_fitting']} fit)")
            shown.append(f"head: {notes['head']}, attention: {notes['attention']}")
        if side in details["failed"]:
            shown.append(details["failed"][side])
        said.append(f"{side} {', '.join(shown)}")
    return f"{name}: {'; '.join(said)}"


def _over(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


class Results:
    """`training.json`, a list of rows, and beside it every measurement with the configuration.

    Args:
        folder: Folder of both files.
        setup: The configuration of this run.
        restart: Discard figures of another configuration.

    Raises:
        ConfigurationError: The folder holds figures of another configuration, and `restart` is off.
    """

    def __init__(self, folder: Path, setup: dict[str, Any], *, restart: bool = False) -> None:
        self.path, self.details_path = folder / "training.json", folder / "training_details.json"
        self.rows: dict[str, Row] = {}
        self.details: dict[str, Any] = {"configuration": setup, "rows": {}}
        if not self.path.is_file():
            return
        found = read_json(self.details_path) if self.details_path.is_file() else {"configuration": None}
        if found["configuration"] == setup:
            self.rows = {row["name"]: row for row in _read_rows(self.path)}
            self.details = found
        elif not restart:
            other = sorted(key for key, value in setup.items() if (found["configuration"] or {}).get(key) != value)
            raise ConfigurationError(
                f"{self.path} holds figures of another configuration ({', '.join(other)} differ); "
                "give another --output, or --restart to replace them"
            )

    def has(self, names: Collection[str]) -> bool:
        """Return whether all these rows are finished."""
        return all(name in self.rows for name in names)

    def add(self, row: Row, details: dict[str, Any]) -> None:
        """Write a row, replacing an older one of its name."""
        self.rows[row["name"]] = row
        self.details["rows"][row["name"]] = details
        write_json(self.details_path, self.details)
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text(json.dumps(list(self.rows.values()), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(self.path)

    def table(self) -> Table:
        """Format all rows for a terminal."""
        table = Table(Column("row", no_wrap=True), *(key.replace("_", " ") for key in KEYS[1:]))
        for row in self.rows.values():
            table.add_row(row["name"], *("-" if row[key] is None else f"{row[key]:.2f}" for key in KEYS[1:]))
        return table

    def draw(self) -> Path:
        """Draw every row's ratio beside its ideal, as a PNG beside the rows."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = [row for row in self.rows.values() if row["ratio"] is not None]
        figure = Figure(figsize=(8, 1.4 + 0.42 * len(rows)), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        places = range(len(rows))
        for shift, key, label, colour in zip(
            (-0.2, 0.2), ("ratio", "ideal_ratio"), ("measured", "token count"), _COLOURS, strict=True
        ):
            bars = axes.barh([place + shift for place in places], [row[key] or 0 for row in rows], 0.38, color=colour)
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=7)
            bars.set_label(label)
        axes.axvline(1, color="#444", linewidth=0.8)
        axes.set_yticks(list(places), [row["name"] for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("times as fast as stock TRL, same machine and run")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        path = self.path.with_suffix(".png")
        figure.savefig(path)
        return path


def _read_rows(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); remove the file or give --restart") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(KEYS) <= set(row) for row in rows):
        raise DataError(f"{path}: not a list of rows with {', '.join(KEYS)}; remove the file")
    return rows
