from __future__ import annotations

import pytest

from memory_r1.errors import DataError
from memory_r1.evaluation.scoring.gold_audit import unsound_questions


def test_a_wrong_citation_leaves_the_answer_sound() -> None:
    types = {"d/q1": "HALLUCINATION", "d/q2": "WRONG_CITATION", "d/q3": "TEMPORAL_ERROR"}
    assert unsound_questions({"audit": {"error_types": types}}) == {"d/q1": "HALLUCINATION", "d/q3": "TEMPORAL_ERROR"}


def test_no_audit_is_not_an_audit_that_found_nothing() -> None:
    assert unsound_questions({"recall_per_speaker": 3}) is None
    assert unsound_questions({"audit": {"error_types": {}}}) == {}


@pytest.mark.parametrize("audit", [["d/q1"], {}, {"error_types": ["d/q1"]}, {"error_types": {"d/q1": 3}}])
def test_another_shape_is_refused(audit: object) -> None:
    with pytest.raises(DataError, match=r"config.audit is .*: give \{'error_types'"):
        unsound_questions({"audit": audit})
