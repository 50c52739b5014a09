"""Generated dialogues with gold operations: their facts and events (`plan`), phrasing (`wording`) and words."""
