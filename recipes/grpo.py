"""GRPO of one agent against the other, frozen one.

accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/grpo.py \\
    --config recipes/smollm2-135m/manager_grpo.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from memory_r1.entry import run_main


def main(argv: Sequence[str]) -> int:
    """Train one agent with GRPO."""
    from memory_r1.training.arguments import MemoryGRPOConfig
    from memory_r1.training.grpo import MemoryGRPOTrainer
    from recipes.reinforcement import reinforce

    return reinforce(argv, "grpo", MemoryGRPOConfig, MemoryGRPOTrainer)


if __name__ == "__main__":
    sys.exit(run_main(main, lower="per_device_train_batch_size, num_generations or max_completion_length"))
