"""Training tuples of both agents, from dialogues of any source and the banks along them (`data/banks.py`).

A manager tuple is a turn, the bank before it, and the questions that score the bank after it: those *linked* to the
turn and, so that NOOP, UPDATE and DELETE can pay too, *retention* questions about facts already in the bank.
Whole-session credit uses session tuples and the turns at which a group may branch.
Callers remove questions that must not train, such as a benchmark's category 5, from the dialogues beforehand.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from data.banks import Banks, Entries, GoldOperations, refuse_unknown_turns
from memory_r1.errors import DataError, StoreError
from memory_r1.memory.bank import MemoryBank
from memory_r1.metrics import normalize_answer
from memory_r1.types import (
    AnswerTuple,
    BranchPoint,
    Dialogue,
    ManagerTuple,
    MemoryEntry,
    Operation,
    OperationKind,
    Question,
    Session,
    SessionTuple,
    Turn,
)

logger = logging.getLogger(__name__)


def manager_tuples(
    dialogue: Dialogue,
    banks: Mapping[str, Entries],
    *,
    retention_questions: int = 2,
    min_unlinked_share: float = 0.3,
    every_turn: bool = False,
    scored_only: bool = False,
    gold: GoldOperations | None = None,
    seed: int = 0,
) -> list[ManagerTuple]:
    """Return training tuples in dialogue order.

    A question is linked to its last evidence turn. All turns with linked questions become tuples, plus enough turns
    that are evidence for no question to make up `min_unlinked_share`, those with retention questions first. If there
    are too few of these, linked turns are sampled so that the share holds. Turns that are evidence but no question's
    last are left out: no score there would reward what they say. `scored_only` keeps only turns that some question
    scores, as reinforcement learning needs; `every_turn` keeps all turns, as supervised training on gold needs.

    Retention questions (up to `retention_questions` per tuple) have all their evidence before the turn and among the
    sources of the bank's entries, and are asked later. `gold`, whose ids must be those of `banks`, removes questions
    whose answer it has deleted or overwritten by then.

    Raises:
        DataError: Evidence, `gold` or `banks` does not fit the dialogue.
        ValueError: `min_unlinked_share` is not in [0, 1), or `retention_questions` is negative.
    """
    if not 0 <= min_unlinked_share < 1 or retention_questions < 0:
        raise ValueError("min_unlinked_share must be in [0, 1), retention_questions not negative")
    _refuse_unfit(dialogue, banks, gold)
    linked = _linked(dialogue)
    retained = _retained(dialogue, banks, linked, gold)
    previous = dialogue.previous_turns()
    tuples = [
        ManagerTuple(
            tuple_id=f"{dialogue.dialogue_id}/{turn.turn_id}",
            dialogue_id=dialogue.dialogue_id,
            turn=turn,
            previous=previous[turn.turn_id],
            speakers=dialogue.speakers,
            bank=banks[turn.turn_id],
            linked=tuple(linked[turn.turn_id]),
            retention=_sample(retained[turn.turn_id], retention_questions, f"{seed}:{turn.turn_id}"),
            gold=None if gold is None else tuple(gold.get(turn.turn_id, ())),
            sources=_source_turns(dialogue, banks[turn.turn_id]),
        )
        for turn in dialogue.turns()
    ]
    if every_turn:
        return tuples
    evidence = {turn_id for question in dialogue.questions for turn_id in question.evidence}
    choice = random.Random(f"{seed}:{dialogue.dialogue_id}")
    if scored_only:
        tuples = [item for item in tuples if item.linked or item.retention]
    return _with_share(tuples, evidence, min_unlinked_share, choice)


def dialogue_end_tuples(dialogue: Dialogue, banks: Mapping[str, Entries]) -> list[ManagerTuple]:
    """Return a tuple for every turn, in dialogue order, scored by all questions that are asked after the last one.

    They need no evidence: a question-answer pair is enough.

    Raises:
        DataError: `banks` does not fit the dialogue.
    """
    _refuse_unfit(dialogue, banks, None)
    last = dialogue.sessions[-1]
    asked = _still_asked(list(dialogue.questions), last)
    previous = dialogue.previous_turns()
    return [
        ManagerTuple(
            tuple_id=f"{dialogue.dialogue_id}/{turn.turn_id}",
            dialogue_id=dialogue.dialogue_id,
            turn=turn,
            previous=previous[turn.turn_id],
            speakers=dialogue.speakers,
            bank=banks[turn.turn_id],
            linked=asked,
            retention=(),
            sources=dialogue.turns(),
        )
        for turn in dialogue.turns()
    ]


def session_tuples(
    dialogue: Dialogue, banks: Mapping[str, Entries], *, retention_questions: int = 2, seed: int = 0
) -> list[SessionTuple]:
    """Return a tuple for each session that some question scores, in dialogue order.

    Linked questions have their last evidence turn in the session; retention questions (up to `retention_questions`) are
    sampled as in `manager_tuples` at the session's first turn. Questions asked before the session ends are left out:
    the bank after it need no longer answer them.

    Raises:
        DataError: Evidence or `banks` does not fit the dialogue.
    """
    _refuse_unfit(dialogue, banks, None)
    linked = _linked(dialogue)
    retained = _retained(dialogue, banks, linked, None)
    tuples = []
    for session in dialogue.sessions:
        if not session.turns:
            continue
        first = session.turns[0].turn_id
        scoring = _still_asked([question for turn in session.turns for question in linked[turn.turn_id]], session)
        kept = _sample(_still_asked(retained[first], session), retention_questions, f"{seed}:{session.session_id}")
        if scoring or kept:
            name, sources = f"{dialogue.dialogue_id}/{session.session_id}", _source_turns(dialogue, banks[first])
            tuples.append(
                SessionTuple(
                    name, dialogue.dialogue_id, session, dialogue.speakers, banks[first], scoring, kept, sources
                )
            )
    return tuples


def branch_points(dialogue: Dialogue) -> list[BranchPoint]:
    """Return the turns at which a group may branch, in order: those whose session's final bank a question scores."""
    linked = _linked(dialogue)
    points = []
    earlier: list[Question] = []
    for number, session in enumerate(dialogue.sessions):
        for place, turn in enumerate(session.turns):
            ahead = [question for later in session.turns[place:] for question in linked[later.turn_id]]
            point = BranchPoint(dialogue, number, place, _still_asked(ahead, session), _still_asked(earlier, session))
            if point.linked or point.earlier:
                points.append(point)
            earlier += linked[turn.turn_id]
    return points


