"""Gold entries as quotes: the speaker's own sentence in place of a sentence about them.

A small model copies more reliably than it rewrites. Taught to rewrite generated turns, it makes things up about natural
ones; a sentence that it copies is true wherever it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from data.sources import Source
from memory_r1.types import Operation, Turn

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\w+")


def with_quotes(sources: Sequence[Source]) -> list[Source]:
    """Return dialogues whose gold operations write quotes; dialogues without gold stay as they are."""
    return [source if source.gold is None else replace(source, gold=quoted(source)) for source in sources]


def quoted(source: Source) -> dict[str, tuple[Operation, ...]]:
    """Return the gold operations of a dialogue with `quote` for every text."""
    assert source.gold is not None, "only labelled dialogues have operations to reword"
    turns = {turn.turn_id: turn for turn in source.dialogue.turns()}
    return {
        turn_id: tuple(_quoting(operation, turns[turn_id]) for operation in operations)
        for turn_id, operations in source.gold.items()
    }


def quote(turn: Turn, text: str) -> str:
    """Return the sentence of a turn that says what an entry's text says, with its speaker: "Ann: I live in Rome."

    It is the one that shares most words with the text; of several, the last.
    """
    said = _words(text) - _words(turn.speaker)
    sentences = _SENTENCE_END.split(turn.text.strip())
    best = max(reversed(sentences), key=lambda sentence: len(_words(sentence) & said))
    return f"{turn.speaker}: {best}"


def _quoting(operation: Operation, turn: Turn) -> Operation:
    return operation if operation.text is None else replace(operation, text=quote(turn, operation.text))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
