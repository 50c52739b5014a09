"""MSC: made-up files in both forms, and the real development set's counts if it is available."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.msc import CONVERSATIONS_FILE, OFFICIAL_NAME, QUESTIONS_FILE, load_msc, msc_counts, msc_form
from memory_r1.dialogue_file import read_dialogues, write_dialogues
from memory_r1.errors import DataError
from memory_r1.types import Dialogue, Question, Session, Turn
from tests.data.records import MSC, MSC_CONVERSATION, MSC_QUESTION
from tests.real_data import needs, real_folder


def lines(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return lines(tmp_path / OFFICIAL_NAME, MSC)


@pytest.fixture
def development(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    lines(folder / "msc" / CONVERSATIONS_FILE.name, MSC_CONVERSATION, {**MSC_CONVERSATION, "id": "valid_8"})
    lines(folder / "msc" / QUESTIONS_FILE.name, MSC_QUESTION)
    return folder


def test_an_official_row_is_a_dialogue_of_its_own(official: Path) -> None:
    (dialogue,) = load_msc(official)

    # six days and three hours before noon of 1 January 2024; an hour before it
    first, second, newest = "2023-12-26T09:00:00", "2024-01-01T11:00:00", "2024-01-01T12:00:00"
    assert dialogue == Dialogue(
        "msc-0",
        ("Speaker 1", "Speaker 2"),
        (
            Session(
                "s1",
                first,
                (
                    Turn("s1:1", "Speaker 1", "I paint.", "s1", first),
                    Turn("s1:2", "Speaker 2", "I sail.", "s1", first),
                    Turn("s1:3", "Speaker 1", "Oh!", "s1", first),
                ),
            ),
            # the turn without text is left out, and the other is still the second speaker's
            Session("s2", second, (Turn("s2:1", "Speaker 2", "I sold my boat.", "s2", second),)),
            Session(
                "s3",
                newest,
                (
                    Turn("s3:1", "Speaker 2", "Hi again.", "s3", newest),
                    Turn("s3:2", "Speaker 1", "Hi.", "s3", newest),
                ),
            ),
        ),
        (Question("msc-0", "Speaker 2 asks Speaker 1: What did you say you do?", "I paint", "earlier-session"),),
    )


def test_the_development_set_calls_its_speakers_as_the_question_does(development: Path, tmp_path: Path) -> None:
    (dialogue,) = load_msc(development, verify=False)

    assert (dialogue.dialogue_id, dialogue.speakers) == ("msc-12", ("Speaker_12_A", "Speaker_12_B"))
    assert [(session.session_id, session.timestamp) for session in dialogue.sessions] == [
        ("s1", "2023-12-30T12:00:00"),
        ("s2", "2024-01-01T07:00:00"),
        ("s3", "2024-01-01T12:00:00"),  # the session from which `time_back` counts
        ("s4", "2024-01-02T12:00:00"),  # no distance: a day later
    ]
    assert [turn.speaker[-1] for turn in dialogue.turns()] == ["A", "B", "A", "A", "B", "A"]
    assert dialogue.questions == (Question("msc-12", "What does Speaker_12_A do", "paint", "earlier-session"),)
    write_dialogues(tmp_path / "own.jsonl", [dialogue])
    assert read_dialogues(tmp_path / "own.jsonl") == [dialogue]


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        # a middle session without a distance is a day before the next one
        (["3 days ago", None, "1 day ago"], ["2023-12-29T12:00:00", "2023-12-30T12:00:00", "2023-12-31T12:00:00"]),
        # the first claims to be later than the second, so it is put an hour before it
        (["1 hour ago", "2 hours ago"], ["2024-01-01T09:00:00", "2024-01-01T10:00:00"]),
        (["1 week 1 day 30 minutes ago"], ["2023-12-24T11:30:00"]),
        # no distances at all: day by day from the made-up date
        ([None, ""], ["2024-01-01T12:00:00", "2024-01-02T12:00:00"]),
    ],
)
def test_timestamps_rise_whatever_the_distances_say(
    tmp_path: Path, distances: list[str | None], expected: list[str]
) -> None:
    earlier = [{"time_back": distance, "dialog": [{"text": "x"}]} for distance in distances]
    (dialogue,) = load_msc(lines(tmp_path / "own.jsonl", {**MSC, "previous_dialogs": earlier}))

    stamps = [session.timestamp for session in dialogue.sessions]
    assert stamps[:-1] == expected
    assert stamps == sorted(set(stamps))


def test_what_lies_there_decides_on_the_form(official: Path, development: Path, tmp_path: Path) -> None:
    assert msc_form(official) == msc_form(tmp_path) == "official"
    assert msc_form(development) == msc_form(development / "msc") == "approximate"
    assert msc_form(development / "msc" / QUESTIONS_FILE.name) == "approximate"
    lines(development / OFFICIAL_NAME, MSC)
    assert msc_form(development) == "official"
    assert [dialogue.dialogue_id for dialogue in load_msc(development)] == ["msc-0"]
    assert [dialogue.dialogue_id for dialogue in load_msc(development, "approximate", verify=False)] == ["msc-12"]
    assert msc_form(cache=tmp_path / "none") == "official"


def test_the_two_are_counted_under_names_of_their_own(official: Path, development: Path) -> None:
    counts = {"dialogues": 1, "sessions": 3, "turns": 6, "questions": 1, "categories": {"earlier-session": 1}}
    assert msc_counts(official) == {"benchmark": "msc", "splits": {"test": counts, "all": counts}}
    counts = {**counts, "sessions": 4}
    assert msc_counts(development, verify=False) == {
        "benchmark": "msc-approximate",
        "splits": {"validation": counts, "all": counts},
        "conversations": {"conversations": 2, "sessions": 8, "turns": 12},
        "repairs": {"speakers_by_place": 2},
    }


def test_the_development_set_is_no_stand_in_for_the_official_file(development: Path) -> None:
    with pytest.raises(DataError, match="the development set is here: it is form approximate"):
        load_msc(development, "official")


@needs(f"msc/{QUESTIONS_FILE.name}")
def test_real_counts_of_the_development_set(tmp_path: Path) -> None:
    folder = real_folder(f"msc/{QUESTIONS_FILE.name}")
    assert folder is not None
    counts = {
        "dialogues": 382,
        "sessions": 1528,
        "turns": 19_471,
        "questions": 382,
        "categories": {"earlier-session": 382},
    }
    assert msc_counts(folder) == {
        "benchmark": "msc-approximate",
        "splits": {"validation": counts, "all": counts},
        "conversations": {"conversations": 500, "sessions": 2000, "turns": 25_459},
        "repairs": {"speakers_by_place": 53},
    }
    dialogues = load_msc(folder, "approximate")
    assert all(dialogue.speakers[0] in dialogue.questions[0].question for dialogue in dialogues)
    write_dialogues(tmp_path / "msc.jsonl", dialogues)
    assert read_dialogues(tmp_path / "msc.jsonl") == dialogues
