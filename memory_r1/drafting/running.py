"""Draft and check a file of dialogues, so that a killed run continues where it stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memory_r1.drafting.checks import Checker
from memory_r1.drafting.drafts import Drafted, Drafter
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import JsonLinesWriter
from memory_r1.types import Dialogue

AT_ONCE = 4
"""Dialogues that are drafted in one batch."""


def draft_all(
    dialogues: Sequence[Dialogue],
    drafter: Drafter,
    checker: Checker,
    kept: Path,
    settings: Mapping[str, Any],
    advance: Callable[[int], object] = lambda done: None,
) -> list[Drafted]:
    """Draft and check questions for each dialogue, in order.

    Args:
        dialogues: Each is drafted once; a resumed run takes those that are done from `kept`.
        drafter: Writes the drafts.
        checker: Flags them.
        kept: A JSONL file; each dialogue is appended as soon as it is done.
        settings: All that the drafts depend on, compared with that of the earlier run in `kept`.
        advance: Called with the number of dialogues that are newly done.

    Raises:
        ConfigurationError: `kept` holds a run of other settings.
        EndpointError: A model's server gives no reply; the same call continues the run.
    """
    with JsonLinesWriter(kept) as file:
        if not file.existing:
            file.append({"settings": settings})
        elif file.existing[0] != {"settings": settings}:
            raise ConfigurationError(
                f"{kept} holds an unfinished run on other dialogues or with other options: repeat its command, or "
                "discard it with --restart"
            )
        done = {item.dialogue_id: item for item in map(Drafted.from_json, file.existing[1:])}
        advance(len(done))
        left = [dialogue for dialogue in dialogues if dialogue.dialogue_id not in done]
        for start in range(0, len(left), AT_ONCE):
            batch = left[start : start + AT_ONCE]
            for dialogue, item in zip(batch, drafter.draft(batch), strict=True):
                drafts = tuple(checker.check(dialogue, item.drafts))
                done[item.dialogue_id] = replace(item, drafts=drafts)
                file.append(done[item.dialogue_id].to_json())
                advance(1)
    return [done[dialogue.dialogue_id] for dialogue in dialogues]


def tally(drafted: Iterable[Drafted]) -> list[str]:
    """Return lines that tell how many questions were drafted and why some are rejected."""
    items = list(drafted)
    drafts = [draft for item in items for draft in item.drafts]
    reasons = Counter(flag for draft in drafts for flag in draft.flags)
    read, unparsed, cut = (sum(getattr(item, name) for item in items) for name in ("windows", "unparsed", "cut"))
    passed = sum(not draft.flags for draft in drafts)
    lines = [
        f"{len(items)} dialogues, {read} windows of turns: {len(drafts)} questions drafted, {passed} passed",
        f"{unparsed} replies did not parse and are left out",
    ]
    lines += [f"{cut} windows were too long for the model and were read in part: lower --window"] if cut else []
    return lines + [f"rejected: {count} {reason}" for reason, count in reasons.most_common()]
