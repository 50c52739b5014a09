"""Draft questions for dialogues that have none, check them, and hand them to a person for review."""
