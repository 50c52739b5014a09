from __future__ import annotations

import pytest

from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry
from memory_r1.evaluation.scoring.diagnosis import History, Step, failed_step, turn_steps
from memory_r1.types import OperationKind

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind


def operation(turn_id: str, op: OperationKind, entry_id: int | None, text: str | None = None) -> OperationRow:
    return OperationRow("d1", turn_id, op, entry_id, text, "applied")


def prediction(
    *evidence: str,
    recalled: tuple[RecalledEntry, ...] = (),
    distilled: tuple[RecalledEntry, ...] = (),
    exact: float = 0.0,
    judge: float | None = None,
) -> Prediction:
    return Prediction(
        "q1",
        "d1",
        "1",
        {"exact_match": exact, "judge": judge},
        gold="in Oslo",
        evidence=evidence,
        recalled=recalled,
        distilled=distilled,
    )


STORED = operation("t1", ADD, 1, "Ann lives in Oslo")
ENTRY = RecalledEntry(1, "Ann lives in Oslo", ("t1",))
OTHER = RecalledEntry(2, "Ann likes tea", ("t9",))


@pytest.mark.parametrize(
    ("question", "operations", "step"),
    [
        (prediction("t1", exact=1.0), [], Step.CORRECT),
        # The judge overrules exact match in both directions.
        (prediction("t1", exact=0.0, judge=1.0), [], Step.CORRECT),
        (prediction("t1", exact=1.0, judge=0.0), [STORED], Step.NOT_RECALLED),
        (prediction(), [STORED], Step.NO_EVIDENCE),
        (prediction("t1"), [operation("t1", NOOP, None), operation("t2", ADD, 1, "x")], Step.NEVER_STORED),
        # The same turn id in another dialogue is another turn.
        (prediction("t1"), [OperationRow("d2", "t1", ADD, 1, "Oslo", "applied"), operation("t2", ADD, 1, "x")],
         Step.NEVER_STORED),
        # A refused ADD stores nothing.
        (prediction("t1"), [OperationRow("d1", "t1", ADD, None, "", "refused", "empty_text"),
                            operation("t2", ADD, 1, "x")], Step.NEVER_STORED),
        (prediction("t1"), [STORED, operation("t2", DELETE, 1)], Step.LOST),
        # Rewritten without the answer's words, although the entry still names the turn and was selected.
        (prediction("t1", recalled=(ENTRY,), distilled=(ENTRY,)),
         [STORED, operation("t2", UPDATE, 1, "Ann moved away")], Step.LOST),
        # Rewritten with them.
        (prediction("t1"), [STORED, operation("t2", UPDATE, 1, "In Oslo, with Ben")], Step.NOT_RECALLED),
        # The turn never held the answer's words: the rewrite did not lose them.
        (prediction("t1"), [operation("t1", ADD, 1, "Ann moved"), operation("t2", UPDATE, 1, "Ann left")],
         Step.NOT_RECALLED),
        # One of two entries written from the turn is left.
        (prediction("t1"), [STORED, operation("t1", ADD, 2, "Oslo!"), operation("t2", DELETE, 1)], Step.NOT_RECALLED),
        (prediction("t1", recalled=(OTHER,)), [STORED], Step.NOT_RECALLED),
        (prediction("t1", recalled=(OTHER, ENTRY), distilled=(OTHER,)), [STORED], Step.NOT_SELECTED),
        (prediction("t1", recalled=(ENTRY,), distilled=(ENTRY,)), [STORED], Step.MISREAD),
        # The least advanced turn decides.
        (prediction("t1", "t2", recalled=(ENTRY,), distilled=(ENTRY,)), [STORED], Step.NEVER_STORED),
        # A manager whose completions did not parse stored nothing; for a system that only plays turns it is unknown.
        (prediction("t1"), [OperationRow("d1", "t1", None, None, "?", "parse_failure", None, "not_json")],
         Step.NEVER_STORED),
        (prediction("t1"), [OperationRow("d1", "t1", None, None, None, "empty")], Step.NOT_RECALLED),
        # Without a log of operations, it is unknown whether the turn was stored.
        (prediction("t1"), [], Step.NOT_RECALLED),
        (prediction("t1", recalled=(ENTRY,)), [], Step.NOT_SELECTED),
    ],
)  # fmt: skip
def test_the_first_step_that_was_not_reached(question: Prediction, operations: list[OperationRow], step: Step) -> None:
    assert failed_step(question, History(operations)) is step


def test_an_update_that_stores_the_evidence_counts_as_stored() -> None:
    history = History([operation("t0", ADD, 1, "Ann lives in Rome"), operation("t1", UPDATE, 1, "Ann lives in Oslo")])
    assert history.stored("d1", "t1")
    assert not history.lost("d1", "t1", "in Oslo")
    assert history.lost("d1", "t0", "in Rome")


def test_each_turn_has_its_own_step_also_of_a_right_answer() -> None:
    right = prediction("t1", "t2", "t3", recalled=(ENTRY, OTHER), distilled=(ENTRY,), exact=1.0)
    history = History([STORED, operation("t2", ADD, 2, "Ann likes tea"), operation("t4", DELETE, 2)])
    assert turn_steps(right, history) == {"t1": Step.MISREAD, "t2": Step.LOST, "t3": Step.NEVER_STORED}


def test_a_history_tells_what_became_of_what_a_turn_wrote() -> None:
    rows = [STORED, operation("t1", ADD, 2, "Ann is well"), operation("t2", UPDATE, 1, "x"), operation("t3", DELETE, 1)]
    history = History(rows)
    assert history.rows("d1", "t1") == rows[:2]
    assert history.later(rows[0]) == rows[2:]
    assert history.later(rows[2]) == rows[3:]
    assert history.later(rows[1]) == history.later(rows[3]) == []
    assert history.rows("d2", "t1") == []
