"""Scenes become dialogues whose gold operations replay, stand on what was said, and share no wording with the tests."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from data.banks import gold_banks
from data.everyday import load_everyday
from data.everyday.checks import masked_grams
from data.sources import training_sources
from data.synthetic import scenes
from data.synthetic.scenes import generate_scenes
from memory_r1.errors import DataError
from memory_r1.types import OperationKind

BY_SPLIT = {split: generate_scenes(split, number, 0) for split, number in (("train", 40), ("validation", 10))}
TOLD = [item for items in BY_SPLIT.values() for item in items]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def test_gold_operations_replay_and_use_the_words_that_were_said() -> None:
    shares = []
    for item in TOLD:
        banks = gold_banks(item.dialogue, item.gold)
        before = words(" ".join(item.dialogue.speakers))
        for turn in item.dialogue.turns():
            known = before | words(turn.text) | words(" ".join(entry.text for entry in banks[turn.turn_id]))
            for operation in item.gold[turn.turn_id]:
                if operation.text:
                    content = {word for word in words(operation.text) if len(word) > 3}
                    shares.append(len(content & known) / max(1, len(content)))
            before = words(" ".join(item.dialogue.speakers)) | words(turn.text)
    assert sum(shares) / len(shares) > 0.75


def test_every_kind_of_operation_occurs_and_a_third_of_the_turns_changes_nothing() -> None:
    kinds = [operation.kind for item in TOLD for operations in item.gold.values() for operation in operations]
    assert {*kinds} == {*OperationKind} - {OperationKind.LINK, OperationKind.ABSTRACT}
    assert 0.25 < kinds.count(OperationKind.NOOP) / sum(len(item.gold) for item in TOLD) < 0.6


def test_the_speakers_of_a_dialogue_take_turns() -> None:
    for item in TOLD:
        for session in item.dialogue.sessions:
            said = [turn.speaker for turn in session.turns]
            assert all(speaker != after for speaker, after in pairwise(said))


def test_a_seed_draws_the_same_dialogues_and_validation_holds_out_whole_scenes() -> None:
    assert generate_scenes("train", 2, 3) == generate_scenes("train", 3, 3)[:2]
    assert generate_scenes("train", 1, 3) != generate_scenes("train", 1, 4)
    train, validation = (masked_grams(items, 8) for items in BY_SPLIT.values())
    assert len(validation & train) / len(validation) < 0.05  # small talk between scenes is the same


@pytest.mark.parametrize("split", ["validation", "test"])
def test_everyday_chats_are_worded_otherwise(split: str) -> None:
    grams = masked_grams(load_everyday(split))
    assert len(grams & masked_grams(TOLD)) / len(grams) < 0.01


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("A: I moved.\n+ {a} lives in {town}", "town"),
        ("A: I moved.\n~2 {a} moved", "entry 2 of a scene that has made 0"),
        ("A: I moved.\nNo line", "is no line of a scene"),
        ("A: I moved.\n==\n==\nB: Did you?", "3 parts"),
    ],
)
def test_a_bad_scene_is_refused(text: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scenes_bad.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(scenes, "_FILES", [tmp_path / "scenes_bad.txt"])
    scenes.scenes.cache_clear()
    with pytest.raises(DataError, match=re.escape(complaint)):
        scenes.scenes()
    scenes.scenes.cache_clear()


def test_datasets_are_joined_in_equal_parts() -> None:
    train, validation = training_sources("synthetic+scenes", seed=0, first=0, count=6, validation=2)
    assert [source.dialogue.dialogue_id.split("-")[0] for source in train] == ["synthetic"] * 3 + ["scenes"] * 3
    assert len(validation) == 2
