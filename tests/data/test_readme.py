"""The counts in data/README.md match the recipes' dialogues and the generator."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.floors import floors
from data.labelled import LabelledDialogue
from data.synthetic.generator import CATEGORIES, Split, generate_split
from memory_r1.types import OperationKind
from recipes.benchmarks import SYNTHETIC_DIALOGUES

ROOT = Path(__file__).parents[2]
README = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
RECIPES = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "recipes" / "smollm2-135m").glob("*.yaml"))
}
COLUMNS = ("SFT", "validation", "held out")


def used() -> dict[str, tuple[Split, int, int]]:
    generated = [recipe for recipe in RECIPES.values() if recipe["dataset"] == "synthetic"]
    generated.remove(drafter := RECIPES["drafter_sft"])
    assert f"drafter's {drafter['train_dialogues']} and {drafter['validation_dialogues']}" in README
    (train,) = {recipe["train_dialogues"] for recipe in generated}  # all others use the same
    (validation,) = {recipe["validation_dialogues"] for recipe in generated}
    return {
        "SFT": ("train", 0, train),
        "validation": ("validation", 0, validation),
        "held out": ("heldout", 0, SYNTHETIC_DIALOGUES),
    }


@cache
def dialogues(split: Split, first: int, end: int) -> tuple[LabelledDialogue, ...]:
    return tuple(generate_split(split, end, 0)[first:])


def table() -> dict[str, dict[str, str]]:
    """Read the table's cells by column and row."""
    start = README.index("| | SFT | validation |")
    lines = README[start : README.index("\n\n", start)].splitlines()
    header, _, *rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    return {name: {row[0]: row[column] for row in rows} for column, name in enumerate(header) if name}


def counts(items: tuple[LabelledDialogue, ...]) -> dict[str, str]:
    parts = [item.dialogue for item in items]
    kinds = Counter(operation.kind for item in items for gold in item.gold.values() for operation in gold)
    questions = Counter(question.category for part in parts for question in part.questions)
    evidence = [len({turn_id for question in part.questions for turn_id in question.evidence}) for part in parts]
    order = (OperationKind.ADD, OperationKind.UPDATE, OperationKind.DELETE, OperationKind.NOOP)
    numbers: dict[str, Any] = {
        "dialogues": len(parts),
        "sessions": sum(len(part.sessions) for part in parts),
        "turns": sum(len(part.turns()) for part in parts),
        "turns that are evidence": sum(evidence),
        "gold ADD / UPDATE / DELETE / NOOP": " / ".join(str(kinds[kind]) for kind in order),
        "questions": questions.total(),
        **{category: questions[category] for category in CATEGORIES},
    }
    return {name: str(number) for name, number in numbers.items()}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_table_counts_the_dialogues_that_the_recipes_use(column: str) -> None:
    split, first, end = used()[column]
    expected = {"split and dialogues": f"{split}, {first} to {end - 1}", **counts(dialogues(split, first, end))}
    assert table()[column] == expected


def test_the_floors_are_those_of_the_held_out_dialogues() -> None:
    found = re.search(
        r"on the twenty held-out dialogues .* always \"unknown\", which is also the commonest answer .*?, (0\.\d+); "
        r"the whole turn that shares most words with the question, (0\.\d+)\. That turn contains the answer for (\d+)%",
        " ".join(README.split()),
    )
    assert found and SYNTHETIC_DIALOGUES == 20
    heldout, train = ([item.dialogue for item in dialogues(*used()[column])] for column in ("held out", "SFT"))
    worth = floors(heldout, train)
    assert found[1] == f"{worth['none']:.3f}" == f"{worth['most_frequent']:.3f}"
    assert (found[2], f"{found[3]}%") == (f"{worth['newest_turn_f1']:.3f}", f"{worth['newest_turn_holds']:.0%}")
