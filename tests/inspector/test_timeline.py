"""What the page says about a log equals what the log itself folds to, and who caused it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from memory_r1.errors import StoreError
from memory_r1.inspector.timeline import Timeline
from memory_r1.types import OperationKind
from tests.inspector.stores import SAID, open_system, turns

ADD, UPDATE, DELETE, *_ = OperationKind


@pytest.mark.parametrize("seed", range(5))
def test_every_bank_equals_the_logs_fold_through_undo_redo_and_forget(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    system = open_system(tmp_path / "memory.db")
    told = iter(turns(*(f"{dice.choice(['lives in', 'has a', 'never mind'])} {n}".strip() for n in range(40))))
    for turn in told:
        text = "never mind" if turn.text.startswith("never") else turn.text
        system.observe(type(turn)(turn.turn_id, turn.speaker, text, "s1", turn.timestamp), "ann")
        if dice.random() < 0.5:
            system.log.undo("ann", dice.randint(1, 4))
        if dice.random() < 0.4:
            system.log.redo("ann", dice.randint(1, 4))
    entries = system.entries("ann")
    if entries:
        system.forget("ann", [entries[0].entry_id])
    timeline = Timeline(system.records("ann"))
    assert len(timeline) > 50
    for at in range(len(timeline) + 1):
        assert timeline.entries(at) == system.log.state("ann", at).bank.entries()
        assert timeline.size(at) == len(timeline.entries(at))
    # The edit that undo takes back is the one that the page names.
    edit = timeline.last_edit()
    assert system.log.undo("ann") == (edit is not None)
    if edit:
        assert system.records("ann")[-1].events[0].payload["target"] == edit[1].number


def test_changes_show_what_was_there_before(tmp_path: Path) -> None:
    system = open_system(tmp_path / "memory.db")
    for turn in turns("lives in Rome", "hm", "lives in Oslo", "never mind"):
        system.observe(turn, "ann")
    system.log.undo("ann")
    timeline = Timeline(system.records("ann"))
    texts = [
        [tuple(side and side.text for side in (change.before, change.after)) for change in timeline.changes(at)]
        for at in range(len(timeline) + 1)
    ]
    rome, oslo = "Ann lives in Rome", "Ann lives in Oslo"
    assert texts == [[], [(None, rome)], [], [(rome, oslo)], [(oslo, None)], [(None, oslo)]]


def test_an_entrys_versions_name_their_records_and_what_is_undone(tmp_path: Path) -> None:
    system = open_system(tmp_path / "memory.db")
    for turn in turns(*SAID):
        system.observe(turn, "ann")
    system.log.undo("ann", 3)  # the deletion, and the additions of 3 and 2
    timeline = Timeline(system.records("ann"))
    found = [(version.record, version.event.kind, version.undone) for version in timeline.versions(1)]
    assert found[:2] == [(1, ADD, False), (3, UPDATE, False)]
    added = timeline.versions(3)[0]
    assert (added.record, added.event.kind, added.undone) == (7, ADD, True)
    with pytest.raises(StoreError, match="never held the entry 9"):
        timeline.versions(9)
    with pytest.raises(StoreError, match="no record 99; allowed are 0 to 9"):
        timeline.entries(99)
