"""LongMemEval: a made-up file with every defect of the real one, and the real one's counts if it is available."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data import longmemeval
from data.longmemeval import (
    CATEGORIES,
    ORACLE_FILE,
    SHARED_WITH_TRAINING,
    SPLITS,
    SPLITS_FILE,
    load_longmemeval,
    longmemeval_counts,
    longmemeval_split,
)
from memory_r1.dialogue_file import read_dialogues, write_dialogues
from memory_r1.errors import ChecksumError, DataError
from memory_r1.types import Dialogue, Question, Session, Turn
from tests.data.records import LONGMEMEVAL, LONGMEMEVAL_ABSTENTION, LONGMEMEVAL_S, said
from tests.real_data import needs, real_folder

ROOT = Path(__file__).parents[2]


def written(path: Path, *records: object) -> Path:
    path.write_text(json.dumps(records, indent=4), encoding="utf-8")
    return path


@pytest.fixture
def oracle(tmp_path: Path) -> Path:
    return written(tmp_path / ORACLE_FILE.name, LONGMEMEVAL, LONGMEMEVAL_ABSTENTION)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    path = tmp_path / SPLITS_FILE.name
    path.write_text(json.dumps({"sft": ["q1"], "rl": ["q3"], "test": ["q2_abs", "0862e8bf_abs"]}), encoding="utf-8")
    return path


def test_a_question_is_a_dialogue_of_its_own_with_its_history_sorted(oracle: Path) -> None:
    first, second = load_longmemeval(oracle, verify=False)

    morning, evening = "2023-03-01T09:00:00", "2023-04-10T18:05:00"
    assert first == Dialogue(
        "q1",
        ("user", "assistant"),
        (
            Session(
                "morning",
                morning,
                (
                    Turn("morning:1", "user", "Hello.", "morning", morning),
                    # the second turn has no text; the third keeps its number
                    Turn("morning:3", "user", "I own a kayak.", "morning", morning),
                ),
            ),
            Session(
                "evening",
                evening,
                (
                    Turn("evening:1", "user", "I bought a second kayak.", "evening", evening),
                    Turn("evening:2", "assistant", "Nice.", "evening", evening),
                ),
            ),
        ),
        (
            Question(
                "q1",
                "How many kayaks do I own?",
                "2",
                "multi-session",
                ("morning:3", "evening:1"),
                "2023-04-10T17:30:00",
            ),
        ),
    )
    assert (second.dialogue_id, second.questions[0].evidence) == ("q2_abs", ())
    assert second.questions[0].answer == LONGMEMEVAL_ABSTENTION["answer"]  # alternatives stay as they are


def test_a_session_that_is_in_a_history_twice_has_ids_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path / "longmemeval_s.json", LONGMEMEVAL_S)

    (dialogue,) = load_longmemeval(path, "s")

    assert [session.session_id for session in dialogue.sessions] == ["kayak", "filler_1", "filler_1#2"]
    assert [turn.turn_id for turn in dialogue.turns()] == ["kayak:1", "filler_1:1", "filler_1#2:1"]
    write_dialogues(tmp_path / "own.jsonl", [dialogue])
    assert read_dialogues(tmp_path / "own.jsonl") == [dialogue]


def test_the_folder_of_either_form_will_do(oracle: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    written(tmp_path / "s" / "longmemeval_s_cleaned.json", LONGMEMEVAL_S)

    assert load_longmemeval(tmp_path, verify=False) == load_longmemeval(oracle, verify=False)
    assert [dialogue.dialogue_id for dialogue in load_longmemeval(tmp_path / "s", "s")] == ["q3"]


@pytest.mark.parametrize(
    ("form", "record", "message"),
    [
        (
            "oracle",
            LONGMEMEVAL_S,
            "question q3: found 1 of 2 sessions that are no evidence, allowed in form oracle: none",
        ),
        (
            "s",
            LONGMEMEVAL_ABSTENTION,
            "question q2_abs: found 0 of 1 sessions that are no evidence, allowed in form s: some",
        ),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_the_two_forms_are_never_mixed(
    tmp_path: Path, form: str, record: dict[str, Any], message: str, verify: bool
) -> None:
    own = LONGMEMEVAL_ABSTENTION if form == "oracle" else LONGMEMEVAL_S
    path = written(tmp_path / "any.json", own, record)

    with pytest.raises(DataError) as error:
        load_longmemeval(path, form, verify=verify)

    assert message in str(error.value)
    assert not isinstance(error.value, ChecksumError)  # whose advice is "remove it"
    assert "never mix the two" in str(error.value) and "\n" not in str(error.value)


def test_a_question_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found question q1 more than once"):
        load_longmemeval(
            written(tmp_path / "oracle.json", LONGMEMEVAL, LONGMEMEVAL_ABSTENTION, LONGMEMEVAL), verify=False
        )


def ids(dialogues: list[Dialogue]) -> list[str]:
    return [dialogue.dialogue_id for dialogue in dialogues]


def test_splits_are_read_beside_the_file(oracle: Path, splits: Path, caplog: pytest.LogCaptureFixture) -> None:
    dialogues = load_longmemeval(oracle, verify=False)

    assert ids(longmemeval_split(dialogues, "sft", oracle, verify=False)) == ["q1"]
    assert ids(longmemeval_split(dialogues, "test", splits.parent, verify=False)) == ["q2_abs"]
    assert caplog.text == ""  # 0862e8bf_abs shares a session with training: left out, not missing
    assert ids(longmemeval_split(dialogues, "all")) == ["q1", "q2_abs"]
    with caplog.at_level(logging.WARNING):
        assert ids(longmemeval_split(dialogues, "train", oracle, verify=False)) == ["q1"]
    assert "LongMemEval train: the file holds 1 of 2 questions (no q3, for one)" in caplog.text


def test_a_split_file_without_a_list_is_refused(oracle: Path, splits: Path) -> None:
    splits.write_text('{"sft": []}', encoding="utf-8")
    with pytest.raises(DataError, match=r"rl: found nothing"):
        longmemeval_split([], "test", oracle, verify=False)


def test_the_cache_is_used_without_a_path(oracle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = oracle.read_bytes()
    source = replace(ORACLE_FILE, url=oracle.as_uri(), size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(longmemeval, "ORACLE_FILE", source)

    assert ids(load_longmemeval(cache=tmp_path / "cache")) == ["q1", "q2_abs"]
    assert (tmp_path / "cache" / "data" / ORACLE_FILE.name).read_bytes() == content


def test_repairs_and_abstention_are_counted(oracle: Path, splits: Path) -> None:
    counts = longmemeval_counts(oracle, verify=False)

    assert counts["repairs"] == {
        "integer_answers": 1,
        "unsorted_histories": 1,
        "histories_beyond_the_question": 1,
        "repeated_sessions": 0,
        "turns_without_text": 1,
        "sessions_without_text": 0,
    }
    assert counts["abstention"] == {"train": 0, "sft": 0, "rl": 0, "test": 1, "all": 1}
    written(splits.parent / "longmemeval_s.json", {**LONGMEMEVAL_S, "haystack_sessions": [[said("user", "x")], [], []]})
    oracle.unlink()
    counted = longmemeval_counts(splits.parent, verify=False)
    assert (counted["form"], counted["repairs"]) == (
        "s",
        {
            "integer_answers": 0,
            "unsorted_histories": 0,
            "histories_beyond_the_question": 1,
            "repeated_sessions": 1,
            "turns_without_text": 0,
            "sessions_without_text": 2,
        },
    )


REAL = real_folder(ORACLE_FILE.name)
needs_longmemeval = needs(ORACLE_FILE.name)


@pytest.fixture(scope="module")
def real() -> list[Dialogue]:
    return load_longmemeval(REAL)


@pytest.fixture(scope="module")
def real_counts() -> dict[str, Any]:
    assert REAL is not None
    return longmemeval_counts(REAL)


@needs_longmemeval
def test_real_counts(real_counts: dict[str, Any]) -> None:
    splits = real_counts["splits"]
    assert splits["all"] == {
        "dialogues": 500,
        "sessions": 948,
        "turns": 10_960,
        "questions": 500,
        "categories": {
            "knowledge-update": 78,
            "multi-session": 133,
            "single-session-assistant": 56,
            "single-session-preference": 30,
            "single-session-user": 70,
            "temporal-reasoning": 133,
        },
    }
    assert {name: splits[name]["questions"] for name in SPLITS} == {
        "train": 100,
        "sft": 50,
        "rl": 50,
        "test": 400 - 15,
        "all": 500,
    }
    assert real_counts["abstention"]["all"] == 30
    assert real_counts["repairs"] == {
        "integer_answers": 32,
        "unsorted_histories": 34,
        "histories_beyond_the_question": 43,
        "repeated_sessions": 0,
        "turns_without_text": 0,
        "sessions_without_text": 0,
    }


@needs_longmemeval
def test_real_evidence_and_dates(real: list[Dialogue], tmp_path: Path) -> None:
    questions = [dialogue.questions[0] for dialogue in real]
    assert sum(len(question.evidence) for question in questions) == 896
    without = [question.question_id for question in questions if not question.evidence]
    assert len(without) == 21 and all(name.endswith("_abs") for name in without)
    for dialogue in real:
        stamps = [session.timestamp for session in dialogue.sessions]
        assert stamps == sorted(stamps)
        assert stamps[-1][:10] <= dialogue.questions[0].asked_at[:10]
    write_dialogues(tmp_path / "oracle.jsonl", real)
    assert read_dialogues(tmp_path / "oracle.jsonl") == real  # ids unique, evidence exists


@needs_longmemeval
def test_real_test_questions_that_share_a_session_with_training_are_left_out(real: list[Dialogue]) -> None:
    assert REAL is not None
    published = json.loads((REAL / SPLITS_FILE.name).read_text(encoding="utf-8"))
    contents = {
        dialogue.dialogue_id: {tuple(turn.text for turn in session.turns) for session in dialogue.sessions}
        for dialogue in real
    }
    trained = set().union(*(contents[name] for name in published["sft"] + published["rl"]))
    assert {name for name in published["test"] if contents[name] & trained} == SHARED_WITH_TRAINING


@needs_longmemeval
def test_the_readme_counts_the_real_splits(real_counts: dict[str, Any]) -> None:
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    start = readme.index("| question type | all |")
    header, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in readme[start : readme.index("\n\n", start)].splitlines()
    ]
    table = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    splits = real_counts["splits"]
    for category in CATEGORIES:
        assert table[category] == {name: str(splits[name]["categories"][category]) for name in header[1:]}
    for row, key in (("together", "questions"), ("sessions", "sessions"), ("turns", "turns")):
        assert table[row] == {name: f"{splits[name][key]:,}" for name in header[1:]}
    assert table["of them abstention"] == {name: str(real_counts["abstention"][name]) for name in header[1:]}
    assert re.search(r"15 have an evidence session that a training question has too", " ".join(readme.split()))
