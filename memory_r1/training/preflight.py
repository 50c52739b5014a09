"""Checks of a run before anything is loaded or played, also in a dry run.

`arguments.py` checks a recipe's fields; this module checks what they require of this machine and of each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trl import GRPOConfig

from memory_r1.adapter_settings import check_form
from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Messages, WindowedLanguageModel
from memory_r1.models import check_adapter, resolve_model
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.rollouts import PLAIN_SAMPLING, supports_shared_rollout
from memory_r1.training.sharding import sharding_of

DEMO = Path("outputs/demo")


def check_run(arguments: MemoryArguments, config: Any, model: Any) -> None:
    """Check adapters, packages, devices, the engine and the output folder.

    Raises:
        ConfigurationError: Something is missing or does not fit; the message names the remedy.
        ModelError: The base model or an adapter is incomplete, or an adapter belongs to another base model.
    """
    base = resolve_model(str(model.model_name_or_path))
    adapters = {
        "warm_start": arguments.warm_start,
        "answer_adapter": arguments.answer_folder if arguments.agent == "manager" else None,
        "manager_adapter": arguments.manager_adapter if arguments.banks == "manager" else None,
    }
    named = {field: folder for field, folder in adapters.items() if folder is not None}
    _refuse_missing_adapters(named)
    for field, folder in named.items():
        check_adapter(folder, base)
        if field == "manager_adapter" or (field == "warm_start" and arguments.agent == "manager"):
            check_form(folder, arguments.operations, field)
    _check_packages(config, model)
    _check_engine(arguments, config)
    if arguments.credit == "branch" and not supports_shared_rollout(config):
        raise ConfigurationError(
            f"credit is 'branch', which has its own sampling; leave out {', '.join(PLAIN_SAMPLING)} and do not shard "
            "the model"
        )
    if arguments.filter_prompts and arguments.credit == "branch":
        raise ConfigurationError("filter_prompts is set but credit is 'branch', whose prompts change with every step")
    if arguments.filter_prompts and (config.dynamic_sampling_rounds or config.variance_sampling):
        raise ConfigurationError(
            "filter_prompts is set with dynamic_sampling_rounds or variance_sampling, which draw from all prompts; use "
            "one or the other"
        )
    _check_folder(Path(config.output_dir))


def refuse_too_few(rows: int, config: GRPOConfig) -> None:
    """Raise a ConfigurationError if there are fewer training rows than distinct prompts in a rollout.

    TRL would skip such a rollout and train for no step at all.
    """
    prompts = int(config.generation_batch_size or 0) // int(config.num_generations or 1)
    if rows < prompts:
        raise ConfigurationError(
            f"{rows} training rows are fewer than the {prompts} distinct prompts of a rollout (generation_batch_size "
            f"{config.generation_batch_size} / num_generations {config.num_generations}): training would take no step; "
            "give more train_dialogues or a smaller per_device_train_batch_size"
        )


def refuse_past_window(prompts: Iterable[Messages], tokens: int, model: WindowedLanguageModel) -> None:
    """Refuse rows that exceed the policy's window: it would go on sampling past the positions it knows.

    Args:
        prompts: The rows' prompts.
        tokens: Longest completion.
        model: The policy.

    Raises:
        ConfigurationError: A prompt and its longest completion exceed the model's window.
    """
    if model.window is None:
        return
    longest = max(model.prompt_tokens(prompt) for prompt in prompts)
    if longest + tokens > model.window:
        raise ConfigurationError(
            f"the longest prompt of {longest} tokens and max_completion_length {tokens} exceed the window of "
            f"{model.window} tokens: lower recall_per_speaker or max_completion_length"
        )


def _refuse_missing_adapters(named: Mapping[str, str]) -> None:
    """Refuse missing adapters; name the commands that train them, and the demo's adapters if it has run."""
    missing = {field: Path(folder) for field, folder in named.items() if not Path(folder).expanduser().is_dir()}
    if not missing:
        return
    commands = dict.fromkeys(filter(None, map(_training_command, missing.values())))
    remedies = [f"run {' and '.join(commands)} first"] if commands else []
    if all((DEMO / folder.name).is_dir() for folder in missing.values()):
        options = " ".join(f"--{field} {DEMO / folder.name}" for field, folder in missing.items())
        remedies.append(f"take the demo's with ARGS='{options}'")
    listed = ", ".join(f"{field}: {folder}" for field, folder in missing.items())
    remedy = ", or ".join(remedies) or "give the folder of a finished training run"
    raise ConfigurationError(f"{listed}: no such folder; {remedy}")


def _training_command(folder: Path) -> str | None:
    """Return the `make` target whose recipe writes this adapter folder by default, or None."""
    recipe = Path("recipes") / folder.parent.name / f"{folder.name}.yaml"
    agent, _, method = folder.name.partition("_")
    if not recipe.is_file() or method not in ("sft", "grpo", "ppo"):
        return None
    of_recipe = "" if folder.parent.name == "smollm2-135m" else f" RECIPE={recipe}"
    return f"`make train-{agent}-{method}{of_recipe}`"


def _check_packages(config: Any, model: Any) -> None:
    """Check that the recipe's extras are installed and have the device they run on."""
    import torch

    vllm = getattr(config, "use_vllm", False)
    wanted = {"vllm": ("use_vllm", vllm), "bitsandbytes": ("load_in_4bit", model.load_in_4bit)}
    extras = {"vllm": "vllm", "bitsandbytes": "quantization"}
    for package, (field, asked) in wanted.items():
        if asked and find_spec(package) is None:
            raise ConfigurationError(
                f"{field}: the package {package} is not installed; pip install -e '.[{extras[package]}]' "
                "(docs/engines.md), or leave the field out"
            )
    on_gpu = {"load_in_4bit": model.load_in_4bit, "use_vllm": vllm}  # weights reach a vLLM server over NCCL
    for field, asked in on_gpu.items():
        if asked and not torch.cuda.is_available():
            raise ConfigurationError(f"{field}: found true, but there is no CUDA device; leave it out")


def _check_engine(arguments: MemoryArguments, config: Any) -> None:
    """Refuse generation in a single process if the model is sharded: the other processes would wait for ever."""
    if sharding_of(config) < 3:
        return
    if str(config.eval_strategy) not in ("no", "IntervalStrategy.NO"):
        raise ConfigurationError(
            "eval_strategy: ZeRO-3 and FSDP have no greedy validation; set it to 'no', load_best_model_at_end to false "
            "and evaluate the adapter afterwards"
        )
    if arguments.agent == "manager" and arguments.answer_adapter is not None:
        raise ConfigurationError(
            "answer_adapter: under ZeRO-3 and FSDP the Answer Agent must be behind a server; set answer_server instead"
        )


def _check_folder(folder: Path) -> None:
    """Check that the output folder can be created and written to."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigurationError(
            f"output_dir: {folder} cannot be written ({there} is not a writable folder); choose another one"
        )
