"""What rules can tell from a turn without a model: the statements in which a speaker talks of themselves."""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_OF_ONESELF = re.compile(r"\b(?:I|me|my|mine|myself|we|us|our|ours)\b", re.IGNORECASE)
_LONGEST = 300  # characters of a statement; what is longer is no single fact


def statements(text: str) -> list[str]:
    """Return the sentences in the first person that ask nothing, in order and once each."""
    sentences = (sentence.strip() for sentence in _SENTENCE.findall(text))
    found = (
        sentence
        for sentence in sentences
        if not sentence.endswith("?") and len(sentence) <= _LONGEST and _OF_ONESELF.search(sentence)
    )
    return list(dict.fromkeys(found))