def answer_tuples(dialogue: Dialogue, bank: Sequence[MemoryEntry] | Banks) -> list[AnswerTuple]:
    """Return a tuple per question, in order, over `bank` or, given `Banks`, over the bank when it is asked."""
    return [
        AnswerTuple(
            tuple_id=f"{dialogue.dialogue_id}/{question.question_id}",
            dialogue_id=dialogue.dialogue_id,
            question=question,
            speakers=dialogue.speakers,
            bank=_bank_when_asked(dialogue, bank, question) if isinstance(bank, Banks) else tuple(bank),
        )
        for question in dialogue.questions
    ]


def check_disjoint(
    train: Iterable[Dialogue | ManagerTuple | AnswerTuple], heldout: Iterable[Dialogue | ManagerTuple | AnswerTuple]
) -> None:
    """Raise DataError if a dialogue is on both sides: splits are by dialogue, never by question."""
    both = sorted({item.dialogue_id for item in train} & {item.dialogue_id for item in heldout})
    if both:
        shown = ", ".join(both[:5]) + (", ..." if len(both) > 5 else "")
        raise DataError(
            f"found {len(both)} dialogue(s) both in training and held out ({shown}), allowed: none; split by dialogue"
        )


def _linked(dialogue: Dialogue) -> dict[str, list[Question]]:
    """Map every turn id to the questions whose last evidence it is."""
    position = {turn.turn_id: index for index, turn in enumerate(dialogue.turns())}
    linked: dict[str, list[Question]] = {turn_id: [] for turn_id in position}
    for question in dialogue.questions:
        refuse_unknown_turns(dialogue, question.evidence, f"the evidence of question {question.question_id}")
        if question.evidence:
            linked[max(question.evidence, key=position.__getitem__)].append(question)
    return linked


def _retained(
    dialogue: Dialogue, banks: Mapping[str, Entries], linked: Mapping[str, list[Question]], gold: GoldOperations | None
) -> dict[str, list[Question]]:
    """Map turn ids to the questions that the bank before the turn answers and the bank after it must still answer."""
    known: dict[str, Question] = {}
    retained = {}
    for turn in dialogue.turns():
        bank = banks[turn.turn_id]
        for question_id in _overwritten(known, bank, gold.get(turn.turn_id, ()) if gold else ()):
            del known[question_id]
        sources = {turn_id for entry in bank for turn_id in entry.source_turn_ids}
        retained[turn.turn_id] = [
            question
            for question in known.values()
            if sources.issuperset(question.evidence) and not _asked_before(question, turn)
        ]
        known |= {question.question_id: question for question in linked[turn.turn_id]}
    return retained


