"""Train one agent with PPO and a critic against the other, frozen one; the steps shared with GRPO are in `grpo.py`.

accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/ppo.py \\
    --config recipes/smollm2-135m/manager_ppo.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from memory_r1.entry import run_main
from recipes.grpo import LOWER, reinforce


def main(argv: Sequence[str]) -> int:
    """Train one agent with PPO."""
    from memory_r1.training.ppo import MemoryPPOTrainer
    from memory_r1.training.trainer_configs import MemoryPPOConfig

    return reinforce(argv, "ppo", MemoryPPOConfig, MemoryPPOTrainer)


if __name__ == "__main__":
    sys.exit(run_main(main, lower=LOWER))
