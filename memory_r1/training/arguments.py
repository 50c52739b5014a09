"""A recipe's fields and their validation. Config objects end here: nothing below takes one.

A recipe is one flat YAML file over three dataclasses: `MemoryArguments` (ours), TRL's trainer config (extended where
we need a field) and TRL's `ModelConfig`. TRL does not check the values that YAML supplies, so every field of all three
is checked against its type, choices and range before a model is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

import yaml
from trl import GRPOConfig, ModelConfig, SFTConfig, TrlParser

from memory_r1.errors import ConfigurationError

# The least value a field may have; argparse takes no range, so ranges stand here and not in the fields' metadata.
LEAST: dict[str, float] = {
    "seed": 0,
    "dialogue_seed": 0,
    "first_dialogue": 0,
    "train_dialogues": 1,
    "validation_dialogues": 1,
    "max_train_rows": 1,
    "max_validation_rows": 1,
    "recall_per_speaker": 1,
    "retention_questions": 0,
    "entry_cost": 0.0,
    "answer_max_tokens": 1,
    "num_generations": 2,
    "max_completion_length": 1,
    "temperature": 0.01,
    "beta": 0.0,
    "learning_rate": 0.0,
    "per_device_train_batch_size": 1,
    "lora_r": 1,
}


# Fields of TRL's `ModelConfig` that would be ignored: LoRA is always used, without dropout.
UNUSED_MODEL_FIELDS = (
    "use_peft",
    "lora_dropout",
    "attn_implementation",
    "load_in_4bit",
    "load_in_8bit",
    "model_revision",
)


HELP = "Train one agent. --config recipe.yaml sets any of the options below; options given here override the recipe."


@dataclass
class MemoryArguments:
    """What is trained on what; the trainer's own fields are TRL's."""

    agent: str = field(metadata={"help": "Which agent to train.", "choices": ["manager", "answer"]})
    dataset: str = field(
        default="synthetic",
        metadata={"help": "'synthetic', 'locomo', or a JSONL file of own dialogues."},
    )
    dialogue_seed: int = field(default=0, metadata={"help": "Seed of the synthetic generator and of sampling."})
    first_dialogue: int = field(
        default=0,
        metadata={"help": "Index of the first training dialogue used, so that RL can take others than SFT."},
    )
    train_dialogues: int | None = field(
        default=None, metadata={"help": "Number of training dialogues used; default: all there are."}
    )
    validation_dialogues: int = field(default=4, metadata={"help": "Dialogues that pick the checkpoint."})
    max_train_rows: int | None = field(default=None, metadata={"help": "Keep at most so many training rows."})
    max_validation_rows: int | None = field(default=32, metadata={"help": "Keep at most so many validation rows."})
    banks: str = field(
        default="gold",
        metadata={
            "help": "How the bank before a turn is rebuilt: by gold operations, by LoCoMo's observations, or by the "
            "manager in `manager_adapter`.",
            "choices": ["gold", "observations", "manager"],
        },
    )
    manager_adapter: str | None = field(
        default=None, metadata={"help": "Memory Manager that rebuilds the banks when `banks: manager`."}
    )
    answer_adapter: str | None = field(
        default=None, metadata={"help": "The frozen Answer Agent of a manager's outcome reward."}
    )
    warm_start: str | None = field(
        default=None,
        metadata={"help": "Adapter folder to start from (an SFT run's); also the KL reference when beta > 0."},
    )
    embedder: str = field(default="all-MiniLM-L6-v2", metadata={"help": "Sentence embedder: name, hub id or folder."})
    recall_per_speaker: int = field(default=2, metadata={"help": "Memories recalled per speaker (the paper: 30)."})
    retention_questions: int = field(
        default=2, metadata={"help": "Questions about facts already in the bank that score each tuple too."}
    )
    reward_funcs: list[str] = field(
        default_factory=list, metadata={"help": "Rewards by name, or path/to/file.py:function."}
    )
    entry_cost: float = field(default=0.01, metadata={"help": "Cost of each live entry in a manager's outcome reward."})
    answer_max_tokens: int = field(default=32, metadata={"help": "Longest completion of the frozen Answer Agent."})

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.banks == "manager" and self.manager_adapter is None:
            raise ConfigurationError("banks is 'manager' but manager_adapter is not set; give an adapter folder")
        if self.banks == "observations" and self.dataset != "locomo":
            raise ConfigurationError(
                f"banks is 'observations' but dataset is '{self.dataset}'; only locomo has observations: use gold or "
                "manager"
            )


@dataclass
class MemorySFTConfig(SFTConfig):
    """TRL's `SFTConfig`, every field checked."""

    def __post_init__(self) -> None:
        validate_fields(self)
        _refuse_remote_code(self.trust_remote_code)
        super().__post_init__()


