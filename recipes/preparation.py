"""What the training recipes share: from a recipe's fields to the rows of an agent, and the end of a run."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from trl import GRPOConfig

from data.banks import Banks, gold_banks, observation_banks
from data.sources import Source, training_sources
from data.tuples import answer_tuples, manager_tuples, session_tuples
from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.inference.language_model import LocalLanguageModel, Messages, WindowedLanguageModel
from memory_r1.memory.embedder import SentenceEmbedder
from memory_r1.memory.log import ListLog
from memory_r1.memory.retriever import Retriever
from memory_r1.models import check_adapter, resolve_embedder, resolve_model
from memory_r1.provenance import git_revision, package_versions
from memory_r1.settings import AgentSettings
from memory_r1.systems.bank_cache import BankCache
from memory_r1.systems.player import banks_along, play_manager
from memory_r1.systems.state import ScopeState
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.engines import sharding_of
from memory_r1.training.rows import Row
from memory_r1.training.runs import base_model_record, remove_checkpoints, save_adapter
from memory_r1.types import AnswerTuple, ManagerTuple, SessionTuple

logger = logging.getLogger(__name__)

# Fields that say where or how a run is executed, not what it computes: they may differ when it is resumed.
EXECUTION_FIELDS = {
    *("output_dir", "resume_from_checkpoint", "disable_tqdm", "report_to", "local_rank", "logging_steps"),
    *("answer_server", "accelerate", "dry_run"),
    *("judge_url", "judge_key_variable", "judge_timeout", "judge_concurrency"),
}


def recipe_of(*configs: Any) -> dict[str, Any]:
    """The fields of all dataclasses that differ from their defaults: what identifies a run."""
    recipe: dict[str, Any] = {}
    for config in configs:
        for item in dataclasses.fields(config):
            value = getattr(config, item.name)
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            if item.name not in EXECUTION_FIELDS and value != default:
                recipe[item.name] = value if isinstance(value, (str, int, float, bool, list)) else str(value)
    return recipe


def check_engine(arguments: MemoryArguments, config: Any) -> None:
    """Refuse what generates in one process alone where no process has the whole model: the others would wait for ever.

    Raises:
        ConfigurationError: Names the field to change.
    """
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


@contextmanager
def whole_models(config: Any) -> Iterator[None]:
    """Load models whole in each process: under ZeRO-3, transformers shards all that it loads, an embedder too."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if getattr(config, "hf_deepspeed_config", None) is not None:
            set_hf_deepspeed_config(config.hf_deepspeed_config)


def load_retriever(embedder: str) -> Retriever:
    """The hybrid retriever of training and evaluation."""
    return Retriever(SentenceEmbedder(resolve_embedder(embedder)))


def load_sources(arguments: MemoryArguments) -> tuple[list[Source], list[Source]]:
    """Training and validation dialogues of a recipe."""
    return training_sources(
        arguments.dataset,
        seed=arguments.dialogue_seed,
        first=arguments.first_dialogue,
        count=arguments.train_dialogues,
        validation=arguments.validation_dialogues,
    )


def agent_settings(arguments: MemoryArguments, config: Any, dtype: str) -> AgentSettings:
    """What using the trained agent must agree with, defaults too."""
    if arguments.agent == "manager":
        longest = manager_tokens(arguments, config)
    else:
        longest = getattr(config, "max_completion_length", None) or arguments.answer_max_tokens
    return AgentSettings(arguments.recall_per_speaker, longest, dtype, arguments.answer_style, arguments.embedder)


def manager_tokens(arguments: MemoryArguments, config: Any) -> int:
    """The longest completion of the manager in `manager_adapter`: where it is trained on turns, its policy's own."""
    own = getattr(config, "max_completion_length", None)  # SFT samples nothing
    return (
        int(own)
        if own and arguments.agent == "manager" and arguments.credit != "session"
        else (arguments.manager_max_tokens)
    )


def load_banks(
    arguments: MemoryArguments,
    sources: Sequence[Source],
    model: str,
    dtype: str,
    retriever: Retriever,
    folder: Path,
    longest: int,
) -> list[Banks]:
    """The bank before each turn of each dialogue, as the recipe's `banks` says; `longest` bounds a completion.

    A manager's banks are kept in `folder` (see `BankCache`): runs beside each other play a manager on a dialogue once.
    """
    if arguments.banks == "gold":
        return [gold_banks(source.dialogue, _gold(source)) for source in sources]
    if arguments.banks == "observations":
        return [observation_banks(source.dialogue, source.observations) for source in sources]
    adapter, top_k = str(arguments.manager_adapter), arguments.recall_per_speaker
    check_adapter(adapter, resolve_model(model))
    cache = BankCache.of_manager(
        folder,
        model=model,
        dtype=dtype,
        manager=adapter,
        embedder=arguments.embedder,
        top_k=top_k,
        max_new_tokens=longest,
    )
    dialogues = [source.dialogue for source in sources]
    log = ListLog(ScopeState())
    with PartialState().main_process_first(), cache.lock():  # a run beside this one plays the same
        taken = cache.take(log, dialogues)
        missing = [dialogue for dialogue in dialogues if dialogue.dialogue_id not in taken]
        if missing:
            language_model = LocalLanguageModel.load(model, {"manager": adapter}, dtype=dtype)
            manager = MemoryManager(language_model, retriever, adapter="manager", top_k=top_k, max_new_tokens=longest)
            played = play_manager(missing, manager, progress=True)
            cache.keep(played, missing)
            for dialogue in missing:
                log.extend(dialogue.dialogue_id, played.records(dialogue.dialogue_id))
    return [Banks(*banks_along(log.records(dialogue.dialogue_id))) for dialogue in dialogues]


