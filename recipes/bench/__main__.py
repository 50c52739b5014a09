"""Time training against stock TRL in one run, with the same prompts, LoRA, dtype, threads, cache and sampling.

    make bench                                               # about 40 minutes on 2 CPU cores
    make bench ARGS="--cases 256x4x32 --parts rollout,logprob,step"

A case PxGxC is a GRPO step on prompts of P tokens with G completions of exactly C tokens each. Both sides run
`trainer.train()` in separate processes and take turns (ours, stock, ours, stock, ...); a row holds the medians.

Parts: `rollout`, `logprob` (log-probabilities and backward) and `step` (whole, with a free reward) of every case;
`answering` (distinct prompts of the frozen Answer Agent in batches against one by one; and the gain from answering
equal requests once, on groups in which at least half of the operations differ) and `reward` (whole step of the manager
with its outcome reward, and that reward alone). Finished rows are measured again only with --restart;
docs/performance.md explains them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.models import resolve_embedder, resolve_model
from recipes.bench.measuring import Job, Settings, Side, forward_tokens
from recipes.bench.peak import measured_peak
from recipes.bench.results import Results, configuration, remark, row_of
from recipes.bench.worker import Worker, WorkerFailed

SPIN = "10000"  # about 30 microseconds at a barrier before a thread sleeps
PARTS = ("rollout", "logprob", "step", "answering", "reward")
STEP_PARTS = PARTS[:3]
CASES = "256x8x32,512x8x32,1024x4x64,1024x8x64,1024x16x64,2048x8x32"
RECALLED = 8  # K, memories in the manager's and the Answer Agent's prompts
# The step of the committed manager recipe on half as many prompts: 8 completions of up to 48 tokens.
REWARD_PROMPTS, REWARD_GENERATIONS, REWARD_COMPLETION = 2, 8, 48
_CASE = re.compile(r"(\d+)x(\d+)x(\d+)")
console = Console()


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """Return the jobs to measure, in the order of the table.

    Raises:
        ConfigurationError: A case, a part or a number is not allowed.
    """
    import torch

    parts = options.parts.split(",")
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ConfigurationError(f"--parts {', '.join(unknown)}: no such part; allowed: {', '.join(PARTS)}")
    if min(options.prompts_per_step, 1 if options.repeats is None else options.repeats) < 1:
        raise ConfigurationError("--prompts-per-step and --repeats must be at least 1")
    jobs = []
    for case in options.cases.split(",") if set(parts) & set(STEP_PARTS) else []:
        match = _CASE.fullmatch(case.strip())
        prompt, generations, completion = map(int, match.groups()) if match else (0, 0, 0)
        if not prompt or generations < 2 or not completion:
            raise ConfigurationError(f"--cases {case!r}: give PxGxC with G of at least 2, for example 1024x8x64")
        tokens = forward_tokens("stock", [prompt] * options.prompts_per_step, generations, completion)
        repeats = options.repeats or default_repeats(tokens, torch.cuda.is_available())
        jobs.append(Job("steps", repeats, prompt, generations, completion, options.prompts_per_step))
    repeats = options.repeats or 3
    group = {"prompts": REWARD_PROMPTS, "generations": REWARD_GENERATIONS, "recalled": RECALLED}
    if "answering" in parts:
        jobs += [Job("answering", repeats, recalled=RECALLED), Job("de-duplication", repeats, **group)]
    if "reward" in parts:
        jobs.append(Job("reward", repeats, completion=REWARD_COMPLETION, **group))
    return jobs


def default_repeats(tokens: int, on_gpu: bool) -> int:
    """Return 5 on a GPU; on a CPU 3 up to 3,000 stock tokens per step, 2 up to 10,000, and 1 beyond (minutes)."""
    return 5 if on_gpu else 3 if tokens <= 3_000 else 2 if tokens <= 10_000 else 1


def names_of(job: Job, parts: Sequence[str]) -> dict[str, str]:
    """Map the parts of a job's measurements to row names."""
    if job.kind == "steps":
        shape = f"P={job.prompt} G={job.generations} C={job.completion}"
        several = f" D={job.prompts}" if job.prompts > 1 else ""
        return {part: f"{part} {shape}{several}" for part in STEP_PARTS if part in parts}
    if job.kind == "reward":
        shape = f"K={job.recalled} G={job.generations} C={job.completion} D={job.prompts}"
        return {"reward": f"outcome reward {shape}", "step": f"step with reward {shape}"}
    group = f" G={job.generations} D={job.prompts}" if job.kind == "de-duplication" else ""
    return {"answering": f"{job.kind} K={job.recalled}{group}"}


