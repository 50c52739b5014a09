"""Training and validation dialogues of a dataset, with any labels; the two never share a dialogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.banks import Observation
from data.everyday import load_everyday
from data.locomo import load_locomo, locomo_observations, locomo_split
from data.synthetic.generator import SHAPES, generate_split
from data.synthetic.scenes import generate_scenes
from data.tuples import check_disjoint
from memory_r1.dialogue_file import read_dialogues
from memory_r1.errors import DataError
from memory_r1.types import Dialogue, Operation


@dataclass(frozen=True, slots=True)
class Source:
    """A dialogue with its gold operations (by turn id) or noted observations, if the data has them."""

    dialogue: Dialogue
    gold: Mapping[str, tuple[Operation, ...]] | None = None
    observations: tuple[Observation, ...] = ()


def training_sources(
    dataset: str, *, seed: int, first: int, count: int | None, validation: int
) -> tuple[list[Source], list[Source]]:
    """Return the training and validation dialogues of a dataset.

    Args:
        dataset: "synthetic" and its other shapes ("synthetic-aliases", "synthetic-two-hop"), "scenes" (without
            questions), "everyday" (without gold operations; "everyday-labelled" has them), "locomo" (the paper's split:
            conv-26 trains, conv-30 validates) or a JSONL file, whose last `validation` dialogues validate. Several
            joined by "+" each give an equal part of `count` and `validation`.
        seed: Seed of the synthetic generator.
        first: Index of the first training dialogue.
        count: Number of training dialogues; None for all (required for synthetic).
        validation: Number of validation dialogues.

    Raises:
        DataError: There are too few dialogues.
    """
    if "+" in dataset and not Path(dataset).is_file():
        names = dataset.split("+")
        each = [
            training_sources(
                name,
                seed=seed,
                first=first,
                count=None if count is None else count // len(names),
                validation=validation // len(names),
            )
            for name in names
        ]
        return [item for train, _ in each for item in train], [item for _, held in each for item in held]
    if dataset in (*SHAPES, "scenes"):
        if count is None:
            raise DataError(f"dataset {dataset!r} has no end: set train_dialogues")
        generate = generate_scenes if dataset == "scenes" else partial(generate_split, shape=SHAPES[dataset])
        generated = [generate("train", first + count, seed)[first:], generate("validation", validation, seed)]
        train, held = ([Source(item.dialogue, item.gold) for item in split] for split in generated)
        return train, held
    if dataset in ("everyday", "everyday-labelled"):
        chats = [load_everyday(split) for split in ("train", "validation")]
        gold = dataset == "everyday-labelled"
        parts = [[Source(chat.dialogue, chat.gold if gold else None) for chat in split] for split in chats]
        return parts[0][first:][:count], parts[1][:validation]
    if dataset == "locomo":
        dialogues = load_locomo()
        observations = locomo_observations()
        splits = [
            [
                Source(dialogue, observations=tuple(observations[dialogue.dialogue_id]))
                for dialogue in locomo_split(dialogues, split)
            ]
            for split in ("train", "validation")
        ]
        return splits[0][first:][:count], splits[1][:validation]
    dialogues = read_dialogues(Path(dataset))
    if len(dialogues) < first + validation + 1:
        raise DataError(
            f"{dataset}: found {len(dialogues)} dialogues, needed at least {first + validation + 1} for "
            f"first_dialogue {first} and validation_dialogues {validation}; give more dialogues or lower them"
        )
    cut = len(dialogues) - validation
    train = [Source(dialogue) for dialogue in dialogues[first:cut][:count]]
    held = [Source(dialogue) for dialogue in dialogues[cut:]]
    check_disjoint([item.dialogue for item in train], [item.dialogue for item in held])
    return train, held