def manager_units(arguments: MemoryArguments, sources: Sequence[Source], banks: Sequence[Banks]) -> list[ManagerTuple]:
    """Training tuples of the Memory Manager for reinforcement learning: no gold operation is used."""
    return [
        item
        for source, bank in zip(sources, banks, strict=True)
        for item in manager_tuples(
            source.dialogue,
            bank,
            retention_questions=arguments.retention_questions,
            scored_only=True,
            seed=arguments.dialogue_seed,
        )
    ]


def session_units(arguments: MemoryArguments, sources: Sequence[Source], banks: Sequence[Banks]) -> list[SessionTuple]:
    """Sessions as the Memory Manager's training tuples."""
    return [
        item
        for source, bank in zip(sources, banks, strict=True)
        for item in session_tuples(
            source.dialogue,
            bank,
            retention_questions=arguments.retention_questions,
            seed=arguments.dialogue_seed,
        )
    ]


def labelled_manager_units(sources: Sequence[Source]) -> list[ManagerTuple]:
    """Every turn with its gold operations."""
    return [
        item
        for source in sources
        for item in manager_tuples(
            source.dialogue, gold_banks(source.dialogue, _gold(source)), every_turn=True, gold=_gold(source)
        )
    ]


def answer_units(sources: Sequence[Source], banks: Sequence[Banks]) -> list[AnswerTuple]:
    """Every question with the bank it is asked of."""
    return [item for source, bank in zip(sources, banks, strict=True) for item in answer_tuples(source.dialogue, bank)]


def require_rows(rows: list[Row], limit: int | None, what: str) -> list[Row]:
    """Up to `limit` rows spread evenly over all; DataError when there are none."""
    if not rows:
        raise DataError(f"no {what} row came out of the dialogues; give dialogues with questions (and labels for SFT)")
    if limit is None or len(rows) <= limit:
        return rows
    return [rows[index * len(rows) // limit] for index in range(limit)]


def refuse_too_few(rows: int, config: GRPOConfig) -> None:
    """Refuse fewer training rows than a rollout has distinct prompts: TRL would skip it, and train for no step at all.

    Raises:
        ConfigurationError: There are fewer.
    """
    prompts = int(config.generation_batch_size or 0) // int(config.num_generations or 1)
    if rows < prompts:
        raise ConfigurationError(
            f"{rows} training rows are fewer than the {prompts} distinct prompts of a rollout (generation_batch_size "
            f"{config.generation_batch_size} / num_generations {config.num_generations}): no step would be trained; "
            "give more train_dialogues or a smaller per_device_train_batch_size"
        )


def refuse_past_window(prompts: Iterable[Messages], tokens: int, model: WindowedLanguageModel) -> None:
    """Refuse rows that the policy cannot read whole: it would go on sampling, past the positions that it knows.

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
            f"the longest prompt has {longest} tokens, with max_completion_length {tokens} more than the window of "
            f"{model.window}: lower recall_per_speaker or max_completion_length"
        )


def finish_run(
    trainer: Any,
    arguments: MemoryArguments,
    *,
    method: str,
    recipe: Mapping[str, Any],
    model: str,
    dtype: str,
    source: str,
    started: float,
    results: Mapping[str, Any],
) -> None:
    """Save the best adapter with its card and summary, drop the checkpoints, and leave the process group together."""
    # All processes take part in putting a split adapter together.
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharding_of(trainer.args) == 3 else None
    if trainer.accelerator.is_main_process:
        policy = trainer.accelerator.unwrap_model(trainer.model)
        trainable = (parameter for parameter in policy.parameters() if parameter.requires_grad)
        summary = {
            "agent": arguments.agent,
            "method": method,
            "recipe": recipe,
            "settings": agent_settings(arguments, trainer.args, dtype).to_dict(),
            "loss": trainer.args.loss_type,
            "base_model": base_model_record(source, model),
            "steps": trainer.state.global_step,
            "seed": trainer.args.seed,
            "trainable_parameters": sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trainable),
            "wall_seconds": time.monotonic() - started,
            **results,
            "git_revision": git_revision(),
            "versions": package_versions(),
            "log_history": trainer.state.log_history,
        }
        save_adapter(policy, trainer.processing_class, trainer.args.output_dir, summary, whole)
        remove_checkpoints(trainer.args.output_dir)
        logger.info("adapter written to %s", trainer.args.output_dir)
    # A process that goes alone may abort while it takes its connections down, and the launcher then stops the others,
    # whatever they are saving.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def _gold(source: Source) -> Mapping[str, Any]:
    if source.gold is None:
        raise ConfigurationError(
            f"dialogue {source.dialogue.dialogue_id} has no gold operations; use dataset: synthetic, or banks: manager"
        )
    return source.gold
