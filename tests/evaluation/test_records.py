from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_r1.errors import DataError
from memory_r1.evaluation.records import (
    OperationRow,
    Prediction,
    RecalledEntry,
    RunInfo,
    read_operations,
    read_predictions,
    read_run,
    write_run,
)
from memory_r1.jsonl import JsonLinesWriter, read_rows, rewrite_rows
from memory_r1.memory.record import Event, Record, Refusal
from memory_r1.types import MemoryEntry, OperationKind, Turn

PREDICTION = Prediction(
    question_id="q1",
    dialogue_id="d1",
    category="2",
    metrics={"exact_match": 1.0, "evidence_recall": None},
    question="When?",
    gold="May",
    prediction="may",
    evidence=("s1:1",),
    recalled=(RecalledEntry(3, "Ann moves in May", ("s1:1", "s2:4")),),
    distilled=(RecalledEntry(3, "Ann moves in May", ("s1:1", "s2:4")),),
    tokens=120,
    seconds=0.25,
    recall_cost={"model_calls": 2, "written_by_rules": 1},
)
OPERATION = OperationRow("d1", "s1:1", OperationKind.ADD, 3, "Ann moves in May", "applied")


def test_records_survive_json() -> None:
    run = RunInfo("synthetic", "heldout", "memory-r1", config={"k": 4}, category_names={"2": {"mem0": "temporal"}})
    assert Prediction.from_dict(json.loads(json.dumps(PREDICTION.to_dict()))) == PREDICTION
    assert OperationRow.from_dict(json.loads(json.dumps(OPERATION.to_dict()))) == OPERATION
    assert RunInfo.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_a_recalled_entry_keeps_id_text_and_source_turns() -> None:
    entry = MemoryEntry(7, "likes tea", "Ann", "2023-05-08", ("s1:2",))
    assert RecalledEntry.of(entry) == RecalledEntry(7, "likes tea", ("s1:2",))


def test_a_prediction_without_texts_is_enough_for_scores() -> None:
    row = {"question_id": "q1", "dialogue_id": "d1", "category": "2", "metrics": {"f1_mem0": 0.5}, "gold_sha256": "x"}
    assert Prediction.from_dict(row).metrics == {"f1_mem0": 0.5}


def test_question_ids_are_unique_within_a_dialogue_only() -> None:
    assert PREDICTION.key == "d1/q1"


def write_prediction(folder: Path, **changes: Any) -> None:
    rewrite_rows(folder / "predictions.jsonl", [PREDICTION.to_dict(), PREDICTION.to_dict() | changes])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question_id": 3}, "question_id is 3: give a str"),
        ({"metrics": {"bleu1": "high"}}, "metrics.bleu1 is 'high': give a number"),
        ({"evidence": [1]}, r"evidence is \[1\]: give a list of strings"),
        ({"tokens": True}, "tokens is True: give a int"),
        ({"recalled": [{"text": "no id"}]}, "entry_id is missing"),
    ],
)
def test_a_bad_prediction_is_refused_with_file_line_and_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_prediction(tmp_path, **changes)
    with pytest.raises(DataError, match=rf"predictions\.jsonl, line 2: {message}"):
        read_predictions(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"op": "MERGE"}, "op is 'MERGE': allowed are ADD"),
        ({"status": "done"}, "status is 'done': allowed are applied"),
    ],
)
def test_a_bad_operation_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rewrite_rows(tmp_path / "operations.jsonl", [OPERATION.to_dict() | changes])
    with pytest.raises(DataError, match=rf"operations\.jsonl, line 1: {message}"):
        read_operations(tmp_path)


def test_run_info_is_read_back_and_its_errors_name_the_file(tmp_path: Path) -> None:
    run = RunInfo("locomo", "test", "rag", seed=3)
    write_run(tmp_path, run)
    assert read_run(tmp_path) == run
    (tmp_path / "run.json").write_text('{"benchmark": "locomo"}')
    with pytest.raises(DataError, match=r"run\.json: split is missing"):
        read_run(tmp_path)


def test_a_folder_that_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions\.jsonl: cannot be read"):
        read_predictions(tmp_path)


