"""Time memory systems as they grow: writing 1,000, 10,000 and 100,000 turns, recalling, and the memory that it takes.

    make bench-systems                                             # every system: hours
    make bench-systems SYSTEMS="rag hipporag" SIZES="1000 10000"
    make bench-systems ARGS="--minutes 30 --gigabytes 16 --results docs/results"

Each system and size has a fresh process, which plays generated turns (recipes/bench/scripted.py) into an empty store,
then asks 30 questions. Rules write where a system writes, a scripted manager adds every turn, and the embedder hashes
words: no model's time is in the figures. A size that takes too long is stopped and told with its last rate, and larger
ones of that system are not tried. Rows go to systems.json as they are measured, and finished ones are measured again
only with --restart. With --results the record is published; docs/performance.md explains it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError, TrainingError
from memory_r1.jsonl import read_json, write_json
from memory_r1.provenance import git_revision, package_versions
from memory_r1.systems.table import SYSTEMS, system_spec
from recipes.bench.measuring import OUT_OF_MEMORY, resident_peak
from recipes.bench.playing import RECALL_PER_SPEAKER, RECALLS, rate, serve
from recipes.bench.scripted import DIMENSION, HEAPS_EXPONENT, HEAPS_FACTOR, SESSION_TURNS
from recipes.renderers import BENCH_SYSTEMS

SIZES = (1_000, 10_000, 100_000)
MEASURED = (
    *("write_seconds", "first_recall_seconds", "recall_p50", "recall_p95", "recall_after_turn"),
    *("peak_bytes", "entries", "log_bytes"),
)
"""What a row has of a size: seconds of all turns, of the first recall (which builds indexes), of the later ones, and of
one right after a turn; bytes above the empty process and of the log; live entries. None if it was stopped before."""
_LOOK_SECONDS = 0.2
console = Console()

Row = dict[str, Any]


def measure(name: str, size: int, seconds: float, bytes_allowed: float) -> Row:
    """Measure one system at one size in a fresh process.

    Args:
        name: The system.
        size: Turns to play.
        seconds: Longest time, from the empty system on.
        bytes_allowed: Most memory of the process above that of the empty system.

    Returns:
        The row: `system`, `turns`, those `played`, `MEASURED`, `index_seconds_per_1000` turns (writing and the first
        recall) and, if it was `stopped`, by what, with the last `turns_per_second`.

    Raises:
        TrainingError: The process failed, after printing its traceback.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit this process's memory
    connection, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="memory-r1-bench-") as folder:
        process = context.Process(target=serve, args=(theirs, name, size, Path(folder) / "memory.db"), daemon=True)
        process.start()
        theirs.close()
        try:
            found, reports, elapsed = _follow(connection, process, seconds, bytes_allowed)
        finally:
            process.kill()
            process.join()
            connection.close()
    row: Row = {"system": name, "turns": size, "played": reports[-1][0] if reports else 0}
    row |= {key: found.get(key) for key in MEASURED}
    if row["first_recall_seconds"] is not None:
        row["index_seconds_per_1000"] = 1000 * (row["write_seconds"] + row["first_recall_seconds"]) / size
    if stopped := found.get("stopped"):
        row |= {"stopped": stopped, "turns_per_second": rate(reports, found["write_seconds"] or elapsed)}
    return row


def _follow(
    connection: Connection, process: BaseProcess, seconds: float, bytes_allowed: float
) -> tuple[Row, list[tuple[int, float]], float]:
    """Collect what the process sends until it is done or past a bound.

    Returns:
        All parts of its messages, the reports of turns and seconds, and the seconds since the system was there, empty.
    """
    found: Row = {"write_seconds": None}
    reports: list[tuple[int, float]] = []
    started, elapsed = time.perf_counter(), 0.0
    while not {"done", "stopped"} & found.keys():
        if connection.poll(_LOOK_SECONDS):
            message = _received(connection, process)
            if "empty" in message:
                started = time.perf_counter()
            if "played" in message:
                reports.append((message["played"], message["seconds"]))
            found |= message
        if "empty" not in found or "done" in found:
            continue
        elapsed, peak = time.perf_counter() - started, resident_peak(process.pid or 0)
        if peak and found["empty"]:
            found["peak_bytes"] = max(0, peak - found["empty"])
        if elapsed > seconds:
            found.setdefault("stopped", f"after {seconds / 60:g} minutes")
        elif found.get("peak_bytes", 0) > bytes_allowed:
            found.setdefault("stopped", f"at {bytes_allowed / 2**30:g} GiB")
    return found, reports, elapsed


def _received(connection: Connection, process: BaseProcess) -> Row:
    """Return the next message; that it ran out of memory if Linux has killed the process, as it then does."""
    try:
        message: Row = connection.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise TrainingError("the system's process ended early; its message stands above") from None
        return {"stopped": OUT_OF_MEMORY}
    return message


