"""Memories of other dialogues that fill a small bank, so that a warm start sees prompts as full as those it is for.

A generated dialogue has a dozen facts, a LoCoMo bank several hundred: without fillers, supervised prompts would show 13
memories where reinforcement learning and evaluation show 60.
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
"""Id of the first filler: above all that a bank gives itself."""


def with_fillers(
    tuples: Sequence[Tuple], pool: Sequence[tuple[Dialogue, Entries]], count: int, seed: int
) -> list[Tuple]:
    """Add up to `count` entries of other dialogues to each tuple's bank.

    A filler says what it said, of the person it was about, as if one of this dialogue's speakers had told it by then.
    It comes from no turn of this dialogue, so that it is evidence of no question. Dialogues with a speaker of the same
    name are left out: nothing may contradict what is known of the tuple's own speakers.

    Args:
        tuples: What is filled; gold operations keep their ids.
        pool: Dialogues that may be drawn from, with their entries; of training data only.
        count: Fillers for each bank; 0 changes nothing.
        seed: With the tuple's id, decides which.
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
            MemoryEntry(FIRST_ID + place, entry.text, entry.speaker, min(entry.timestamp, now or entry.timestamp))
            for place, entry in enumerate(drawn)
        )
        filled.append(replace(item, bank=item.bank + fillers))
    return filled
