"""Imports point down only (docs/architecture.md), and the lowest layers start without torch and FAISS."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("memory_r1", "rewards", "data", "recipes")
# The layers of the library, lowest first; a part imports only itself and lower layers.
LIBRARY_LAYERS = (
    {"types", "errors"},
    {"json_field"},
    {"metrics", "dialogue_file", "jsonl", "provenance", "entry", "weights"},
    {"adapter_settings"},
    {"packaged_models"},
    {"models", "packaged_adapters"},
    {"memory"},
    {"inference"},
    {"agents"},
    {"systems"},
    {"training", "evaluation", "environments", "drafting", "assistant", "inspector"},
    {"cli"},
)
DATA_MAY_IMPORT = {"types", "errors", "json_field", "metrics", "dialogue_file", "jsonl", "entry", "memory"}
REWARDS_MAY_IMPORT = {*DATA_MAY_IMPORT, "models", "inference", "agents"}
# How a question is answered in training, and how the columns of a dataset are read: all that rewards know of it.
REWARDS_MAY_ALSO_IMPORT = tuple(f"memory_r1.training.{name}" for name in ("frozen_answering", "rows", "substitution"))
# Modules that start without torch and FAISS.
LIGHT = (
    "types",
    "errors",
    "json_field",
    "metrics",
    "dialogue_file",
    "memory.forms",
    "memory.operations",
    "memory.record",
    "memory.log",
    "memory.bank",
    "memory.sqlite_log",
    "inspector.server",
    "inspector.store",
    "cli.inspect",
)
HEAVY = ("torch", "faiss", "transformers")


def imported_modules(path: Path, root: Path) -> Iterator[str]:
    """Return the full names of all project modules that a file imports, at any depth of the code."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = [*package[: len(package) - node.level + 1]] if node.level else []
            base = ".".join([*parts, node.module] if node.module else parts)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def layer(part: str) -> int:
    """Return the height of a part of the library; the package itself is on top."""
    return next((height for height, parts in enumerate(LIBRARY_LAYERS) if part in parts), len(LIBRARY_LAYERS))


def forbidden(importer: str, imported: str) -> str:
    """Return why `importer` must not import `imported`, or an empty string."""
    package, target = importer.split(".")[0], imported.split(".")[0]
    part, target_part = (f"{name}.".split(".")[1] for name in (importer, imported))
    if target not in PACKAGES:
        return ""
    if target == "recipes" != package:
        return "nothing but recipes imports recipes"
    if package == "memory_r1" and target != "memory_r1":
        return "the library does not know rewards, data and recipes"
    if {package, target} == {"rewards", "data"}:
        return "rewards and data do not import each other"
    if package == target == "memory_r1" and part != target_part and layer(target_part) >= layer(part):
        return f"{part or 'memory_r1'} may import only what lies below it"
    if package == "data" and target == "memory_r1" and target_part not in DATA_MAY_IMPORT:
        return "data knows only the library's ground floor"
    if package == "rewards" and target == "memory_r1" and target_part not in REWARDS_MAY_IMPORT:
        return (
            ""
            if imported.startswith(REWARDS_MAY_ALSO_IMPORT)
            else "rewards know agents, and of training: frozen_answering, rows, substitution"
        )
    return ""


def violations(root: Path) -> list[str]:
    found = []
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for imported in imported_modules(path, root):
            if imported == "memory_r1.__version__":
                continue
            reason = forbidden(module, imported)
            if reason:
                found.append(f"{path.relative_to(root)} imports {imported}: {reason}")
    return found


def test_imports_point_down_only() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "code", "reason"),
    [
        ("memory_r1/types.py", "import memory_r1.errors", "only what lies below"),
        ("memory_r1/memory/bank.py", "from memory_r1.agents import prompts", "only what lies below"),
        ("memory_r1/memory/bank.py", "from ..agents import prompts", "only what lies below"),
        ("memory_r1/training/sft.py", "from memory_r1.evaluation.runner import run", "only what lies below"),
        ("memory_r1/agents/prompts.py", "def f():\n    import rewards", "the library does not know"),
        (
            "memory_r1/models.py",
            "import importlib\nimportlib.import_module('data.locomo')",
            "the library does not know",
        ),
        ("data/tuples.py", "from rewards import REWARDS", "do not import each other"),
        ("rewards/outcome.py", "import data.locomo", "do not import each other"),
        ("data/tuples.py", "from memory_r1.agents import prompts", "ground floor"),
        ("rewards/outcome.py", "from memory_r1.training import sft", "rewards know"),
        ("rewards/outcome.py", "from recipes import sft", "nothing but recipes imports recipes"),
    ],
)
def test_layering_sees_a_forbidden_import(tmp_path: Path, file: str, code: str, reason: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code, encoding="utf-8")
    found = violations(tmp_path)
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("memory_r1/memory/bank.py", "from memory_r1.memory import sqlite_log\nfrom . import operations"),
        ("memory_r1/agents/prompts.py", "from memory_r1.memory.bank import MemoryBank"),
        (
            "rewards/outcome.py",
            "from memory_r1.training.rows import Row\nfrom memory_r1.agents import prompts",
        ),
        ("data/tuples.py", "import torch\nfrom memory_r1.memory.bank import MemoryBank"),
        ("recipes/demo.py", "from data import locomo\nfrom rewards import REWARDS\nimport memory_r1"),
    ],
)
def test_layering_lets_imports_that_point_down_pass(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code, encoding="utf-8")
    assert violations(tmp_path) == []


def light_modules() -> list[str]:
    data_modules = (path.stem for path in sorted((ROOT / "data").glob("*.py")))
    names = [*(f"memory_r1.{name}" for name in LIGHT), *(f"data.{name}" for name in data_modules)]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("module", light_modules())
def test_module_starts_without_torch_and_faiss(module: str) -> None:
    # Use a fresh interpreter: other tests may have imported torch into this one.
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
