"""What the runs of reinforcement learning share: rows over rebuilt banks, rewards, training, and what a run leaves."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from data.banks import Banks
from data.sources import Source
from data.tuples import branch_points
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.errors import ConfigurationError
from memory_r1.inference.endpoint import Endpoint
from memory_r1.inference.language_model import LanguageModel, LocalLanguageModel
from memory_r1.inference.server_model import ServerLanguageModel
from memory_r1.memory.retriever import Retriever
from memory_r1.training.answering import FrozenAnswering
from memory_r1.training.arguments import MemoryArguments, MemoryGRPOConfig
from memory_r1.training.callbacks import RestoreStart
from memory_r1.training.describe import DESCRIBE
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.policy import FROZEN_ANSWER, load_policy
from memory_r1.training.recipe_file import parse_recipe
from memory_r1.training.rollouts import PLAIN_SAMPLING, supports_shared_rollout
from memory_r1.training.rows import Row, answer_rows, manager_rows
from memory_r1.training.runs import claim_run, open_run
from memory_r1.training.sessions import BranchRollout, branch_rows, session_rows
from memory_r1.training.validation import PlayedDialogues
from recipes import preparation
from recipes.dry_run import describe_run
from rewards import RewardContext, RewardFunction, build_rewards, check_rewards

logger = logging.getLogger(__name__)

SERVER_KEY = "ANSWER_SERVER_KEY"  # environment variable that holds the key of `answer_server`


def reinforce(
    argv: Sequence[str],
    method: str,
    config_class: type[MemoryGRPOConfig],
    trainer_class: type[MemoryGRPOTrainer],
) -> int:
    """Parse the recipe, rebuild the banks, build tuples and rewards, train, keep the best validated policy."""
    arguments, config, model = parse_recipe(config_class, list(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = str(model.model_name_or_path)
    check_rewards(
        arguments.reward_funcs,
        arguments.agent,
        config.reward_weights,
        has_answer_agent=arguments.has_answer_agent,
        has_judge=arguments.judge_model is not None,
    )
    if arguments.credit == "branch":
        _refuse_branching(config)
    if arguments.dry_run:
        if config.process_index == 0:
            logger.info("%s", describe_run(method, arguments, config, model))
        return 0
    preparation.check_engine(arguments, config)
    recipe = preparation.recipe_of(arguments, config, model)
    finished, checkpoint = open_run(config.output_dir, recipe)
    if finished:
        logger.info("%s: already trained with this recipe; remove the folder to train again", config.output_dir)
        return 0
    started = time.monotonic()
    retriever = preparation.load_retriever(arguments.embedder)
    with preparation.whole_models(config):
        train, validation = preparation.load_sources(arguments)
    datasets, rollout = _load_rows(arguments, config, model, retriever, train, validation)
    preparation.refuse_too_few(len(datasets["training"]), config)
    policy, tokenizer, source = _load_policy(arguments, config, model)
    reader = LocalLanguageModel(policy, tokenizer)
    prompts = [prompt for rows in datasets.values() for prompt in rows["prompt"]]
    preparation.refuse_past_window(prompts, int(config.max_completion_length or 0), reader)
    answering = _answering(arguments, policy, tokenizer, retriever)
    rewards, config.reward_weights = _rewards(arguments, config, answering)
    restore_start = RestoreStart(Path(config.output_dir))
    trainer = trainer_class(
        model=policy,
        args=config,
        processing_class=tokenizer,
        train_dataset=datasets["training"],
        eval_dataset=datasets["validation"],
        reward_funcs=rewards,
        played=_played(arguments, validation, answering),
        describe=DESCRIBE[arguments.agent],
        completions_log=Path(config.output_dir) / "completions.jsonl",
        callbacks=[restore_start],
        **rollout,
        **_own_fields(config),
    )
    restore_start.trainer = trainer
    if trainer.accelerator.is_main_process:
        claim_run(config.output_dir, recipe)
    trainer.train(resume_from_checkpoint=checkpoint)
    results = {
        "train_dialogues": len(train),
        "train_rows": len(datasets["training"]),
        **_outcome(trainer, restore_start),
    }
    preparation.finish_run(
        trainer,
        arguments,
        method=method,
        recipe=recipe,
        model=name,
        dtype=str(model.dtype),
        source=source,
        started=started,
        results=results,
    )
    return 0


def _load_rows(
    arguments: MemoryArguments,
    config: MemoryGRPOConfig,
    model: Any,
    retriever: Retriever,
    train: Sequence[Source],
    validation: Sequence[Source],
) -> tuple[dict[str, Dataset], dict[str, Any]]:
    """Rows for training and validation, and the trainer's `rollout_func` if it has one."""
    branching = arguments.credit == "branch"
    played = validation if branching else [*train, *validation]  # branches play the training dialogues themselves
    folder = Path(config.output_dir).parent / "banks"
    name, dtype = str(model.model_name_or_path), str(model.dtype)
    longest = preparation.manager_tokens(arguments, config)
    banks = preparation.load_banks(arguments, played, name, dtype, retriever, folder, longest)
    rows = {"validation": _rows(arguments, validation, banks[-len(validation) :], retriever)}
    rollout = {}
    if branching:
        points = [point for source in train for point in branch_points(source.dialogue)]
        rows["training"] = branch_rows(points)
        rollout["rollout_func"] = BranchRollout(
            points,
            retriever,
            top_k=arguments.recall_per_speaker,
            retention_questions=arguments.retention_questions,
            seed=config.seed,
        )
    else:
        rows["training"] = _rows(arguments, train, banks[: len(train)], retriever)
    limits = {"training": arguments.max_train_rows, "validation": arguments.max_validation_rows}
    datasets = {
        split: Dataset.from_list(preparation.require_rows(found, limits[split], split)) for split, found in rows.items()
    }
    for split, sources in (("training", train), ("validation", validation)):
        logger.info("%s: %d dialogues, %d rows", split, len(sources), len(datasets[split]))
    return datasets, rollout


