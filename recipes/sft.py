"""Supervised warm start of one agent from few labelled dialogues.

accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/sft.py \\
    --config recipes/smollm2-135m/manager_sft.yaml
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
    """Parse the recipe, build labelled rows, train, keep the checkpoint of the lowest validation loss."""
    from datasets import Dataset

    from memory_r1.training.arguments import MemorySFTConfig
    from memory_r1.training.callbacks import RestoreStart
    from memory_r1.training.policy import load_policy
    from memory_r1.training.recipe_file import parse_recipe
    from memory_r1.training.rows import answer_sft_rows, manager_sft_rows
    from memory_r1.training.runs import claim_run, open_run
    from memory_r1.training.sft import CompletionSFTTrainer
    from recipes import preparation
    from recipes.dry_run import describe_run

    arguments, config, model = parse_recipe(MemorySFTConfig, list(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.dry_run:
        if config.process_index == 0:
            logger.info("%s", describe_run("sft", arguments, config, model))
        return 0
    recipe = preparation.recipe_of(arguments, config, model)
    finished, checkpoint = open_run(config.output_dir, recipe)
    if finished:
        logger.info("%s: already trained with this recipe; remove the folder to train again", config.output_dir)
        return 0
    started = time.monotonic()
    train, validation = preparation.load_sources(arguments)
    retriever = preparation.load_retriever(arguments.embedder)

    def rows(sources: list) -> list:
        if arguments.agent == "manager":
            return manager_sft_rows(
                preparation.labelled_manager_units(sources), retriever, arguments.recall_per_speaker
            )
        banks = preparation.load_banks(
            arguments,
            sources,
            str(model.model_name_or_path),
            str(model.dtype),
            retriever,
            Path(config.output_dir).parent / "banks",
            arguments.manager_max_tokens,
        )
        return answer_sft_rows(
            preparation.answer_units(sources, banks), retriever, arguments.recall_per_speaker, arguments.answer_style
        )

    with preparation.whole_models(config):
        train_rows = preparation.require_rows(rows(train), arguments.max_train_rows, "training")
        validation_rows = preparation.require_rows(rows(validation), arguments.max_validation_rows, "validation")
    logger.info("%d labelled dialogues, %d rows", len(train), len(train_rows))
    policy, tokenizer, source = load_policy(
        str(model.model_name_or_path),
        dtype=str(model.dtype),
        warm_start=arguments.warm_start,
        lora_r=model.lora_r,
        lora_alpha=model.lora_alpha,
        lora_target_modules=model.lora_target_modules or "all-linear",
        load_in_4bit=model.load_in_4bit,
        autocast=config.bf16 or config.fp16,
        seed=config.seed,
    )
    trainer = CompletionSFTTrainer(
        model=policy,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(train_rows),
        eval_dataset=Dataset.from_list(validation_rows),
    )
    restore_start = RestoreStart(Path(config.output_dir), "eval_loss", greater_is_better=False)
    restore_start.trainer = trainer
    if arguments.warm_start is not None:  # a new adapter says nothing yet: it is always beaten
        trainer.add_callback(restore_start)
    if trainer.accelerator.is_main_process:
        claim_run(config.output_dir, recipe)
    trainer.train(resume_from_checkpoint=checkpoint)
    kept = restore_start.restore_unless_beaten()
    preparation.finish_run(
        trainer,
        arguments,
        method="sft",
        recipe=recipe,
        model=str(model.model_name_or_path),
        dtype=str(model.dtype),
        source=source,
        started=started,
        results={
            "labelled_dialogues": len(train),
            "train_rows": len(train_rows),
            "first_reward": None,
            "last_reward": None,
            "start_validation": restore_start.score,
            "best_validation": restore_start.score if kept else trainer.state.best_metric,
            "kept_start": kept,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, lower="per_device_train_batch_size or max_length"))
