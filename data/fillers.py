"""Fill small banks with memories of other dialogues, so that warm-start prompts are as full as later ones.

A generated dialogue has a dozen facts, a LoCoMo bank several hundred: without fillers, supervised prompts would show 13
memories, whereas reinforcement learning and evaluation show 60.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from data.banks import Entries
from memory_r1.types import AnswerTuple, Dialogue, ManagerTuple, MemoryEntry

Tuple = TypeVar("Tuple", bound=ManagerTuple | AnswerTuple)

FIRST_ID = 1_000_000
"""Id of the first filler, above all ids that a bank assigns."""


def with_fillers(
    tuples: Sequence[Tuple], pool: Sequence[tuple[Dialogue, Entries]], count: int, seed: int
) -> list[Tuple]:
    """Add up to `count` entries of other dialogues to each tuple's bank.

    A filler keeps its text and the person it is about, as if one of this dialogue's speakers had mentioned it. It has
    no source turn, so it is evidence for no question. Dialogues that share a speaker name with the tuple are skipped,
    so that nothing contradicts the facts about its own speakers.

    Args:
        tuples: Tuples to fill; gold operations keep their ids.
        pool: Training dialogues to draw from, with their entries.
        count: Fillers per bank; 0 changes nothing.
        seed: Decides, with the tuple's id, which entries are drawn.
    """
    if count == 0:
        return list(tuples)
    filled: list[Tuple] = []
    for item in tuples:
        others: list[MemoryEntry] = []
        for dialogue, entries in pool:
            if dialogue.dialogue_id == item.dialogue_id or {*dialogue.speakers} & {*item.speakers}:
                continue
            told_by = dict(zip(dialogue.speakers, item.speakers, strict=False))
            others += [replace(entry, speaker=told_by.get(entry.speaker, item.speakers[0])) for entry in entries]
        drawn = random.Random(f"{seed}:{item.tuple_id}:fillers").sample(others, min(count, len(others)))
        now = item.turn.timestamp if isinstance(item, ManagerTuple) else item.question.asked_at
        fillers = tuple(
            MemoryEntry(
                FIRST_ID + place,
                entry.text,
                entry.speaker,
                min(entry.timestamp, now or entry.timestamp),
                edge=entry.edge,
            )
            for place, entry in enumerate(drawn)
        )
        filled.append(replace(item, bank=item.bank + fillers))
    return filled
