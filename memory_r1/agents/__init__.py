"""The two agents and their prompts."""
