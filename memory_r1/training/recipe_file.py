"""Read a recipe's file and the command line into checked configs; refuse mistakes before anything loads."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from trl import ModelConfig, TrlParser

from memory_r1.errors import ConfigurationError
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.field_checks import closest
from memory_r1.training.trainer_configs import MemoryModelConfig, MemorySFTConfig

HELP = "Train one agent. --config recipe.yaml sets any of the options below; options given here override the recipe."
# Fields of `MemoryArguments` that SFT would ignore, since it has neither rewards nor sessions.
REINFORCEMENT_FIELDS = ("reward_funcs", "answer_adapter", "answer_server", "credit")

TrainerConfig = TypeVar("TrainerConfig")


def parse_recipe(
    trainer_config: type[TrainerConfig], argv: Sequence[str] | None = None
) -> tuple[MemoryArguments, TrainerConfig, ModelConfig]:
    """Parse `--config recipe.yaml` and command-line overrides.

    Raises:
        ConfigurationError: The file is missing or malformed, a key is unknown, or a value is not allowed.
    """
    given = sys.argv[1:] if argv is None else argv
    memory, training, model = parse_fields((MemoryArguments, trainer_config, MemoryModelConfig), given, HELP)
    if isinstance(training, MemorySFTConfig):
        _refuse_ignored(memory)
    elif memory.agent in ("writer", "drafter"):
        raise ConfigurationError(
            f"agent is '{memory.agent}', which learns from gold texts alone; train it with recipes/sft.py"
        )
    elif memory.filler_memories:
        raise ConfigurationError("filler_memories is set, but only SFT fills its banks; leave it out")
    return memory, training, model


def parse_fields(classes: tuple[type, ...], argv: Sequence[str], description: str) -> tuple[Any, ...]:
    """Parse `--config recipe.yaml` and command-line overrides into one object of each dataclass.

    Raises:
        ConfigurationError: As for `parse_recipe`.
    """
    given = _separate_config(argv)
    _check_recipe_file(given, classes)
    given = _named_by_seed(given)
    parser = TrlParser(classes, description=description)
    parser.error = _refuse  # argparse would print the usage of some 250 options and exit with status 2
    try:
        return tuple(parser.parse_args_and_config(args=given))
    except ConfigurationError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"recipe: {' '.join(str(error).split())}") from error


def _named_by_seed(argv: list[str]) -> list[str]:
    """Give a run its own folder if the command line overrides the recipe's seed."""
    options = [word.partition("=")[0] for word in argv]
    if "--seed" not in options or "--output_dir" in options or "--config" not in argv:
        return argv
    recipe = yaml.safe_load(Path(argv[argv.index("--config") + 1]).read_text(encoding="utf-8"))
    place = options.index("--seed")
    seed = argv[place].partition("=")[2] or "".join(argv[place + 1 : place + 2])
    if seed == str(recipe.get("seed", 0)) or "output_dir" not in recipe:
        return argv
    return [*argv, "--output_dir", f"{recipe['output_dir']}-seed{seed}"]


def _refuse_ignored(memory: MemoryArguments) -> None:
    unset = MemoryArguments(agent=memory.agent)
    for name in REINFORCEMENT_FIELDS:
        if getattr(memory, name) != getattr(unset, name):
            raise ConfigurationError(f"{name} is set, but SFT learns from labels and would ignore it; leave it out")


def _refuse(message: str) -> NoReturn:
    raise ConfigurationError(f"recipe: {message}")


def _separate_config(argv: Sequence[str]) -> list[str]:
    """Split `--config=file` into `--config file`, the only form that TRL's parser reads."""
    return [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]


def _check_recipe_file(argv: list[str], classes: tuple[type, ...]) -> None:
    """Report mistakes that TRL's parser reports badly: a missing file, broken YAML, unknown or repeated keys."""
    if "--config" not in argv:
        return
    position = argv.index("--config") + 1
    path = Path(argv[position]) if position < len(argv) else None
    if path is None or not path.is_file():
        raise ConfigurationError(f"--config: found {path}, which is not a file; give a recipe, see recipes/*/*.yaml")
    try:
        text = path.read_text(encoding="utf-8")
        recipe, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ConfigurationError(f"{path}: found {type(recipe).__name__}, allowed: `key: value` lines")
    keys = [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigurationError(f"{path}: '{twice[0]}' appears twice; keep one of them")
    known = {item.name for cls in classes for item in dataclasses.fields(cls)} | {"env"}
    for key in recipe:
        if key not in known:
            raise ConfigurationError(
                f"{path}: unknown key '{key}'{closest(str(key), sorted(known))}; `--help` lists all keys"
            )