def _rows(
    arguments: MemoryArguments, sources: Sequence[Source], banks: Sequence[Banks], retriever: Retriever
) -> list[Row]:
    """One row a tuple, over the banks rebuilt beforehand."""
    if arguments.agent == "answer":
        return answer_rows(
            preparation.answer_units(sources, banks), retriever, arguments.recall_per_speaker, arguments.answer_style
        )
    if arguments.credit == "session":
        return session_rows(
            preparation.session_units(arguments, sources, banks), retriever, arguments.recall_per_speaker
        )
    return manager_rows(preparation.manager_units(arguments, sources, banks), retriever, arguments.recall_per_speaker)


def _refuse_branching(config: MemoryGRPOConfig) -> None:
    """Branches are sampled by the project's own decoding, which knows temperature alone and an unsharded model."""
    if not supports_shared_rollout(config):
        raise ConfigurationError(
            f"credit is 'branch', which samples by itself; leave out {', '.join(PLAIN_SAMPLING)} and do not shard the "
            "model"
        )


def _load_policy(arguments: MemoryArguments, config: MemoryGRPOConfig, model: Any) -> tuple[Any, Any, str]:
    """The policy, with the frozen Answer Agent beside it where a manager is trained."""
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


def _answering(arguments: MemoryArguments, policy: Any, tokenizer: Any, retriever: Retriever) -> FrozenAnswering | None:
    """How a manager's banks are asked; None where nobody asks them."""
    if arguments.agent != "manager" or not arguments.has_answer_agent:
        return None
    if arguments.answer_server is not None:
        endpoint = Endpoint(arguments.answer_server, str(arguments.answer_server_model), key_variable=SERVER_KEY)
        model: LanguageModel = ServerLanguageModel(endpoint, tokenizer)
        adapter = None
    else:
        model = LocalLanguageModel(policy, tokenizer, batch_size=32)
        adapter = FROZEN_ANSWER if arguments.answer_folder is not None else None
    frozen = AnswerAgent(
        model, adapter=adapter, max_new_tokens=arguments.answer_max_tokens, style=arguments.answer_style
    )
    return FrozenAnswering(frozen, retriever, arguments.recall_per_speaker)


def _played(
    arguments: MemoryArguments, validation: Sequence[Source], answering: FrozenAnswering | None
) -> PlayedDialogues | None:
    """The dialogues that a manager is validated by playing; None where rows validate."""
    if arguments.validation == "rows" or answering is None:
        return None
    return PlayedDialogues([source.dialogue for source in validation], answering, arguments.recall_per_speaker)


def _rewards(
    arguments: MemoryArguments, config: MemoryGRPOConfig, answering: FrozenAnswering | None
) -> tuple[list[RewardFunction], list[float]]:
    """The recipe's reward functions and their weights."""
    judge = None
    if arguments.judge_model is not None:
        judge = Endpoint(
            arguments.judge_url,
            arguments.judge_model,
            key_variable=arguments.judge_key_variable,
            timeout=arguments.judge_timeout,
            concurrency=arguments.judge_concurrency,
        )
    context = RewardContext(
        arguments.agent,
        answering,
        arguments.entry_cost,
        longest=int(config.max_completion_length or 0),
        length_margin=arguments.length_margin,
        judge=judge,
    )
    return build_rewards(arguments.reward_funcs, context, config.reward_weights)


def _own_fields(config: MemoryGRPOConfig) -> dict[str, Any]:
    """The fields that we add to TRL's: they are the trainer's own keyword arguments."""
    inherited = {item.name for item in dataclasses.fields(GRPOConfig)}
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.name not in inherited}


def _outcome(trainer: Any, restore_start: RestoreStart) -> dict[str, Any]:
    """First, last and best numbers of a run, once the start is back where nothing beat it."""
    kept = restore_start.restore_unless_beaten()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    validated = [value for value in (restore_start.score, trainer.state.best_metric) if value is not None]
    return {
        "first_reward": rewards[0] if rewards else None,
        "last_reward": rewards[-1] if rewards else None,
        "start_validation": restore_start.score,
        "best_validation": max(validated, default=None),
        "kept_start": kept,
    }
