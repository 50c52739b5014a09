"""Check a recipe's values, since TRL's parser accepts anything from YAML."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, Union

from memory_r1.errors import ConfigurationError

# Minimum of each field. argparse takes no range, so ranges are here and not in the fields' metadata.
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
    "filler_memories": 0,
    "entry_cost": 0.0,
    "answer_max_tokens": 1,
    "manager_max_tokens": 1,
    "num_generations": 2,
    "max_completion_length": 1,
    "temperature": 0.01,
    "beta": 0.0,
    "per_device_train_batch_size": 1,
    "lora_r": 1,
    "lora_alpha": 1,
    "num_iterations": 1,
    "value_learning_rate": 0.0,
    "gamma": 0.0,
    "gae_lambda": 0.0,
    "vf_coef": 0.0,
    "cliprange_value": 0.0,
    "value_warmup_steps": 0,
    "kl_in_reward": 0.0,
    "length_margin": 1,
    "judge_timeout": 0.1,
    "judge_concurrency": 1,
    "dynamic_sampling_rounds": 0,
    "variance_sampling": 0.0,
    "patience": 0,
    "entropy_floor": 0.0,
}
# Exclusive lower bounds.
MORE_THAN: dict[str, float] = {"learning_rate": 0.0}


def validate_fields(config: Any, *, none_is_unset: bool = True) -> None:
    """Check every field of a dataclass against its annotation, its `choices` and its bounds (`LEAST`, `MORE_THAN`).

    Args:
        config: The dataclass.
        none_is_unset: Accept None everywhere, since the parser passes it for fields that a recipe does not mention,
            whatever their annotation (TRL's `debug`).

    Raises:
        ConfigurationError: A value does not fit; the message names the field, the value and the allowed ones.
    """
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value is item.default or (value is None and none_is_unset):
            continue
        hint = hints[item.name]
        if not _fits(value, hint):
            raise ConfigurationError(f"{item.name}: found {value!r}, allowed: {_describe(hint)}")
        choices = item.metadata.get("choices")
        if choices and value not in choices:
            hint_text = closest(str(value), [str(choice) for choice in choices])
            raise ConfigurationError(
                f"{item.name}: found {value!r}, allowed: {', '.join(map(str, choices))}{hint_text}"
            )
        least = LEAST.get(item.name)
        if least is not None and not value >= least:
            raise ConfigurationError(f"{item.name}: found {value!r}, allowed: at least {least}")
        bound = MORE_THAN.get(item.name)
        if bound is not None and not value > bound:
            raise ConfigurationError(f"{item.name}: found {value!r}, allowed: more than {bound:g}")


def closest(value: str, allowed: Sequence[str]) -> str:
    """Return a suggestion to append to an error about a mistyped value, or an empty string."""
    near = difflib.get_close_matches(value, allowed, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value from YAML fits an annotation; annotations that cannot be checked accept everything."""
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
