"""Training of the two agents: arguments, rows, SFT, GRPO with a shared prefix, PPO, and the output of a run."""
