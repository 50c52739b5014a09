"""Commands that run one recipe from another, each in its own process, as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from memory_r1.adapter_settings import BASE
from memory_r1.errors import TrainingError

ROOT = Path(__file__).parents[1]
RECIPES = Path("recipes/smollm2-135m")


def run_python(*arguments: str) -> None:
    """Run a Python command from the checkout's root.

    Raises:
        TrainingError: It failed, after printing its own error message.
    """
    status = subprocess.run([sys.executable, *arguments]).returncode
    if status != 0:
        raise TrainingError(f"`python {' '.join(arguments[:5])} ...` ended with status {status}; see its message above")


def recipe_fields(agent: str, method: str) -> dict[str, Any]:
    """Return the fields of the recipe that trains `agent` with `method`."""
    fields: dict[str, Any] = yaml.safe_load((ROOT / _recipe(agent, method)).read_text(encoding="utf-8"))
    return fields


def training(agent: str, method: str, **options: object) -> list[str]:
    """Return the Python arguments that train `agent` with `method`; `options` override recipe fields."""
    return [
        "-m",
        "accelerate.commands.launch",
        "--quiet",  # a failing recipe explains itself; the launcher would add its own traceback
        f"--config_file={recipe_fields(agent, method)['accelerate']}",
        f"recipes/{method}.py",
        "--config",
        str(_recipe(agent, method)),
        *(part for key, value in options.items() for part in (f"--{key}", str(value))),
    ]


def evaluation(folder: Path, system: str, manager: Path | None, answer: Path | None) -> list[str]:
    """Return the Python arguments that evaluate a system on the everyday test chats; None is the untrained base model.

    Precision and lengths are fixed, so that base, SFT and GRPO differ only in their adapters.
    """
    from memory_r1.systems.table import system_spec

    adapters = {"manager": manager} if system_spec(system).takes_manager_adapter else {}
    adapters["answer"] = answer
    return [
        "recipes/evaluate.py",
        "--benchmark=everyday",
        "--split=test",
        f"--system={system}",
        "--dtype=bfloat16",
        "--manager-tokens=96",
        "--answer-tokens=32",
        f"--output={folder}",
        *(f"--{agent}={path or BASE}" for agent, path in adapters.items()),
    ]


def _recipe(agent: str, method: str) -> Path:
    return RECIPES / f"{agent}_{method}.yaml"
