"""Training of the two agents: arguments, rows, SFT, GRPO with a shared prefix, and what a run leaves behind."""
