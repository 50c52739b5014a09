"""Warm-start one agent by supervised training on a few labelled dialogues.

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
    """Parse and check the recipe, make labelled rows, train, and save the checkpoint of the lowest validation loss."""
    from memory_r1.training import assembly, runs
    from memory_r1.training.early_stopping import CpuBudget, Patience
    from memory_r1.training.preflight import check_run
    from memory_r1.training.recipe_file import parse_recipe
    from memory_r1.training.restore_start import RestoreStart
    from memory_r1.training.sft import CompletionSFTTrainer
    from memory_r1.training.trainer_configs import MemorySFTConfig
    from recipes.dry_run import describe_run
    from recipes.training_data import load_sources, sft_rows

    # The recipe and its dialogues.
    arguments, config, model = parse_recipe(MemorySFTConfig, list(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train, validation = load_sources(arguments)
    if arguments.dry_run and config.process_index == 0:
        logger.info("%s", describe_run("sft", arguments, config, model, train[0]))
    check_run(arguments, config, model)
    dialogues = [source.dialogue for source in (*train, *validation)]
    recipe = assembly.recipe_of(arguments, config, model) | assembly.contents_of(arguments, model, dialogues)
    finished, checkpoint = runs.open_run(config.output_dir, recipe)
    if arguments.dry_run:
        return 0
    if finished:
        logger.info("%s: already trained with this recipe; remove the folder to train again", config.output_dir)
        return 0

    # Rows, with gold operations, worked answers or gold texts as completions.
    started = time.monotonic()
    with assembly.whole_models(config):
        retriever = assembly.load_retriever(arguments.embedder)
        datasets = sft_rows(arguments, config, model, retriever, train, validation)
    logger.info("%d labelled dialogues, %d rows", len(train), len(datasets["training"]))

    # Training, from the last checkpoint if there is one.
    policy, tokenizer, base_source = assembly.policy_of(arguments, config, model)
    trainer = CompletionSFTTrainer(
        model=policy,
        args=config,
        processing_class=tokenizer,
        train_dataset=datasets["training"],
        eval_dataset=datasets["validation"],
    )
    restore_start = RestoreStart(Path(config.output_dir), "eval_loss", greater_is_better=False)
    restore_start.trainer = trainer
    if arguments.warm_start is not None:  # an untrained adapter is never worth restoring
        trainer.add_callback(restore_start)
    if config.patience:
        trainer.add_callback(Patience(config.patience))
    if config.max_cpu_seconds:
        trainer.add_callback(CpuBudget(config.max_cpu_seconds))
    if trainer.accelerator.is_main_process:
        runs.claim_run(config.output_dir, recipe)
    trainer.train(resume_from_checkpoint=checkpoint)

    # The best checkpoint, or the start if none was better.
    counts = {"labelled_dialogues": len(train), "train_rows": len(datasets["training"])}
    runs.finish_run(
        trainer,
        agent=arguments.agent,
        method="sft",
        recipe=recipe,
        settings=assembly.agent_settings(arguments, config, model),
        base=str(model.model_name_or_path),
        base_source=base_source,
        started=started,
        results={**counts, **runs.sft_results(trainer, restore_start)},
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, lower="per_device_train_batch_size or max_length"))