def configuration(seconds: float, bytes_allowed: float) -> dict[str, Any]:
    """Return under what figures are comparable."""
    return {
        "minutes": seconds / 60,
        "gigabytes": bytes_allowed / 2**30,
        "dimension": DIMENSION,
        "recalls": RECALLS,
        "recall_per_speaker": RECALL_PER_SPEAKER,
        "session_turns": SESSION_TURNS,
        "entities": f"{HEAPS_FACTOR:g} n^{HEAPS_EXPONENT:g}",
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": package_versions(),
    }


def read_record(path: Path, setup: dict[str, Any], *, restart: bool) -> dict[str, Any]:
    """Return the record to continue, with no rows if there is none yet.

    Raises:
        ConfigurationError: It has figures of another configuration, and `restart` is off.
    """
    found: dict[str, Any] = dict(read_json(path)) if path.is_file() else {"configuration": setup, "rows": []}
    if found["configuration"] == setup:
        return found
    if not restart:
        other = sorted(key for key, value in setup.items() if found["configuration"].get(key) != value)
        raise ConfigurationError(
            f"{path} holds figures of another configuration ({', '.join(other)} differ); "
            "give another --output, or --restart to replace them"
        )
    return {"configuration": setup, "rows": []}


def with_row(rows: Sequence[Row], row: Row) -> list[Row]:
    """Return the rows with one more, which replaces one of its system and size, in the order of the systems' table."""
    order = list(SYSTEMS)
    kept = [old for old in rows if (old["system"], old["turns"]) != (row["system"], row["turns"])]
    return sorted([*kept, row], key=lambda row: (order.index(row["system"]), row["turns"]))


def table_of(rows: Sequence[Row]) -> Table:
    """Format rows for a terminal."""
    headings = ("write s", "first recall s", "p50 ms", "p95 ms", "after turn ms", "MiB", "log MiB")
    table = Table(Column("system", no_wrap=True), Column("turns", no_wrap=True), *headings)
    for row in rows:
        times = [row[key] for key in ("write_seconds", "first_recall_seconds")]
        recalls = [row[key] for key in ("recall_p50", "recall_p95", "recall_after_turn")]
        sizes = [row[key] for key in ("peak_bytes", "log_bytes")]
        told = [
            *("" if value is None else f"{value:.2f}" for value in times),
            *("" if value is None else f"{1000 * value:.1f}" for value in recalls),
            *("" if value is None else f"{value / 2**20:.0f}" for value in sizes),
        ]
        table.add_row(row["system"], f"{row['turns']:,}", *told)
        if "stopped" in row:
            table.add_row("", "", f"stopped {row['stopped']}: {row['played']:,} turns played")
    return table


def main(argv: Sequence[str]) -> int:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), metavar="NAME", help="default: all")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), metavar="N", help="turns to play")
    parser.add_argument("--minutes", type=float, default=10, help="longest time of a system and size (10)")
    parser.add_argument("--gigabytes", type=float, default=8, help="most memory, in GiB, that it may take (8)")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"), metavar="FOLDER")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help=f"publish the record as FOLDER/{BENCH_SYSTEMS}")
    parser.add_argument("--restart", action="store_true", help="measure finished rows again")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    for name in options.systems:
        system_spec(name)
    for option in ("minutes", "gigabytes"):
        if not getattr(options, option) > 0:
            raise ConfigurationError(f"--{option} is {getattr(options, option):g}: give a number above 0")
    if min(options.sizes) < 1:
        raise ConfigurationError(f"--sizes has {min(options.sizes)}: give whole numbers from 1")
    seconds, bytes_allowed = 60 * options.minutes, options.gigabytes * 2**30
    path = options.output / "systems.json"
    record = read_record(path, configuration(seconds, bytes_allowed), restart=options.restart)
    for name in options.systems:
        rows = {row["turns"]: row for row in record["rows"] if row["system"] == name and not options.restart}
        stopped = False
        for size in sorted(set(options.sizes)):
            if stopped:
                console.print(f"{name}: {size:,} turns are not tried")
                continue
            if size not in rows:
                console.print(f"{name}: {size:,} turns")
                row = measure(name, size, seconds, bytes_allowed)
                rows[size] = {**row, "git_revision": git_revision()}
                record["rows"] = with_row(record["rows"], rows[size])
                write_json(path, record)
            stopped = "stopped" in rows[size]
    console.print(table_of([row for row in record["rows"] if row["system"] in options.systems]))
    for written in (path, *([options.results / BENCH_SYSTEMS] if options.results else [])):
        console.print(f"wrote {write_json(written, record)}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
