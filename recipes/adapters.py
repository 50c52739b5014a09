"""The adapters of an evaluation: folders, the pair that comes with the package, or none on the untrained base model."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from memory_r1.adapter_settings import BASE, QUERIES, SUMMARY
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json
from memory_r1.packaged_adapters import FOLDER, choose, has_packaged_pair, may_be_packaged

if TYPE_CHECKING:
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.systems.latent_tokens import TokenWeaver

logger = logging.getLogger(__name__)


def add_adapters(group: argparse._ArgumentGroup) -> None:
    """Add the options that name the adapters, and the server that may hold them."""
    group.add_argument(
        "--endpoint",
        metavar="URL",
        help="OpenAI-compatible server of both agents, such as http://127.0.0.1:8000/v1: --model, --manager and "
        "--answer are then names on it; its key is in OPENAI_API_KEY",
    )
    for agent, called in (("manager", "Memory Manager"), ("answer", "Answer Agent")):
        group.add_argument(
            f"--{agent}",
            metavar="DIR",
            help=f"adapter of the {called}, or `base` for the untrained model (default: the adapter that comes with "
            "the package if no adapter is named and --model is the embedded one, else `base`)",
        )
    group.add_argument(
        "--weaver",
        metavar="DIR",
        help="weaver of latent-tokens (default: the one that comes with the package if --model is the embedded one)",
    )


def choose_adapters(options: argparse.Namespace) -> None:
    """Replace `options.manager` and `options.answer` by the folders to load, None for the base model or no manager.

    Logs a line if an agent on the embedded base model has no named adapter.

    Raises:
        ConfigurationError: What is named is for another system, or a needed weaver is not named.
    """
    from memory_r1.systems.table import system_spec

    spec = system_spec(options.system)
    if options.manager and not spec.takes_manager_adapter:
        has = "an untrained manager" if spec.prompted else "no manager"
        raise ConfigurationError(f"--manager is given, but memory system {options.system!r} has {has}: leave it out")
    if options.weaver and not spec.needs_weaver:
        raise ConfigurationError(f"--weaver is given, but memory system {options.system!r} has none: leave it out")
    if options.slot_policy and not spec.takes_slot_policy:
        raise ConfigurationError(f"--slot-policy is given, but memory system {options.system!r} has none: leave it out")
    if spec.needs_weaver:
        options.weaver = find_weaver(options.system, options.weaver, options.model)
    agents = ("manager", "answer") if spec.takes_manager_adapter else ("answer",)
    named = {agent: getattr(options, agent) for agent in agents}
    if options.endpoint:
        for agent, name in named.items():
            setattr(options, agent, None if name == BASE else name)
        return
    for agent, folder in choose(named, options.model).items():
        setattr(options, agent, folder)
    unnamed = [agent for agent in agents if named[agent] is None]
    if not unnamed or not may_be_packaged(options.model):
        return
    found = f"no adapter is named for {' and '.join(unnamed)}"
    if any(named.values()):
        logger.info("%s: using the untrained base model, since the packaged adapters belong together", found)
    elif has_packaged_pair():
        logger.info("%s: using what comes with the package; `base` names the untrained model", found)
    else:
        logger.info("%s and none comes with this installation: using the untrained base model", found)


def agent_of(folder: Path, otherwise: str) -> str:
    """Return the agent whose adapter a folder holds, as its summary names it; `otherwise` where it has none."""
    return str(read_json(folder / SUMMARY).get("agent", otherwise)) if (folder / SUMMARY).is_file() else otherwise


def find_weaver(system: str, named: str | None, model: str) -> str:
    """Return the folder of a system's weaver: the named one, else the one in the package for the embedded model.

    Raises:
        ConfigurationError: There is none, or the named folder holds none.
    """
    packaged = FOLDER / "weaver"
    if named is None and may_be_packaged(model) and packaged.is_dir():
        return str(packaged)
    if named is None:
        raise ConfigurationError(
            f"memory system {system!r} needs a trained weaver: run make train-latent-tokens, and name the folder that "
            "it writes with --weaver"
        )
    folder = Path(named).expanduser()
    agent = agent_of(folder, "weaver")
    if agent != "weaver" or not (folder / QUERIES).is_file():
        found = f"no {QUERIES} there" if agent == "weaver" else f"the adapter of the {agent} agent"
        raise ConfigurationError(
            f"--weaver {named}: found {found}; give the folder of a weaver, which make train-latent-tokens writes"
        )
    return named


def load_weaver(options: argparse.Namespace, model: LocalLanguageModel) -> TokenWeaver:
    """Load the weaver whose adapter the model holds; warn if it was trained through another Answer Agent."""
    from memory_r1.inference.weaver import Weaver
    from memory_r1.models import adapter_hash

    summary = Path(options.weaver) / SUMMARY
    trained_through = read_json(summary).get("recipe", {}).get("answer_sha256") if summary.is_file() else None
    if summary.is_file() and trained_through != (adapter_hash(options.answer) if options.answer else None):
        logger.warning(
            "%s was trained through another Answer Agent: this one may not read its memory tokens; train a weaver for "
            "it with make train-latent-tokens ANSWER=%s",
            options.weaver,
            options.answer or BASE,
        )
    return Weaver.load(model, options.weaver)
