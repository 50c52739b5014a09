from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1.errors import DataError
from memory_r1.evaluation.records import Prediction
from memory_r1.evaluation.report.turns import TURNS, shown_turns
from memory_r1.types import Dialogue, Session, Turn

# Two sessions of six turns: a0 to a5 and b0 to b5; only the second turn has a time of its own.
DIALOGUE = Dialogue(
    "d1",
    ("Ann", "Ben"),
    tuple(
        Session(
            name,
            f"2023-05-0{day}",
            tuple(Turn(f"{name}{i}", "Ann", f"said {name}{i}", name, "noon" if i == 1 else "") for i in range(6)),
        )
        for day, name in enumerate("ab", start=1)
    ),
)


def asked(*evidence: str, dialogue_id: str = "d1") -> Prediction:
    return Prediction("q", dialogue_id, "1", {}, evidence=evidence)


def test_two_turns_of_the_same_session_stand_around_the_evidence(tmp_path: Path) -> None:
    # b0 is the first of its session: no turn of session a precedes it.
    turns = shown_turns(tmp_path, [asked("a3"), asked("b0")], [DIALOGUE])
    assert [turn.turn_id for turn in turns] == ["a1", "a2", "a3", "a4", "a5", "b0", "b1", "b2"]
    assert [turn.place for turn in turns] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [turn.timestamp for turn in turns][:2] == ["noon", "2023-05-01"]


def test_evidence_of_another_dialogue_is_another_turn(tmp_path: Path) -> None:
    assert shown_turns(tmp_path, [asked("a3", dialogue_id="d2")], [DIALOGUE]) == []
    assert not (tmp_path / TURNS).exists()


def test_what_was_shown_once_is_kept(tmp_path: Path) -> None:
    turns = shown_turns(tmp_path, [asked("a0")], [DIALOGUE])
    assert [turn.turn_id for turn in turns] == ["a0", "a1", "a2"]
    assert shown_turns(tmp_path, [asked("a0")]) == turns


def test_a_run_whose_turns_were_not_kept_has_none(tmp_path: Path) -> None:
    assert shown_turns(tmp_path, [asked("a0")]) == []


def test_a_damaged_file_is_named_with_line_and_field(tmp_path: Path) -> None:
    shown_turns(tmp_path, [asked("a0")], [DIALOGUE])
    path = tmp_path / TURNS
    path.write_text(path.read_text().replace('"place": 1', '"place": "x"'))
    with pytest.raises(DataError, match=r"turns\.jsonl, line 2: place is 'x': give a whole number"):
        shown_turns(tmp_path, [asked("a0")])