def _still_asked(questions: Iterable[Question], session: Session) -> tuple[Question, ...]:
    """Return the questions asked after the session's last turn."""
    return tuple(question for question in questions if not _asked_before(question, session.turns[-1]))


def _source_turns(dialogue: Dialogue, bank: Entries) -> tuple[Turn, ...]:
    """Return the source turns of a bank's entries, in dialogue order."""
    named = {turn_id for entry in bank for turn_id in entry.source_turn_ids}
    return tuple(turn for turn in dialogue.turns() if turn.turn_id in named)


def _sample(questions: Sequence[Question], count: int, seed: str) -> tuple[Question, ...]:
    """Sample up to `count` questions, in the order given."""
    chosen = random.Random(seed).sample(range(len(questions)), min(count, len(questions)))
    return tuple(questions[index] for index in sorted(chosen))


def _overwritten(known: Mapping[str, Question], bank: Entries, operations: Sequence[Operation]) -> set[str]:
    """Return ids of questions whose evidence entry loses the answer through these operations.

    A rewritten entry keeps the answer if it has the answer's words, so a merge can retain a fact; in doubt (a yes, a
    paraphrase), the question is dropped.
    """
    sources = {entry.entry_id: set(entry.source_turn_ids) for entry in bank}
    lost: set[str] = set()
    for operation in operations:
        if operation.kind not in (OperationKind.UPDATE, OperationKind.DELETE) or operation.entry_id not in sources:
            continue
        words = set(normalize_answer(operation.text or "").split())
        for question_id, question in known.items():
            touched = not sources[operation.entry_id].isdisjoint(question.evidence)
            if touched and not words.issuperset(normalize_answer(question.answer).split()):
                lost.add(question_id)
    return lost


def _with_share(
    tuples: Sequence[ManagerTuple], evidence: set[str], share: float, choice: random.Random
) -> list[ManagerTuple]:
    """Keep linked tuples and just enough unlinked ones to make up `share`, in the order given."""
    linked = [item for item in tuples if item.linked]
    unlinked = [item for item in tuples if item.turn.turn_id not in evidence]
    n_linked = len(linked)
    while n_linked and _unlinked_needed(n_linked, share) > len(unlinked):
        n_linked -= 1
    if n_linked < len(linked):
        logger.warning(
            "%s has only %d turns that answer no question: %d of its %d turns with questions are left out",
            tuples[0].dialogue_id,
            len(unlinked),
            len(linked) - n_linked,
            len(linked),
        )
    wanted = _unlinked_needed(n_linked, share)
    choice.shuffle(unlinked)
    unlinked.sort(key=lambda item: not item.retention)  # stable; scored tuples first
    kept = {item.tuple_id for item in [*choice.sample(linked, n_linked), *unlinked[:wanted]]}
    return [item for item in tuples if item.tuple_id in kept]


def _unlinked_needed(n_linked: int, share: float) -> int:
    """Return the smallest u with u / (u + n_linked) >= share."""
    needed = math.floor(n_linked * share / (1 - share))
    return needed if needed >= share * (needed + n_linked) else needed + 1  # the quotient may be rounded down


def _bank_when_asked(dialogue: Dialogue, banks: Banks, question: Question) -> Entries:
    for turn in dialogue.turns():
        if _asked_before(question, turn):
            return banks[turn.turn_id]
    return banks.final


def _asked_before(question: Question, turn: Turn) -> bool:
    if not question.asked_at or not turn.timestamp:
        return False
    return datetime.fromisoformat(question.asked_at) < datetime.fromisoformat(turn.timestamp)


def _refuse_unfit(dialogue: Dialogue, banks: Mapping[str, Entries], gold: GoldOperations | None) -> None:
    """Raise DataError unless banks cover every turn and gold operations apply to the bank before their turn."""
    for turn in dialogue.turns():
        if turn.turn_id not in banks:
            raise DataError(f"dialogue {dialogue.dialogue_id} has no bank for turn {turn.turn_id}; give one per turn")
    if gold is None:
        return
    refuse_unknown_turns(dialogue, gold, "gold operations")
    for turn in dialogue.turns():
        try:
            MemoryBank(banks[turn.turn_id]).apply(gold.get(turn.turn_id, ()), turn)
        except StoreError as error:
            raise DataError(
                f"gold operations of turn {turn.turn_id} of dialogue {dialogue.dialogue_id}: {error}; use gold_banks"
            ) from error