def test_a_half_written_last_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rows.jsonl"
    with JsonLinesWriter(path) as writer:
        assert (writer.existing, writer.dropped) == ([], 0)
        writer.append({"n": 1}, {"n": 2})
    path.write_bytes(path.read_bytes() + b'{"n": 3, "te')
    assert read_rows(path) == [{"n": 1}, {"n": 2}]
    with JsonLinesWriter(path) as writer:
        assert (writer.existing, writer.dropped) == ([{"n": 1}, {"n": 2}], 12)
        writer.append({"n": 3})
    assert path.read_text() == '{"n": 1}\n{"n": 2}\n{"n": 3}\n'


def test_a_last_line_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    assert read_rows(path) == [{"n": 1}, {"n": 2}]
    with JsonLinesWriter(path) as writer:
        assert (len(writer.existing), writer.dropped) == (2, 0)
        writer.append({"n": 3})
    assert path.read_text() == '{"n": 1}\n{"n": 2}\n{"n": 3}\n'


def test_a_row_is_on_disk_before_the_writer_is_closed(tmp_path: Path) -> None:
    writer = JsonLinesWriter(tmp_path / "rows.jsonl")
    writer.append({"n": 1})
    assert read_rows(tmp_path / "rows.jsonl") == [{"n": 1}]
    writer.close()


@pytest.mark.parametrize("line", ["not json", "[1]"])
def test_a_bad_line_in_the_middle_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 2}}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: "):
        JsonLinesWriter(path)


def test_values_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with JsonLinesWriter(tmp_path / "rows.jsonl") as writer, pytest.raises(ValueError, match="not JSON compliant"):
        writer.append({"f1": float("nan")})


def test_a_failed_rewrite_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rewrite_rows(path, [{"n": 1}])
    with pytest.raises(TypeError):
        rewrite_rows(path, [{"n": {1, 2}}])
    assert read_rows(path) == [{"n": 1}]
    assert [child.name for child in tmp_path.iterdir()] == ["rows.jsonl"]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=8)), max_size=4), cut=st.integers(0, 200))
def test_whatever_a_kill_leaves_the_whole_rows_before_it_are_kept(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    rewrite_rows(path, rows)
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    # A row is complete with its closing brace, even without its newline.
    whole = content.count(b"\n") + (content[-1:] not in (b"", b"\n") and path.read_bytes() in _without_newline(rows))
    with JsonLinesWriter(path) as writer:
        assert writer.existing == rows[:whole]
        writer.append(*rows[whole:])
    assert read_rows(path) == rows


def _without_newline(rows: list[dict[str, str]]) -> set[bytes]:
    lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", errors="backslashreplace") for row in rows]
    return {b"\n".join(lines[:count]) for count in range(1, len(lines) + 1)}


def test_a_lone_surrogate_does_not_stop_a_run(tmp_path: Path) -> None:
    rewrite_rows(tmp_path / "rows.jsonl", [{"text": "half \ud83d pair \u2028 é"}])
    assert read_rows(tmp_path / "rows.jsonl") == [{"text": "half \ud83d pair \u2028 é"}]


def test_a_turns_rows_stand_in_the_order_of_its_completion() -> None:
    record = Record(
        Turn("s1:1", "Ann", "words"),
        (Event("ADD", 4, {"text": "one"}), Event("NOOP", None, {"instead_of": "DELETE"})),
        (Refusal(1, "unknown_id", '{"op": "DELETE", "id": 7}'),),
        model_calls=1,
    )
    rows = OperationRow.of_turn("d1", record)
    assert [(row.op, row.proposed, row.entry_id, row.text, row.status, row.reason, row.raw) for row in rows] == [
        ("ADD", "ADD", 4, "one", "applied", None, ""),
        (None, None, None, None, "refused", "unknown_id", '{"op": "DELETE", "id": 7}'),
        ("NOOP", "DELETE", None, None, "applied", None, ""),
    ]
    assert OperationRow.of_turn("d1", Record(Turn("s1:2", "Ann", "hm")))[0].status == "empty"
    assert OperationRow.of_turn("d1", Record(events=(Event("SESSION_END"),))) == []
    failed = Record(Turn("s1:3", "Ann", "?"), completion="I shall", failure="not_json", model_calls=1)
    (row,) = OperationRow.of_turn("d1", failed)
    assert (row.status, row.parse_failure, row.raw) == ("parse_failure", "not_json", "I shall")
