from __future__ import annotations

from pathlib import Path
from typing import Any

from memory_r1.evaluation.records import OperationRow, Prediction, RecalledEntry, RunInfo
from memory_r1.evaluation.report.evaluated_run import EvaluatedRun
from memory_r1.evaluation.report.questions import CHARACTERS, ENTRIES, filters, question_data
from memory_r1.evaluation.report.turns import ShownTurn
from memory_r1.types import OperationKind
from tests.report_pages import write_folder

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind
OSLO = RecalledEntry(1, "Ann lives in Oslo", ("t1",))
TEA = RecalledEntry(2, "Ann likes tea", ("t2",))
LOG = (
    OperationRow("d1", "t1", ADD, 1, "Ann lives in Oslo", "applied"),
    OperationRow("d1", "t1", UPDATE, None, "x", "refused", "unknown_id"),
    OperationRow("d1", "t2", ADD, 2, "Ann likes tea", "applied"),
    OperationRow("d1", "t3", UPDATE, 1, "Ann moved to Rome", "applied"),
    OperationRow("d1", "t4", DELETE, 1, None, "applied"),
    OperationRow("d1", "t5", None, None, None, "empty"),
)


def row(number: int, *evidence: str, exact: float = 0.0, **fields: Any) -> Prediction:
    return Prediction(f"q{number}", "d1", "1", {"exact_match": exact}, "Where?", "Oslo", "Rome", evidence, **fields)


def read(folder: Path, *rows: Prediction, log: tuple[OperationRow, ...] = LOG) -> EvaluatedRun:
    return EvaluatedRun.read(write_folder(folder, rows, log, RunInfo("synthetic", "test", "memory-r1")))


def answers(run: EvaluatedRun) -> list[dict[str, Any]]:
    return [question["answers"][0] for question in question_data([run], [])["questions"]]


def test_entries_are_stored_once_and_referred_to_by_number(tmp_path: Path) -> None:
    rows = [row(i, "t1", recalled=(TEA, OSLO), distilled=(OSLO,)) for i in range(3)]
    data = question_data([read(tmp_path, *rows)], [])
    assert [entry["text"] for entry in data["entries"]] == [TEA.text, OSLO.text]
    assert [question["answers"][0]["recalled"] for question in data["questions"]] == [[0, 1]] * 3
    assert data["questions"][0]["answers"][0]["distilled"] == [1]


def test_the_fate_of_what_an_evidence_turn_stored_is_told(tmp_path: Path) -> None:
    data = question_data([read(tmp_path, row(0, "t1"))], [])
    written, refused = data["operations"][0]["d1"]["t1"]
    assert [(later["turn"], later["op"], later["text"]) for later in written["later"]] == [
        ("t3", "UPDATE", "Ann moved to Rome"),
        ("t4", "DELETE", ""),
    ]
    assert (refused["status"], refused["reason"], refused["later"]) == ("refused", "unknown_id", [])


def test_questions_are_filed_under_the_operations_on_their_evidence(tmp_path: Path) -> None:
    run = read(tmp_path, row(0, "t1"), row(1, "t2"), row(2, "t5"), row(3), row(4, "t3", "t2"))
    # Later operations on entry 1 count for t1, and those after t3 for t3.
    assert [answer["operations"] for answer in answers(run)] == [
        ["ADD", "DELETE", "UPDATE", "refused"], ["ADD"], ["none"], ["none"], ["ADD", "DELETE", "UPDATE"],
    ]  # fmt: skip
    data = question_data([run], [])
    assert filters(data)["operations"] == ["ADD", "DELETE", "UPDATE", "none", "refused"]


def test_every_evidence_turn_says_where_it_was_lost(tmp_path: Path) -> None:
    rows = (row(0, "t1", "t2", "t9", recalled=(TEA,)), row(1, "t2", exact=1.0, recalled=(TEA,), distilled=(TEA,)))
    wrong, right = answers(read(tmp_path, *rows))
    assert wrong["lost"] == {"t1": "stored and lost", "t2": "recalled but not selected", "t9": "never stored"}
    assert (wrong["step"], right["step"]) == ("never stored", "correct")
    assert right["lost"] == {"t2": "selected but misread"}


def test_the_steps_to_filter_by_are_those_that_occur_in_order(tmp_path: Path) -> None:
    rows = (row(0, "t2", exact=1.0), row(1), row(2, "t1"), row(3, "t9"))
    data = question_data([read(tmp_path, *rows)], [])
    assert filters(data)["steps"] == ["never stored", "stored and lost", "wrong, no evidence known", "correct"]


def test_of_very_many_entries_those_that_matter_are_kept(tmp_path: Path) -> None:
    many = tuple(RecalledEntry(i, f"entry {i}", (f"x{i}",)) for i in range(10, 10 + ENTRIES + 50))
    run = read(tmp_path, row(0, "t1", recalled=(*many, TEA, OSLO), distilled=(TEA,)))
    [answer] = answers(run)
    # The first hundred, the selected one and the one with evidence; 50 are left out.
    assert (len(answer["recalled"]), answer["omitted"]) == (ENTRIES + 2, 50)


def test_very_long_texts_are_cut_and_say_so(tmp_path: Path) -> None:
    long = RecalledEntry(1, "x" * (CHARACTERS + 1), ("t1",))
    turn = ShownTurn("d1", "t1", "s1", 0, "Ann", "y" * CHARACTERS, "2023")
    data = question_data([read(tmp_path, row(0, "t1", recalled=(long,)))], [turn])
    assert data["entries"][0]["text"] == "x" * CHARACTERS + " … (2,001 characters)"
    assert data["turns"]["d1"]["t1"]["text"] == turn.text


def test_a_run_that_logged_nothing_makes_no_claim_about_storing(tmp_path: Path) -> None:
    silent = read(tmp_path / "silent", row(0, "t1"), log=LOG[-1:])
    failed = read(tmp_path / "failed", row(0, "t1"), log=(OperationRow("d1", "t1", None, None, "?", "parse_failure"),))
    data = question_data([silent, failed], [])
    assert data["logged"] == [False, True]
    assert [answer["step"] for answer in data["questions"][0]["answers"]] == ["not recalled", "never stored"]
