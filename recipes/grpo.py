"""GRPO of one agent against the other, frozen one.

accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/grpo.py \\
    --config recipes/smollm2-135m/manager_grpo.yaml
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from memory_r1.entry import run_main

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Parse the recipe, rebuild the banks, build tuples and rewards, train, keep the best validated policy."""
    from datasets import Dataset

    from memory_r1.agents.answer_agent import AnswerAgent
    from memory_r1.agents.language_model import LocalLanguageModel
    from memory_r1.training.answering import FrozenAnswering
    from memory_r1.training.arguments import MemoryGRPOConfig, parse_recipe
    from memory_r1.training.callbacks import KeepStart
    from memory_r1.training.describe import DESCRIBE
    from memory_r1.training.grpo import MemoryGRPOTrainer
    from memory_r1.training.policy import FROZEN_ANSWER, load_policy
    from memory_r1.training.rows import answer_rows, manager_rows
    from memory_r1.training.runs import claim_run, open_run
    from recipes import preparation
    from rewards import RewardContext, build_rewards, check_rewards

    arguments, config, model = parse_recipe(MemoryGRPOConfig, list(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = str(model.model_name_or_path)
    check_rewards(arguments.reward_funcs, arguments.agent, has_answer_agent=arguments.answer_adapter is not None)
    recipe = preparation.recipe_of(arguments, config, model)
    finished, checkpoint = open_run(config.output_dir, recipe)
    if finished:
        logger.info("%s: already trained with this recipe; remove the folder to train again", config.output_dir)
        return 0
    started = time.monotonic()
    retriever = preparation.load_retriever(arguments.embedder)
    train, validation = preparation.load_sources(arguments)
    banks = preparation.load_banks(
        arguments, [*train, *validation], name, str(model.dtype), retriever, Path(config.output_dir).parent / "banks"
    )
    splits = {"training": (train, banks[: len(train)]), "validation": (validation, banks[len(train) :])}
    datasets = {}
    for split, (sources, played) in splits.items():
        if arguments.agent == "manager":
            rows = manager_rows(
                preparation.manager_units(arguments, sources, played), retriever, arguments.recall_per_speaker
            )
        else:
            rows = answer_rows(preparation.answer_units(sources, played), retriever, arguments.recall_per_speaker)
        limit = arguments.max_train_rows if split == "training" else arguments.max_validation_rows
        datasets[split] = Dataset.from_list(preparation.require_rows(rows, limit, split))
        logger.info("%s: %d dialogues, %d rows", split, len(sources), len(datasets[split]))
    policy, tokenizer, source = load_policy(
        name,
        dtype=str(model.dtype),
        warm_start=arguments.warm_start,
        answer_adapter=arguments.answer_adapter if arguments.agent == "manager" else None,
        lora_r=model.lora_r,
        lora_alpha=model.lora_alpha,
        lora_target_modules=model.lora_target_modules or "all-linear",
        autocast=config.bf16 or config.fp16,
        seed=config.seed,
    )
    answering = None
    if arguments.agent == "manager" and arguments.answer_adapter is not None:
        frozen = AnswerAgent(
            LocalLanguageModel(policy, tokenizer, batch_size=32),
            adapter=FROZEN_ANSWER,
            max_new_tokens=arguments.answer_max_tokens,
        )
        answering = FrozenAnswering(frozen, retriever, arguments.recall_per_speaker)
    keep_start = KeepStart(Path(config.output_dir))
    trainer = MemoryGRPOTrainer(
        model=policy,
        args=config,
        processing_class=tokenizer,
        train_dataset=datasets["training"],
        eval_dataset=datasets["validation"],
        reward_funcs=build_rewards(
            arguments.reward_funcs, RewardContext(arguments.agent, answering, arguments.entry_cost)
        ),
        describe=DESCRIBE[arguments.agent],
        completions_log=Path(config.output_dir) / "completions.jsonl",
        shared_prefix=config.shared_prefix,
        callbacks=[keep_start],
    )
    keep_start.trainer = trainer
    if trainer.accelerator.is_main_process:
        claim_run(config.output_dir, recipe)
    trainer.train(resume_from_checkpoint=checkpoint)
    kept = keep_start.restore_unless_beaten()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    preparation.finish_run(
        trainer,
        arguments,
        method="grpo",
        recipe=recipe,
        model=name,
        source=source,
        started=started,
        results={
            "train_dialogues": len(train),
            "train_rows": len(datasets["training"]),
            "first_reward": rewards[0] if rewards else None,
            "last_reward": rewards[-1] if rewards else None,
            "start_validation": keep_start.score,
            "best_validation": max(
                (v for v in (keep_start.score, trainer.state.best_metric) if v is not None), default=None
            ),
            "kept_start": kept,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
