"""LoCoMo: a made-up file with every defect of the real one, and the real one's counts if it is available."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from data import locomo
from data.banks import Observation, observation_banks
from data.loading import count
from data.locomo import (
    CATEGORY_NAMES,
    NOT_MENTIONED,
    SPLITS,
    download_locomo,
    load_locomo,
    locomo_counts,
    locomo_observations,
    locomo_repairs,
    locomo_split,
)
from data.tuples import check_disjoint, manager_tuples
from memory_r1.dialogue_file import read_dialogues, write_dialogues
from memory_r1.errors import ChecksumError, DataError
from memory_r1.types import Dialogue, Question, Session, Turn
from tests.data.records import LOCOMO
from tests.real_data import needs, real_folder


def _write(path: Path, *conversations: object) -> Path:
    path.write_text(json.dumps(conversations), encoding="utf-8")
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    other = {
        "sample_id": "conv-30",
        "conversation": {
            "speaker_a": "Ola",
            "speaker_b": "Pim",
            "session_1_date_time": "4:04 pm on 20 January, 2023",
            "session_1": [{"speaker": "Pim", "dia_id": "D1:1", "text": "Hi."}],
        },
        "qa": [],
        "observation": {},
    }
    return _write(tmp_path / "locomo10.json", LOCOMO, other)


def test_sessions_come_in_order_with_captions_and_without_queries(tiny: Path) -> None:
    dialogue = load_locomo(tiny, verify=False)[0]

    assert (dialogue.dialogue_id, dialogue.speakers) == ("conv-26", ("Ivo", "Una"))
    # 1:56 pm is 13:56; 12:09 am is nine minutes past midnight
    may, june, december = "2023-05-08T13:56:00", "2023-06-27T10:37:00", "2023-12-01T00:09:00"
    assert dialogue.sessions == (
        Session(
            "session_1",
            may,
            (
                Turn("D1:1", "Ivo", "I bought a kayak.", "session_1", may),
                Turn("D1:2", "Una", "Look at this! [shares a photo: a photo of a red barn]", "session_1", may),
            ),
        ),
        Session(
            "session_2",
            june,
            (
                Turn("D2:1", "Una", "I paint now.", "session_2", june),
                Turn("D2:2", "Ivo", "[shares a photo: a kayak]", "session_2", june),
            ),
        ),
        Session("session_10", december, (Turn("D10:1", "Una", "Happy advent.", "session_10", december),)),
    )


def test_questions_are_repaired(tiny: Path) -> None:
    questions = load_locomo(tiny, verify=False)[0].questions

    assert questions[0] == Question("conv-26:0", "When did Ivo buy a kayak?", "2023", "2", ("D1:1",))
    assert {question.question_id: question.evidence for question in questions} == {
        "conv-26:0": ("D1:1",),
        "conv-26:1": (),
        "conv-26:2": ("D1:2", "D10:1"),  # two ids in one string, put into dialogue order
        "conv-26:3": ("D2:1",),  # "D" names nothing
        "conv-26:4": ("D1:2",),  # "D:1:2"
        "conv-26:5": ("D1:1", "D2:1", "D2:2"),
        "conv-26:6": ("D2:1",),  # "D02:01" is D2:1, which is thus cited twice
        "conv-26:7": (),  # neither turn exists
        "conv-26:8": ("D1:1",),
        "conv-26:9": ("D1:1",),
        "conv-26:10": ("D2:1",),  # the repeated question stays
    }


def test_category_5_is_answered_by_not_mentioned_and_never_by_the_trap(tiny: Path) -> None:
    adversarial = [question for question in load_locomo(tiny, verify=False)[0].questions if question.category == "5"]

    assert [question.answer for question in adversarial] == [NOT_MENTIONED, NOT_MENTIONED]


def test_repairs_are_counted(tiny: Path) -> None:
    assert locomo_repairs(tiny, verify=False) == {
        "integer_answers": 1,  # 2023
        "malformed_evidence": 4,  # "D10:1; D1:2", "D", "D:1:2", "D2:1 D1:1 D2:2"
        "evidence_with_leading_zeros": 1,  # D02:01
        "evidence_without_turn": 2,  # D9:9, D10:19
        "repeated_evidence": 1,  # D2:1 after D02:01
        "dates_without_session": 2,  # sessions 11 and 12
        "questions_without_evidence": 2,  # questions 1 and 7
        "repeated_questions": 1,  # "b"
    }


def test_observations_come_by_session_with_their_turns(tiny: Path) -> None:
    observations = locomo_observations(tiny, verify=False)

    assert observations == {
        "conv-26": [
            Observation("Una", "Una showed a barn and heard of the kayak.", ("D1:1", "D1:2")),  # a list of ids
            Observation("Ivo", "Ivo owns a kayak.", ("D1:1",)),
            Observation("Ivo", "Ivo said much.", ("D1:1", "D2:2")),  # two ids in one string
            Observation("Una", "Una likes advent.", ("D10:1",)),
        ],
        "conv-30": [],
    }


def test_splits_are_by_dialogue_with_categories_1_to_4_unless_told(tiny: Path) -> None:
    dialogues = load_locomo(tiny, verify=False)

    (train,) = locomo_split(dialogues, "train")
    (everything,) = locomo_split(dialogues, "train", ("2", "5"))

    assert train.dialogue_id == "conv-26"
    assert [question.category for question in train.questions] == ["2", "3", "1", "4", "4", "4", "4", "4", "4"]
    assert [question.category for question in everything.questions] == ["2", "5", "5"]
    assert [dialogue.dialogue_id for dialogue in locomo_split(dialogues, "validation")] == ["conv-30"]


def test_a_split_of_which_a_dialogue_is_missing_is_refused(tiny: Path) -> None:
    dialogues = load_locomo(tiny, verify=False)

    with pytest.raises(DataError, match="found no LoCoMo dialogue conv-41, which split test needs"):
        locomo_split(dialogues, "test")


def test_the_folder_of_the_file_will_do(tiny: Path, tmp_path: Path) -> None:
    assert load_locomo(tmp_path, verify=False) == load_locomo(tiny, verify=False)


def test_a_loaded_dialogue_can_be_written_as_own_data(tiny: Path, tmp_path: Path) -> None:
    dialogues = load_locomo(tiny, verify=False)

    write_dialogues(tmp_path / "own.jsonl", dialogues)

    assert read_dialogues(tmp_path / "own.jsonl") == dialogues


def test_a_file_of_full_length_with_other_bytes_is_not_called_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "locomo10.json"
    path.write_bytes(b" " * locomo.LOCOMO_FILE.size)

    with pytest.raises(ChecksumError, match="changed or another version"):
        load_locomo(path)


@pytest.fixture
def published(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Treat the tiny file as the published one, "downloaded" by its file: URL."""
    content = tiny.read_bytes()
    source = replace(
        locomo.LOCOMO_FILE, url=tiny.as_uri(), size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setattr(locomo, "LOCOMO_FILE", source)
    monkeypatch.setenv("MEMORY_R1_CACHE", str(tmp_path / "cache"))
    return tiny


def test_without_a_path_the_file_is_downloaded_once_into_the_cache(published: Path, tmp_path: Path) -> None:
    expected = load_locomo(published)

    assert load_locomo() == expected
    assert os.listdir(tmp_path / "cache" / "data") == ["locomo10.json"]
    published.unlink()
    assert load_locomo() == expected  # from the cache now: its source is gone
    assert download_locomo() == tmp_path / "cache" / "data" / "locomo10.json"


def test_the_cache_argument_goes_before_the_environment(published: Path, tmp_path: Path) -> None:
    load_locomo(cache=tmp_path / "mine")

    assert (tmp_path / "mine" / "data" / "locomo10.json").exists()
    assert not (tmp_path / "cache").exists()


def test_a_download_of_other_bytes_leaves_nothing(published: Path, tmp_path: Path) -> None:
    published.write_bytes(published.read_bytes()[:-10])

    with pytest.raises(ChecksumError, match="cut short"):
        load_locomo()

    assert os.listdir(tmp_path / "cache" / "data") == []


def test_a_failed_download_says_how_to_place_the_file(published: Path, tmp_path: Path) -> None:
    published.unlink()

    with pytest.raises(DataError) as error:
        load_locomo()

    message = str(error.value)
    assert f"{tmp_path / 'cache' / 'data' / 'locomo10.json'}: cannot be downloaded" in message
    assert f"get {published.as_uri()} by hand and put it there" in message
    assert "\n" not in message
    assert os.listdir(tmp_path / "cache" / "data") == []


def test_a_damaged_cache_is_refused_not_used(published: Path, tmp_path: Path) -> None:
    load_locomo()
    (tmp_path / "cache" / "data" / "locomo10.json").write_text("[]", encoding="utf-8")

    with pytest.raises(ChecksumError, match="remove it and get"):
        load_locomo()


REAL = real_folder("locomo10.json")
needs_locomo = needs("locomo10.json")


@pytest.fixture(scope="module")
def real() -> list[Dialogue]:
    return load_locomo(REAL)


@needs_locomo
def test_real_counts_of_every_split_and_category(real: list[Dialogue]) -> None:
    # counted by hand from the file; the paper's split is 152 / 81 / 1,307
    assert count(real) == {
        "dialogues": 10,
        "sessions": 272,
        "turns": 5882,
        "questions": 1986,
        "categories": {"1": 282, "2": 321, "3": 96, "4": 841, "5": 446},
    }
    splits = locomo_counts(REAL)["splits"]
    assert isinstance(splits, dict)
    assert {split: (counts["questions"], counts["categories"]) for split, counts in splits.items()} == {
        "all": (1986, {"1": 282, "2": 321, "3": 96, "4": 841, "5": 446}),
        "train": (152, {"1": 32, "2": 37, "3": 13, "4": 70}),
        "validation": (81, {"1": 11, "2": 26, "4": 44}),
        "test": (1307, {"1": 239, "2": 258, "3": 83, "4": 727}),
    }


@needs_locomo
def test_real_repairs() -> None:
    assert locomo_repairs(REAL) == {
        "integer_answers": 6,
        "malformed_evidence": 6,
        "evidence_with_leading_zeros": 1,
        "evidence_without_turn": 2,
        "repeated_evidence": 1,
        "dates_without_session": 16,
        "questions_without_evidence": 4,
        "repeated_questions": 12,
    }


@needs_locomo
def test_real_dialogues_are_sound_and_show_captions_only(real: list[Dialogue], tmp_path: Path) -> None:
    write_dialogues(tmp_path / "locomo.jsonl", real)

    assert read_dialogues(tmp_path / "locomo.jsonl") == real  # ids unique, evidence exists, times and speakers valid
    turns = [turn for dialogue in real for turn in dialogue.turns()]
    assert sum("[shares a photo: " in turn.text for turn in turns) == 1226
    # D1:5 of conv-26 was found by the search "transgender pride flag mural"
    assert "mural" not in real[0].turns()[4].text


@needs_locomo
def test_real_observations_make_banks(real: list[Dialogue]) -> None:
    observations = locomo_observations(REAL)

    assert sum(map(len, observations.values())) == 2541
    assert all(noted.turn_ids for facts in observations.values() for noted in facts)
    banks = observation_banks(real[0], observations["conv-26"])
    assert (len(banks["D1:1"]), len(banks.final)) == (0, 184)


@needs_locomo
def test_real_training_tuples(real: list[Dialogue]) -> None:
    (train,) = locomo_split(real, "train")
    banks = observation_banks(train, locomo_observations(REAL)["conv-26"])

    tuples = manager_tuples(train, banks)

    linked = [item for item in tuples if item.linked]
    assert sum(len(item.linked) for item in linked) == 150  # 152 questions, 2 of them without evidence
    assert 0.3 <= 1 - len(linked) / len(tuples) < 0.31
    assert sum(bool(item.retention) for item in tuples) > len(tuples) * 0.9
    check_disjoint(tuples, [*locomo_split(real, "validation"), *locomo_split(real, "test")])


def test_names_and_splits_are_the_papers() -> None:
    assert [CATEGORY_NAMES[number]["mem0"] for number in "1234"] == [
        "single-hop",
        "temporal",
        "multi-hop",
        "open-domain",
    ]
    assert [CATEGORY_NAMES[number]["locomo"] for number in "12345"] == [
        "multi-hop",
        "temporal",
        "open-domain",
        "single-hop",
        "adversarial",
    ]
    assert sum(map(len, SPLITS.values())) == len({dialogue_id for ids in SPLITS.values() for dialogue_id in ids}) == 10
