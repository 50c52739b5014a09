"""The audit of LoCoMo's gold answers, keyed like predictions, on a made-up file and on the real one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data.locomo import load_locomo, locomo_split
from data.locomo_audit import AUDIT_FILE, CORRUPTING, audit_counts, find_audit, load_audit
from memory_r1.errors import ChecksumError
from tests.real_data import needs, real_folder


def finding(question_id: str, error_type: str = "AMBIGUOUS") -> dict[str, object]:
    return {"question_id": question_id, "error_type": error_type, "category": 4, "reasoning": "made up"}


def written(folder: Path, *findings: object) -> Path:
    path = folder / AUDIT_FILE.name
    path.write_text(json.dumps(findings), encoding="utf-8")
    return path


def test_findings_are_keyed_as_predictions_are(tmp_path: Path) -> None:
    path = written(
        tmp_path, finding("locomo_0_qa1", "WRONG_CITATION"), finding("locomo_1_qa0"), finding("locomo_9_qa157")
    )

    expected = {
        # the index in locomo10.json, whose ten conversations are numbered 26 to 50 with gaps
        "conv-26/conv-26:1": "WRONG_CITATION",
        "conv-30/conv-30:0": "AMBIGUOUS",
        "conv-50/conv-50:157": "AMBIGUOUS",
    }
    assert load_audit(path, verify=False) == load_audit(tmp_path, verify=False) == expected
    assert audit_counts(path, verify=False) == {
        "benchmark": "locomo",
        "findings": {"AMBIGUOUS": 2, "WRONG_CITATION": 1},
        "wrong_answers": {"train": 0, "validation": 1, "test": 1},
    }


def test_a_wrong_citation_leaves_the_answer_right() -> None:
    assert set(CORRUPTING) == {"HALLUCINATION", "TEMPORAL_ERROR", "ATTRIBUTION_ERROR", "AMBIGUOUS", "INCOMPLETE"}


def test_an_audit_is_found_beside_the_data_or_not_at_all(tmp_path: Path) -> None:
    locomo = tmp_path / "locomo10.json"
    locomo.write_text("[]", encoding="utf-8")
    assert find_audit(tmp_path) is None
    assert find_audit(locomo) is None
    assert find_audit(cache=tmp_path / "cache") is None  # nothing is downloaded
    written(tmp_path, finding("locomo_0_qa1"))
    with pytest.raises(ChecksumError):  # a changed audit does not count as a missing one
        find_audit(locomo)


@needs(AUDIT_FILE.name)
def test_real_findings_join_the_questions_and_split_as_counted() -> None:
    folder = real_folder(AUDIT_FILE.name)
    audit = load_audit(folder)
    assert find_audit(folder) == audit
    assert Counter(audit.values()) == {
        "WRONG_CITATION": 57,
        "HALLUCINATION": 33,
        "TEMPORAL_ERROR": 26,
        "ATTRIBUTION_ERROR": 24,
        "AMBIGUOUS": 13,
        "INCOMPLETE": 3,
    }
    wrong = {key for key, kind in audit.items() if kind in CORRUPTING}
    dialogues = load_locomo(folder)
    keys = {
        split: {f"{d.dialogue_id}/{q.question_id}" for d in locomo_split(dialogues, split) for q in d.questions}
        for split in ("train", "validation", "test")
    }
    assert audit.keys() <= set().union(*keys.values())  # all in categories 1 to 4
    assert {split: len(wrong & found) for split, found in keys.items()} == {"train": 15, "validation": 4, "test": 80}
    assert folder is not None
    assert audit_counts(folder)["wrong_answers"] == {"train": 15, "validation": 4, "test": 80}
