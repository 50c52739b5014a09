"""Select the turns that an evaluation plays and the questions that it asks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.types import Dialogue

_Place = tuple[float, str, tuple[str, str]]
"""A question's position in [0, 1), the draw that breaks ties, and its dialogue and question id."""


def select(
    dialogues: Sequence[Dialogue],
    *,
    sessions: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Dialogue]:
    """Return the dialogues cut to their first `sessions` sessions and to at most `limit` questions in total.

    A dialogue that is cut keeps only questions whose evidence is entirely in the played sessions; questions without
    evidence (the unanswerable ones) need the whole dialogue. With a `limit`, dialogues without a question are dropped:
    playing them would cost time and score nothing.
    """
    for option, value in (("sessions", sessions), ("limit", limit)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{option} is {value}: give a whole number from 1, or leave it out for all")
    cut = [_first_sessions(dialogue, sessions) for dialogue in dialogues]
    if limit is None:
        return cut
    kept = _stratified(cut, limit, seed)
    limited = [
        dataclasses.replace(
            dialogue,
            questions=tuple(q for q in dialogue.questions if (dialogue.dialogue_id, q.question_id) in kept),
        )
        for dialogue in cut
    ]
    return [dialogue for dialogue in limited if dialogue.questions]


def check_selected(dialogues: Sequence[Dialogue]) -> None:
    """Raise a DataError if two dialogues, or two questions of one, share an id, or if no question is left."""
    repeated = [name for name, count in Counter(dialogue.dialogue_id for dialogue in dialogues).items() if count > 1]
    if repeated:
        raise DataError(
            f"dialogue id {repeated[0]!r} occurs more than once: give every dialogue its own, since it is a scope"
        )
    for dialogue in dialogues:
        counts = Counter(question.question_id for question in dialogue.questions)
        if len(counts) < len(dialogue.questions):
            twice = counts.most_common(1)[0][0]
            raise DataError(f"question id {twice!r} occurs more than once in dialogue {dialogue.dialogue_id!r}")
    if not any(dialogue.questions for dialogue in dialogues):
        raise DataError("no question is left to ask: play more sessions, or choose another split if there is one")


def _first_sessions(dialogue: Dialogue, sessions: int | None) -> Dialogue:
    if sessions is None or sessions >= len(dialogue.sessions):
        return dialogue
    played = dialogue.sessions[:sessions]
    turn_ids = {turn.turn_id for session in played for turn in session.turns}
    questions = tuple(q for q in dialogue.questions if q.evidence and turn_ids.issuperset(q.evidence))
    return dataclasses.replace(dialogue, sessions=played, questions=questions)


def _stratified(dialogues: Sequence[Dialogue], limit: int, seed: int) -> set[tuple[str, str]]:
    """Choose `limit` questions, in proportion over categories and, in each category, over dialogues.

    Each question gets a position in its stratum (dialogue and category), and from these one in its category; the
    `limit` lowest are chosen. Ranks come from a hash of the seed and the question's ids, so the choice depends only on
    the questions and the seed, and a larger limit contains the smaller one. If every question has its own dialogue, all
    strata give equal positions and the hash alone ranks a category.
    """
    strata: dict[tuple[str, str], list[_Place]] = {}
    for dialogue in dialogues:
        for question in dialogue.questions:
            draw = _draw(seed, dialogue.dialogue_id, question.question_id)
            key = (dialogue.dialogue_id, question.question_id)
            strata.setdefault((question.category, dialogue.dialogue_id), []).append((0.0, draw, key))
    categories: dict[str, list[_Place]] = {}
    for (category, _), places in strata.items():
        categories.setdefault(category, []).extend(_spread(places))
    spread = [place for places in categories.values() for place in _spread(places)]
    return {key for _, _, key in sorted(spread)[:limit]}


def _spread(places: Sequence[_Place]) -> list[_Place]:
    """Spread ordered positions evenly over [0, 1): (rank + 1/2) / number."""
    return [((rank + 0.5) / len(places), draw, key) for rank, (_, draw, key) in enumerate(sorted(places))]


def _draw(seed: int, dialogue_id: str, question_id: str) -> str:
    return hashlib.sha256(f"{seed}\x1f{dialogue_id}\x1f{question_id}".encode()).hexdigest()


def batches(count: int, size: int) -> list[range]:
    """Split `range(count)` into ranges of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
