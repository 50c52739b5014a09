"""memory_r1: two LoRA agents that learn, by reinforcement, to manage a memory bank and to answer from it."""

__version__ = "0.1.0"
