"""Build the parts of a run from a checked recipe: its identity, policy, frozen Answer Agent and validation.

No layer below takes a config object. Dialogues and rewards are arguments (see `recipes/grpo.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from trl import GRPOConfig

from memory_r1.adapter_settings import AgentSettings
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.prompts import ANSWER_TOKENS
from memory_r1.dialogue_file import dialogues_hash
from memory_r1.inference.endpoint import Endpoint
from memory_r1.inference.language_model import LanguageModel
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.server_model import ServerLanguageModel
from memory_r1.memory.embedder import SentenceEmbedder
from memory_r1.memory.forms import FORMS
from memory_r1.memory.retriever import Retriever
from memory_r1.models import adapter_hash, model_hash, resolve_embedder, resolve_model, weights_hash
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.frozen_answering import BankRecall, FrozenAnswering
from memory_r1.training.policy import FROZEN_ANSWER, load_policy
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from memory_r1.training.validation import PlayedDialogues
from memory_r1.types import Dialogue
from memory_r1.weights import hash_file

SERVER_KEY = "ANSWER_SERVER_KEY"  # environment variable that holds the key of `answer_server`
# Fields that affect where or how a run executes but not its result: they may differ on resuming.
EXECUTION_FIELDS = {
    *("output_dir", "resume_from_checkpoint", "disable_tqdm", "report_to", "local_rank", "logging_steps"),
    *("answer_server", "dry_run", "accelerate"),
    *("judge_url", "judge_key_variable", "judge_timeout", "judge_concurrency"),
}


def recipe_of(*configs: Any) -> dict[str, Any]:
    """Return all dataclass fields that differ from their defaults; they identify a run."""
    recipe: dict[str, Any] = {}
    for config in configs:
        for item in dataclasses.fields(config):
            value = getattr(config, item.name)
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            if item.name not in EXECUTION_FIELDS and value != default:
                recipe[item.name] = value if isinstance(value, (str, int, float, bool, list)) else str(value)
    return recipe


def contents_of(arguments: MemoryArguments, model: Any, dialogues: Iterable[Dialogue]) -> dict[str, str | None]:
    """Return the SHA-256 of what a recipe names by its path alone: models, adapters, dialogues and files of rewards.

    They belong to what identifies a run: a folder that was trained anew makes another one.
    """
    folders = {name: getattr(arguments, name) for name in ("warm_start", "answer_folder", "manager_adapter")}
    return {
        "embedder_sha256": weights_hash(resolve_embedder(arguments.embedder)),
        "rewards_sha256": ",".join(hash_file(path) for path in _reward_files(arguments)) or None,
        "base_sha256": model_hash(resolve_model(str(model.model_name_or_path))),
        "data_sha256": dialogues_hash(dialogues),
        **{f"{name}_sha256": adapter_hash(folder) for name, folder in folders.items() if folder is not None},
    }


def _reward_files(arguments: MemoryArguments) -> list[Path]:
    return [Path(name.rpartition(":")[0]) for name in arguments.reward_funcs if ":" in name]


def agent_settings(arguments: MemoryArguments, config: Any, model: Any) -> AgentSettings:
    """Return the settings that using the trained agent must match, including defaults."""
    if arguments.agent in ("writer", "drafter"):  # who uses it says how much it reads and how long it writes
        return AgentSettings(dtype=str(model.dtype))
    if arguments.agent == "manager":
        longest = manager_tokens(arguments, config)
    else:
        # SFT samples nothing, so the recipe's bound may be too short for its style.
        of_style = max(arguments.answer_max_tokens, ANSWER_TOKENS[arguments.answer_style])
        longest = getattr(config, "max_completion_length", None) or of_style
    return AgentSettings(
        recall_per_speaker=arguments.recall_per_speaker,
        max_new_tokens=longest,
        dtype=str(model.dtype),
        answer_style=arguments.answer_style,
        embedder=arguments.embedder,
        credit=arguments.credit,
        operations=arguments.operations if arguments.agent == "manager" else None,
    )


def manager_tokens(arguments: MemoryArguments, config: Any) -> int:
    """Return a manager's longest completion on one turn: the policy's own if it is trained turn by turn."""
    own = getattr(config, "max_completion_length", None)  # SFT samples nothing
    by_turn = arguments.agent == "manager" and arguments.credit != "session"
    return int(own) if own and by_turn else arguments.manager_max_tokens


@contextmanager
def whole_models(config: Any) -> Iterator[None]:
    """Load whole models in each process: under ZeRO-3, transformers shards every model it loads, even an embedder."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if getattr(config, "hf_deepspeed_config", None) is not None:
            set_hf_deepspeed_config(config.hf_deepspeed_config)


def load_retriever(embedder: str) -> Retriever:
    """Return the hybrid retriever used by training and evaluation."""
    return Retriever(SentenceEmbedder(resolve_embedder(embedder)))


def policy_of(arguments: MemoryArguments, config: Any, model: Any) -> tuple[Any, Any, str]:
    """Return the policy, with a manager's frozen Answer Agent beside it, its tokenizer and the base's source."""
    return load_policy(
        str(model.model_name_or_path),
        dtype=str(model.dtype),
        warm_start=arguments.warm_start,
        answer_adapter=arguments.answer_folder if arguments.agent == "manager" else None,
        lora_r=model.lora_r,
        lora_alpha=model.lora_alpha,
        lora_target_modules=model.lora_target_modules or "all-linear",
        load_in_4bit=model.load_in_4bit,
        autocast=config.bf16 or config.fp16,
        seed=config.seed,
    )


def bank_recall(arguments: MemoryArguments, retriever: Retriever) -> BankRecall | None:
    """Return how a manager's banks are searched when nobody answers; None for the Answer Agent, which has none."""
    return BankRecall(retriever, arguments.recall_per_speaker) if arguments.agent == "manager" else None


def frozen_answering(
    arguments: MemoryArguments, policy: Any, tokenizer: Any, retriever: Retriever
) -> FrozenAnswering | None:
    """Return the frozen Answer Agent that questions a manager's banks, or None if there is none."""
    if arguments.agent != "manager" or not arguments.has_answer_agent:
        return None
    adapter = None
    if arguments.answer_server is not None:
        endpoint = Endpoint(arguments.answer_server, str(arguments.answer_server_model), key_variable=SERVER_KEY)
        model: LanguageModel = ServerLanguageModel(endpoint, tokenizer)
    else:
        model = LocalLanguageModel(policy, tokenizer, batch_size=32)
        adapter = FROZEN_ANSWER if arguments.answer_folder is not None else None
    frozen = AnswerAgent(
        model, adapter=adapter, max_new_tokens=arguments.answer_max_tokens, style=arguments.answer_style
    )
    return FrozenAnswering(frozen, retriever, arguments.recall_per_speaker)


def played_validation(
    arguments: MemoryArguments, dialogues: Sequence[Dialogue], answering: FrozenAnswering | None
) -> PlayedDialogues | None:
    """Return the validation by played dialogues, or None if rows validate."""
    if arguments.validation == "rows" or answering is None:
        return None
    return PlayedDialogues(dialogues, answering, arguments.recall_per_speaker, FORMS[arguments.operations])


def own_fields(config: MemoryGRPOConfig) -> dict[str, Any]:
    """Return the fields that we add to TRL's, as keyword arguments of our trainer."""
    inherited = {item.name for item in dataclasses.fields(GRPOConfig)}
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.name not in inherited}