def measure(
    job: Job, names: dict[str, str], settings: Settings, results: Results, peak: float, advance: Any
) -> list[str]:
    """Let both sides take turns at one job, and store its rows, with nulls for a side that runs out of memory.

    Args:
        job: The job.
        names: Part to row name.
        settings: Settings of both sides.
        results: Receives the rows.
        peak: The machine's peak, in operations per second.
        advance: Called after each turn.

    Returns:
        A remark per row.
    """
    sides: dict[Side, Worker] = {}
    failed: dict[Side, str] = {}
    try:
        for side in ("ours", "stock"):
            try:
                sides[side] = Worker(side, job, settings)
            except WorkerFailed as failure:
                failed[side] = str(failure)
        for _ in range(job.repeats):
            for side, worker in sides.items():
                if side not in failed:
                    try:
                        worker.measure()
                    except WorkerFailed as failure:
                        failed[side] = str(failure)
                advance()
    finally:
        for worker in sides.values():
            worker.stop()
    remarks = []
    for part, name in names.items():
        row, details = row_of(name, part, job, sides, failed, peak)
        results.add(row, details)
        remarks.append(remark(name, details))
    return remarks


def main(argv: Sequence[str]) -> int:
    """Measure missing rows, write each as it is done, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=CASES, metavar="PxGxC,...", help=f"steps to measure (default: {CASES})")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="PART,...", help="rows to measure (default: all)")
    parser.add_argument("--repeats", type=int, help="turns of each side (default: 3, and fewer for long steps)")
    parser.add_argument(
        "--prompts-per-step", type=int, default=1, metavar="D", help="distinct prompts per step (default: 1)"
    )
    parser.add_argument("--model", default="SmolLM2-135M-Instruct", help="folder or hub id (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--embedder", default="all-MiniLM-L6-v2", help="sentence model (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each side (default: PyTorch's choice)")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"), metavar="FOLDER")
    parser.add_argument("--restart", action="store_true", help="measure finished rows again")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)

    # A benchmark has the machine to itself, so threads of both sides may wait by spinning.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    jobs = jobs_of(options)
    settings = Settings(options.model, options.dtype, options.embedder, options.threads)
    resolve_model(settings.model)  # prepare or refuse it before two processes look for it
    if {job.kind for job in jobs} - {"steps"}:
        resolve_embedder(settings.embedder)
    setup = configuration(settings)
    for key, value in setup.items():
        console.print(f"[bold]{key}[/]: {value}", highlight=False)
    results = Results(options.output, setup, restart=options.restart)
    asked = [(job, names_of(job, options.parts.split(","))) for job in jobs]
    todo = [(job, names) for job, names in asked if options.restart or not results.has(names.values())]
    peak = measured_peak(settings) if todo else 0.0
    with Progress(console=console) as progress:
        task = progress.add_task("", total=sum(2 * job.repeats for job, _ in todo))
        for job, names in todo:
            progress.update(task, description=next(iter(names.values())))
            for line in measure(job, names, settings, results, peak, lambda: progress.advance(task)):
                progress.console.print(line, highlight=False)
    console.print(results.table())
    console.print(f"written to {results.path} and {results.draw()}; details in {results.details_path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
