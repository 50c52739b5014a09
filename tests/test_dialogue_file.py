"""The JSONL format of users' own dialogues: valid files, refused ones and their errors."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_r1.dialogue_file import dialogue_to_json, read_dialogues, write_dialogues
from memory_r1.errors import DataError
from memory_r1.types import Dialogue, Question, Session, Turn

RECORD: dict[str, Any] = {
    "dialogue_id": "d1",
    "speakers": ["Ann", "Ben"],
    "sessions": [
        {
            "session_id": "s1",
            "timestamp": "2023-05-08T13:56:00",
            "turns": [
                {"turn_id": "s1:1", "speaker": "Ann", "text": "I moved to Oslo."},
                {"turn_id": "s1:2", "speaker": "Ben", "text": "Nice!", "timestamp": "2023-05-08T14:00:00"},
            ],
        },
        {
            "session_id": "s2",
            "timestamp": "2023-05-09T10:00:00",
            "turns": [{"turn_id": "s2:1", "speaker": "Ann", "text": "Now I live in Bergen."}],
        },
    ],
    "questions": [
        {
            "question_id": "q1",
            "question": "Where does Ann live?",
            "answer": "Bergen",
            "category": "update",
            "evidence": ["s2:1", "s1:1"],
            "asked_at": "2023-06-01T00:00:00",
        }
    ],
}


def _write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_reads_the_documented_example(tmp_path: Path) -> None:
    (dialogue,) = read_dialogues(_write(tmp_path / "own.jsonl", RECORD))

    assert dialogue == Dialogue(
        "d1",
        ("Ann", "Ben"),
        (
            Session(
                "s1",
                "2023-05-08T13:56:00",
                (
                    # a turn takes session and time from its session, unless it has its own time
                    Turn("s1:1", "Ann", "I moved to Oslo.", "s1", "2023-05-08T13:56:00"),
                    Turn("s1:2", "Ben", "Nice!", "s1", "2023-05-08T14:00:00"),
                ),
            ),
            Session(
                "s2",
                "2023-05-09T10:00:00",
                (Turn("s2:1", "Ann", "Now I live in Bergen.", "s2", "2023-05-09T10:00:00"),),
            ),
        ),
        # the file cites s2:1 first; evidence comes in dialogue order
        (Question("q1", "Where does Ann live?", "Bergen", "update", ("s1:1", "s2:1"), "2023-06-01T00:00:00"),),
    )


def test_blank_lines_a_byte_order_mark_and_missing_questions_are_fine(tmp_path: Path) -> None:
    second = {**copy.deepcopy(RECORD), "dialogue_id": "d2"}
    del second["questions"]
    path = _write(tmp_path / "own.jsonl", "\ufeff" + json.dumps(RECORD), "", "  ", second, "")

    dialogues = read_dialogues(path)

    assert [dialogue.dialogue_id for dialogue in dialogues] == ["d1", "d2"]
    assert dialogues[1].questions == ()


@pytest.mark.parametrize(
    ("given_time", "kept"),
    [
        ("2023-05-08", "2023-05-08T00:00:00"),
        ("2023-05-08 13:56", "2023-05-08T13:56:00"),
        ("20230508T135600", "2023-05-08T13:56:00"),
    ],
)
def test_every_spelling_of_a_time_becomes_one(tmp_path: Path, given_time: str, kept: str) -> None:
    record = copy.deepcopy(RECORD)
    record["sessions"][0]["timestamp"] = given_time

    (dialogue,) = read_dialogues(_write(tmp_path / "own.jsonl", record))

    assert dialogue.sessions[0].timestamp == kept


def _set(*steps: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(record: Any) -> None:
        for step in steps[:-1]:
            record = record[step]
        record[steps[-1]] = value

    return change


def _drop(*steps: str | int) -> Callable[[dict[str, Any]], None]:
    def change(record: Any) -> None:
        for step in steps[:-1]:
            record = record[step]
        del record[steps[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("sessions", 0, "turns", 1, "speaker", value="Bob"),
            'sessions[0].turns[1].speaker: found "Bob", allowed: one of the dialogue\'s speakers, "Ann", "Ben"',
        ),
        (_set("dialogue_id", value=7), "dialogue_id: found 7, allowed: a string that is not empty"),
        (_set("dialogue_id", value=" "), 'dialogue_id: found " ", allowed: a string that is not empty'),
        (_set("speakers", value=[]), "speakers: found an array of 0, allowed: an array of at least 1"),
        (_set("speakers", value="Ann"), 'speakers: found "Ann", allowed: an array of at least 1'),
        (_set("speakers", 1, value="Ann"), 'speakers[1]: found "Ann", allowed: a name or id that is not in this array'),
        (_drop("sessions"), "sessions: found nothing, required: dialogue_id, speakers, sessions"),
        (_set("sessions", value=[]), "sessions: found an array of 0, allowed: an array of at least 1"),
        (_set("sessions", 0, "turns", value=[]), "sessions[0].turns: found an array of 0"),
        (_set("sessions", 1, value="s2"), 'sessions[1]: found "s2", allowed: an object'),
        (_set("sessions", 1, "session_id", value="s1"), 'sessions[1].session_id: found "s1", allowed: a session_id'),
        (_set("sessions", 1, "date", value=""), "sessions[1].date: found an unknown key, allowed: session_id, times"),
        (_set("two words", value=""), '["two words"]: found an unknown key, allowed: dialogue_id, speakers'),
        (
            _set("sessions", 0, "timestamp", value="8 May 2023"),
            'sessions[0].timestamp: found "8 May 2023", allowed: a string with an ISO 8601 time',
        ),
        (_set("sessions", 0, "timestamp", value=20230508), "sessions[0].timestamp: found 20230508, allowed: a string"),
        (_set("sessions", 1, "turns", 0, "turn_id", value="s1:1"), 'sessions[1].turns[0].turn_id: found "s1:1"'),
        (_set("sessions", 0, "turns", 0, "text", value=""), 'sessions[0].turns[0].text: found "", allowed: a string'),
        (_set("sessions", 0, "turns", 0, "text", value="\ud83d"), "sessions[0].turns[0].text: found"),
        (_set("questions", value=None), "questions: found null, allowed: an array"),
        (_drop("questions", 0, "category"), "questions[0].category: found nothing"),
        (_set("questions", 0, "answer", value=2022), "questions[0].answer: found 2022, allowed: a string"),
        (
            _set("questions", 0, "evidence", 1, value="s9:1"),
            'questions[0].evidence[1]: found "s9:1", allowed: the turn',
        ),
        (_set("questions", 0, "evidence", 1, value="s2:1"), 'questions[0].evidence[1]: found "s2:1", allowed: a name'),
        (_set("questions", 0, "asked_at", value="later"), 'questions[0].asked_at: found "later"'),
        (_set("questions", 0, "asked_at", value="2023-06-01T00:00:00+02:00"), "with and without a UTC offset"),
        (_set("questions", value=RECORD["questions"] * 2), 'questions[1].question_id: found "q1"'),
    ],
)
def test_a_bad_field_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    record = copy.deepcopy(RECORD)
    record["dialogue_id"] = "d2"
    change(record)
    path = _write(tmp_path / "own.jsonl", RECORD, "", record)

    with pytest.raises(DataError) as error:
        read_dialogues(path)

    # the second dialogue is on the third line
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found no dialogue"),
        (b"\n \n", "found no dialogue"),
        (b'\n{"dialogue_id": "d1",\n', ":2: found malformed JSON at column"),
        (b"\n[]", ":2: found a JSON array, allowed: one JSON object per line"),
        (b'{"dialogue_id": "a", "dialogue_id": "b"}', ':1: found the key "dialogue_id" twice'),
        (b'{"dialogue_id": "\xff"}', ":1: found bytes that are not UTF-8"),
        (b'{"a":' * 100_000, ":1: found JSON nested too deep"),
        (b'{"dialogue_id": ' + b"9" * 5000 + b"}", ":1: found JSON nested too deep or a number too long"),
    ],
)
def test_a_file_that_is_no_jsonl_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)

    with pytest.raises(DataError) as error:
        read_dialogues(path)

    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_dialogues_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    path = tmp_path / "Ann's own.json"
    path.write_text(json.dumps([RECORD, {**RECORD, "dialogue_id": "d2"}], indent=indent), encoding="utf-8-sig")

    with pytest.raises(DataError) as error:
        read_dialogues(path)

    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    subprocess.run(str(error.value).partition("convert it: ")[2], shell=True, check=True)
    (converted,) = tmp_path.glob("*.jsonl")
    assert [dialogue.dialogue_id for dialogue in read_dialogues(converted)] == ["d1", "d2"]


@pytest.mark.parametrize(
    ("steps", "remedy"),
    [
        (("sessions", 0, "turns", 1, "text"), "cut it into several turns"),
        (("questions", 0, "question"), "shorten it"),
        (("questions", 0, "answer"), "shorten it"),
    ],
)
def test_a_text_of_more_than_100_000_characters_is_refused(
    tmp_path: Path, steps: tuple[str | int, ...], remedy: str
) -> None:
    record = copy.deepcopy(RECORD)
    _set(*steps, value="é" * 100_000)(record)
    read_dialogues(_write(tmp_path / "own.jsonl", record))
    _set(*steps, value="é" * 100_001)(record)

    with pytest.raises(DataError) as error:
        read_dialogues(_write(tmp_path / "own.jsonl", "", record))

    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)[1:]
    found = "found 100,001 characters, allowed: at most 100,000"
    assert str(error.value) == f"{tmp_path / 'own.jsonl'}:2: {place}: {found}; {remedy}"


def test_a_dialogue_id_is_taken_once_a_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "own.jsonl", RECORD, RECORD)

    with pytest.raises(DataError, match=r":2: dialogue_id: found \"d1\", allowed: an id that line 1 has not taken"):
        read_dialogues(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_dialogues(path)


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    record = copy.deepcopy(RECORD)
    record["sessions"][0]["turns"][0]["speaker"] = "x" * 10_000

    with pytest.raises(DataError) as error:
        read_dialogues(_write(tmp_path / "own.jsonl", record))

    assert len(str(error.value)) < 500


_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
_times = st.datetimes().map(lambda time: time.isoformat())


@st.composite
def _dialogues(draw: st.DrawFn) -> Dialogue:
    speakers = tuple(draw(st.lists(_texts, min_size=1, max_size=3, unique=True)))
    sessions = []
    for number in range(draw(st.integers(1, 3))):
        time = draw(_times)
        turns = tuple(
            Turn(
                f"s{number}:{position}",
                draw(st.sampled_from(speakers)),
                draw(_texts),
                f"s{number}",
                draw(st.sampled_from([time, draw(_times)])),
            )
            for position in range(draw(st.integers(1, 3)))
        )
        sessions.append(Session(f"s{number}", time, turns))
    ids = [turn.turn_id for session in sessions for turn in session.turns]
    cited = st.sets(st.sampled_from(ids)).map(lambda chosen: tuple(turn_id for turn_id in ids if turn_id in chosen))
    questions = tuple(
        Question(f"q{number}", draw(_texts), draw(_texts), draw(_texts), draw(cited), draw(st.just("") | _times))
        for number in range(draw(st.integers(0, 2)))
    )
    return Dialogue(draw(_texts), speakers, tuple(sessions), questions)


@given(dialogues=st.lists(_dialogues(), min_size=1, max_size=3, unique_by=lambda dialogue: dialogue.dialogue_id))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, dialogues: list[Dialogue]) -> None:
    path = tmp_path_factory.mktemp("round") / "own.jsonl"

    write_dialogues(path, dialogues)

    assert read_dialogues(path) == dialogues


def test_the_json_of_the_example_is_the_example(tmp_path: Path) -> None:
    (dialogue,) = read_dialogues(_write(tmp_path / "own.jsonl", RECORD))
    expected = copy.deepcopy(RECORD)
    expected["questions"][0]["evidence"].sort()

    assert dialogue_to_json(dialogue) == expected


def test_a_refused_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    (dialogue,) = read_dialogues(_write(path, RECORD))
    before = path.read_bytes()

    for bad in ([dialogue, dialogue], [Dialogue("d3", ("Ann",), ())], []):
        with pytest.raises(DataError):
            write_dialogues(path, bad)

    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["own.jsonl"]


def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.jsonl"
    dialogues = read_dialogues(_write(path, RECORD))
    before = path.read_bytes()

    def refuse(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DataError, match=r"own\.jsonl: cannot be written: No space left on device"):
        write_dialogues(path, dialogues)

    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["own.jsonl"]


def test_a_new_folder_is_made_for_the_file(tmp_path: Path) -> None:
    dialogues = read_dialogues(_write(tmp_path / "own.jsonl", RECORD))

    write_dialogues(tmp_path / "new" / "own.jsonl", dialogues)

    assert read_dialogues(tmp_path / "new" / "own.jsonl") == dialogues
