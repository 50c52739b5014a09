"""Generated dialogues with gold operations: what happens (`plan`), how it is said (`wording`), and with which words."""
