"""Train one agent with GRPO against the other, frozen one.

accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/grpo.py \\
    --config recipes/smollm2-135m/manager_grpo.yaml
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memory_r1.entry import run_main

if TYPE_CHECKING:
    from memory_r1.training.arguments import MemoryArguments
    from memory_r1.training.frozen_answering import BankRecall
    from memory_r1.training.grpo import MemoryGRPOTrainer
    from memory_r1.training.trainer_configs import MemoryGRPOConfig
    from rewards import RewardContext

LOWER = "per_device_train_batch_size, num_generations or max_completion_length"
logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Train one agent with GRPO."""
    from memory_r1.training.grpo import MemoryGRPOTrainer
    from memory_r1.training.trainer_configs import MemoryGRPOConfig

    return reinforce(argv, "grpo", MemoryGRPOConfig, MemoryGRPOTrainer)


def reinforce(
    argv: Sequence[str], method: str, config_class: type[MemoryGRPOConfig], trainer_class: type[MemoryGRPOTrainer]
) -> int:
    """Parse and check the recipe, make rows and rewards, train, and save the best validated policy."""
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.training import assembly, runs
    from memory_r1.training.completion_stats import DESCRIBE
    from memory_r1.training.preflight import check_run, refuse_past_window, refuse_too_few
    from memory_r1.training.prompt_filter import keep_teaching_rows
    from memory_r1.training.recipe_file import parse_recipe
    from memory_r1.training.restore_start import RestoreStart
    from recipes.dry_run import describe_run
    from recipes.training_data import load_sources, rl_rows
    from rewards import build_rewards, check_rewards

    # The recipe, its rewards and its dialogues.
    arguments, config, model = parse_recipe(config_class, list(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_rewards(
        arguments.reward_funcs,
        arguments.agent,
        config.reward_weights,
        has_answer_agent=arguments.has_answer_agent,
        answers_locally=arguments.answer_server is None,
        has_judge=arguments.judge_model is not None,
    )
    train, validation = load_sources(arguments)
    if arguments.dry_run and config.process_index == 0:
        logger.info("%s", describe_run(method, arguments, config, model, train[0]))
    check_run(arguments, config, model)
    dialogues = [source.dialogue for source in (*train, *validation)]
    recipe = assembly.recipe_of(arguments, config, model) | assembly.contents_of(arguments, model, dialogues)
    finished, checkpoint = runs.open_run(config.output_dir, recipe)
    if arguments.dry_run:
        return 0
    if finished:
        logger.info("%s: already trained with this recipe; remove the folder to train again", config.output_dir)
        return 0

    # Rows, over rebuilt or played banks.
    started = time.monotonic()
    with assembly.whole_models(config):
        retriever = assembly.load_retriever(arguments.embedder)
        datasets, rollout = rl_rows(arguments, config, model, retriever, train, validation)
    refuse_too_few(len(datasets["training"]), config)

    # The policy, and beside it the frozen agent that answers from a manager's banks.
    policy, tokenizer, base_source = assembly.policy_of(arguments, config, model)
    prompts = [prompt for rows in datasets.values() for prompt in rows["prompt"]]
    refuse_past_window(prompts, int(config.max_completion_length or 0), LocalLanguageModel(policy, tokenizer))
    answering = assembly.frozen_answering(arguments, policy, tokenizer, retriever)
    recall = answering or assembly.bank_recall(arguments, retriever)
    context = _reward_context(arguments, config, recall)
    rewards, config.reward_weights = build_rewards(arguments.reward_funcs, context, config.reward_weights)

    # Training, from the last checkpoint if there is one.
    restore_start = RestoreStart(Path(config.output_dir))
    trainer = trainer_class(
        model=policy,
        args=config,
        processing_class=tokenizer,
        train_dataset=datasets["training"],
        eval_dataset=datasets["validation"],
        reward_funcs=rewards,
        played=assembly.played_validation(arguments, [source.dialogue for source in validation], answering),
        describe=DESCRIBE[arguments.agent],
        completions_log=Path(config.output_dir) / "completions.jsonl",
        callbacks=[restore_start],
        **rollout,
        **assembly.own_fields(config),
    )
    restore_start.trainer = trainer
    if trainer.accelerator.is_main_process:
        runs.claim_run(config.output_dir, recipe)
    if arguments.filter_prompts:
        keep_teaching_rows(trainer, Path(config.output_dir))
        refuse_too_few(len(trainer.train_dataset), config)
    trainer.train(resume_from_checkpoint=checkpoint)

    # The best checkpoint, or the start if none was better.
    counts = {"train_dialogues": len(train), "train_rows": len(trainer.train_dataset)}
    runs.finish_run(
        trainer,
        agent=arguments.agent,
        method=method,
        recipe=recipe,
        settings=assembly.agent_settings(arguments, config, model),
        base=str(model.model_name_or_path),
        base_source=base_source,
        started=started,
        results={**counts, **runs.rl_results(trainer, restore_start)},
    )
    return 0


def _reward_context(arguments: MemoryArguments, config: MemoryGRPOConfig, recall: BankRecall | None) -> RewardContext:
    """Build what the recipe's rewards depend on."""
    from memory_r1.inference.endpoint import Endpoint
    from rewards import RewardContext

    judge = None
    if arguments.judge_model is not None:
        judge = Endpoint(
            arguments.judge_url,
            arguments.judge_model,
            key_variable=arguments.judge_key_variable,
            timeout=arguments.judge_timeout,
            concurrency=arguments.judge_concurrency,
        )
    return RewardContext(
        arguments.agent,
        recall,
        arguments.entry_cost,
        longest=int(config.max_completion_length or 0),
        length_margin=arguments.length_margin,
        judge=judge,
    )


if __name__ == "__main__":
    sys.exit(run_main(main, lower=LOWER))
