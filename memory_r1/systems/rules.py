"""What rules can tell without a model: what a speaker says of themselves, and what to keep of many sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_OF_ONESELF = re.compile(r"\b(?:I|me|my|mine|myself|we|us|our|ours)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_LONGEST = 300  # characters of a statement; what is longer is no single fact


def sentences(text: str) -> list[str]:
    """Return the sentences that ask nothing, in order and once each, each with an end."""
    found = (sentence.strip() for sentence in _SENTENCE.findall(text))
    told = (sentence for sentence in found if sentence and not sentence.endswith("?") and len(sentence) <= _LONGEST)
    return list(dict.fromkeys(map(ended, told)))


def ended(sentence: str) -> str:
    """Return a sentence with its end, so that it stays one among others."""
    return sentence if sentence.endswith((".", "!")) else f"{sentence}."


def newest(told: Sequence[str], longest: int) -> str:
    """Return the last sentences that together have at most `longest` characters, in their order and once each."""
    return _joined(list(dict.fromkeys(reversed(told))), longest, told)


def relevant(question: str, told: Sequence[str], longest: int) -> str:
    """Return the sentences that share words with a question, as many of the best as fit, in their order.

    Of sentences that share as many words, later ones are better.
    """
    asked = _words(question)
    shared = {sentence: len(asked & _words(sentence)) for sentence in told}
    best = [sentence for sentence in reversed(shared) if shared[sentence]]
    best.sort(key=lambda sentence: -shared[sentence])
    return _joined(best, longest, told)


def _joined(ranked: Sequence[str], longest: int, order: Sequence[str]) -> str:
    """Join the first of the ranked sentences until the next would be too much, in the order in which they were told."""
    kept: set[str] = set()
    for sentence in ranked:
        longest -= len(sentence) + bool(kept)
        if longest < 0:
            break
        kept.add(sentence)
    return " ".join(sentence for sentence in dict.fromkeys(order) if sentence in kept)


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if len(word) > 2}


def statements(text: str) -> list[str]:
    """Return the sentences in the first person that ask nothing, in order and once each."""
    sentences = (sentence.strip() for sentence in _SENTENCE.findall(text))
    found = (
        sentence
        for sentence in sentences
        if not sentence.endswith("?") and len(sentence) <= _LONGEST and _OF_ONESELF.search(sentence)
    )
    return list(dict.fromkeys(found))