@dataclass
class MemoryGRPOConfig(GRPOConfig):
    """TRL's `GRPOConfig` plus the shared-prefix switch, every field checked."""

    shared_prefix: bool = field(
        default=True, metadata={"help": "Compute a group's shared prompt once in the log-probability pass."}
    )

    def __post_init__(self) -> None:
        validate_fields(self)
        _refuse_remote_code(self.trust_remote_code)
        super().__post_init__()


@dataclass
class MemoryModelConfig(ModelConfig):
    """TRL's `ModelConfig`, every field checked."""

    def __post_init__(self) -> None:
        validate_fields(self)
        super().__post_init__()
        for name in UNUSED_MODEL_FIELDS:
            default = next(item.default for item in dataclasses.fields(ModelConfig) if item.name == name)
            if getattr(self, name) != default:
                raise ConfigurationError(f"{name} is set, but the recipes do not use it yet; leave it out")
        if not self.model_name_or_path:
            raise ConfigurationError("model_name_or_path is not set; give a folder, a hub id or SmolLM2-135M-Instruct")


TrainerConfig = TypeVar("TrainerConfig")


def parse_recipe(
    trainer_config: type[TrainerConfig], argv: Sequence[str] | None = None
) -> tuple[MemoryArguments, TrainerConfig, ModelConfig]:
    """Parse `--config recipe.yaml` and command-line overrides.

    Raises:
        ConfigurationError: The file is missing or malformed, a key is unknown, or a value is not allowed.
    """
    given = _separate_config(sys.argv[1:] if argv is None else argv)
    classes = (MemoryArguments, trainer_config, MemoryModelConfig)
    _check_recipe_file(given, classes)
    parser = TrlParser(classes, description=HELP)
    parser.error = _refuse  # argparse would print the usage of some 250 options and exit with status 2
    try:
        memory, training, model = parser.parse_args_and_config(args=given)
    except ConfigurationError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"recipe: {' '.join(str(error).split())}") from error
    return memory, training, model


def validate_fields(config: Any) -> None:
    """Check every field of a dataclass against its annotation, its `choices` and the `LEAST` it may be.

    Raises:
        ConfigurationError: Names the field, the value found and what is allowed.
    """
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        # The parser hands None to fields a recipe does not mention, whatever their annotation says (TRL's `debug`).
        if value is item.default or (value is None and item.name not in MemoryArguments.__annotations__):
            continue
        hint = hints[item.name]
        if not _fits(value, hint):
            raise ConfigurationError(f"{item.name}: found {value!r}, allowed: {_describe(hint)}")
        choices = item.metadata.get("choices")
        if choices and value not in choices:
            hint_text = _closest(str(value), [str(choice) for choice in choices])
            raise ConfigurationError(
                f"{item.name}: found {value!r}, allowed: {', '.join(map(str, choices))}{hint_text}"
            )
        least = LEAST.get(item.name)
        if least is not None and not value >= least:
            raise ConfigurationError(f"{item.name}: found {value!r}, allowed: at least {least}")


def _refuse(message: str) -> NoReturn:
    raise ConfigurationError(f"recipe: {message}")


def _separate_config(argv: Sequence[str]) -> list[str]:
    """`--config=file` as `--config file`, the only form that TRL's parser reads."""
    return [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]


def _check_recipe_file(argv: list[str], classes: tuple[type, ...]) -> None:
    """Explain what TRL's parser would report badly: no such file, broken YAML, unknown keys with their nearest name."""
    if "--config" not in argv:
        return
    position = argv.index("--config") + 1
    path = Path(argv[position]) if position < len(argv) else None
    if path is None or not path.is_file():
        raise ConfigurationError(f"--config: found {path}, which is no file; give a recipe such as recipes/*/*.yaml")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ConfigurationError(f"{path}: found {type(recipe).__name__}, allowed: `key: value` lines")
    known = {item.name for cls in classes for item in dataclasses.fields(cls)} | {"env"}
    for key in recipe:
        if key not in known:
            raise ConfigurationError(
                f"{path}: unknown key '{key}'{_closest(str(key), sorted(known))}; `--help` lists all keys"
            )


def _refuse_remote_code(trusted: bool) -> None:
    if trusted:
        raise ConfigurationError("trust_remote_code: found true, allowed: false (the project runs no remote code)")


def _closest(value: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(value, allowed, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML fits an annotation; annotations that say nothing checkable let everything pass."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (list, tuple, set):
        return isinstance(value, (list, tuple, set)) and all(
            _fits(item, arguments[0]) for item in value if arguments and arguments[0] is not Ellipsis
        )
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None), dict, list):
        return isinstance(value, hint)
    return True


def _describe(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(repr, arguments))
    if hint is type(None):
        return "null"
    if hint is float:
        return "a finite number"
    if typing.get_origin(hint) is list:
        return f"list of {_describe(arguments[0])}" if arguments else "list"
    return getattr(hint, "__name__", str(hint))
