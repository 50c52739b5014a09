"""Drop prompts that teach nothing before training starts: those whose completions are all right or all wrong.

The starting policy completes every training prompt once as a group. A prompt whose main reward does not vary within its
group gives no advantage (`zero_variance.py`), and with a policy that moves little it rarely starts to. What remains is
noted in the run's folder, so that a resumed run trains on the same rows.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from memory_r1.errors import TrainingError
from memory_r1.jsonl import read_json, write_json
from memory_r1.training.zero_variance import TINY, group_spreads, main_reward

RECORD = "teaching_rows.json"

logger = logging.getLogger(__name__)


def keep_teaching_rows(trainer: Any, folder: Path) -> None:
    """Leave the trainer only the rows whose groups vary in the main reward.

    Args:
        trainer: A `MemoryGRPOTrainer` that is about to train.
        folder: The run's folder; all processes read what the main one notes there.

    Raises:
        TrainingError: No group varies.
    """
    rows = len(trainer.train_dataset)
    if not (folder / RECORD).is_file():
        started = time.process_time()
        kept = [row for row, spread in enumerate(_spreads(trainer)) if spread > TINY]
        spent = round(time.process_time() - started, 2)
        if trainer.accelerator.is_main_process:
            write_json(folder / RECORD, {"rows": rows, "kept": kept, "cpu_seconds": spent})
        trainer.accelerator.wait_for_everyone()
    record = read_json(folder / RECORD)
    trainer.cpu_seconds.before = record["cpu_seconds"]
    kept = record["kept"]
    if not kept:
        raise TrainingError(
            f"none of the {rows} groups varies in its main reward, so there is nothing to learn from: raise "
            "temperature, take another reward, or leave out filter_prompts"
        )
    logger.info("%d of %d prompts teach: the groups of the others do not vary", len(kept), rows)
    trainer.train_dataset = trainer.train_dataset.select(kept)


def _spreads(trainer: Any) -> list[float]:
    """Return the spread of the main reward in one group of each training row, alike on all processes."""
    size, ranks = trainer.num_generations, trainer.accelerator.num_processes
    names = trainer.reward_func_names
    main = names.index(main_reward(dict(zip(names, trainer.reward_weights.tolist(), strict=True))))
    together = max(1, trainer.args.per_device_train_batch_size * ranks // size)  # prompts at a time, of all processes
    spreads: list[float] = []
    starts = range(0, len(trainer.train_dataset), together)
    trainer.model.eval()
    for start in track(starts, "prompts that teach", disable=not trainer.accelerator.is_main_process):
        places = [min(start + place, len(trainer.train_dataset) - 1) for place in range(together)]
        rows = [trainer.train_dataset[place] for place in places for _ in range(size)]
        own = len(rows) // ranks
        first = trainer.accelerator.process_index * own
        with torch.no_grad():
            rewards = trainer.sample(rows[first : first + own]).rewards  # (B, F) of all processes
        spreads += group_spreads(rewards[:, main].view(-1, size)).tolist()
    trainer.model.train()
    trainer.clear_metrics("eval")  # validation logs none of these
    return spreads[: len(trainer.train_dataset)]
