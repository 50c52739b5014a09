"""Seeded multi-session dialogues with gold memory operations and questions, small enough to train on with a CPU.

Two speakers state, refine, change, withdraw and repeat facts amid small talk. Splits share no person and no value;
held-out phrasing shares no masked 4-gram with training phrasing, which validation uses too. The words are in `phrases`
and `values`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from data.labelled import LabelledDialogue
from data.loading import Counts, count
from data.synthetic.plan import DATED, SINGLES, DialogueShape, Fact, Planner, schedule
from data.synthetic.values import NAMES
from data.synthetic.wording import Writer
from memory_r1.dialogue_file import read_dialogues
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.types import Dialogue, Operation, Question, Session, Turn

Split = Literal["train", "validation", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)

BY_NAME = ("alias", "owner")
"""Further categories of dialogues with aliases."""
CATEGORIES = ("recall", "update", "deletion", "temporal", "multi-hop", "unanswerable")

UNKNOWN = "unknown"
"""Gold answer of an unanswerable question."""

DEMO_SHAPE = DialogueShape()
ALIASES = DialogueShape(turns=24, aliases=True)
TWO_HOP = DialogueShape(turns=24, questions=6, aliases=True, two_hop=True)
SHAPES = {"synthetic": DEMO_SHAPE, "synthetic-aliases": ALIASES, "synthetic-two-hop": TWO_HOP}
"""The shapes of generated dialogues, by name of the data set."""

MAX_WORDS = 25
"""Longest turn, in words."""

# Before the months of the split's dates, so that planned events lie in the future.
_FIRST_DAY = {"train": "2023-10-02", "validation": "2023-04-03", "heldout": "2023-07-03"}
_ATTEMPTS = 300


def generate_split(
    split: Split, n_dialogues: int, seed: int, shape: DialogueShape = DEMO_SHAPE
) -> list[LabelledDialogue]:
    """Generate dialogues of one split; the same arguments give the same dialogues in every process.

    Raises:
        ConfigurationError: no such split, the shape holds fewer than three times `recalled` facts, or cannot be filled.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"split={split!r}, allowed: {', '.join(SPLITS)}")
    if n_dialogues < 1:
        raise ConfigurationError(f"n_dialogues={n_dialogues}, allowed: at least 1")
    shape.check()
    return [_first_fitting(split, f"synthetic-{split}-{seed}-{number}", shape) for number in range(n_dialogues)]


def _first_fitting(split: Split, dialogue_id: str, shape: DialogueShape) -> LabelledDialogue:
    rng = random.Random(dialogue_id)
    for _ in range(_ATTEMPTS):
        drawn = _draw(split, dialogue_id, shape, rng)
        if drawn is not None:
            return drawn
    raise ConfigurationError(f"{shape} cannot be filled; allow more turns, fewer facts or fewer questions")


def _draw(split: Split, dialogue_id: str, shape: DialogueShape, rng: random.Random) -> LabelledDialogue | None:
    """Draw one dialogue; return None if it does not fit the shape."""
    first, second = rng.sample(NAMES[split], 2)
    speakers = (first, second)
    planner = Planner(split, speakers, rng)
    facts = planner.facts(shape.facts)
    if shape.aliases:
        facts = [*facts, *planner.told_by_name()]
    plan = schedule(facts, speakers, shape, rng)
    if plan is None or not all(plan):
        return None
    writer = Writer(split, speakers, rng)
    gold: dict[str, tuple[Operation, ...]] = {}
    sessions = []
    now = datetime.fromisoformat(_FIRST_DAY[split]) + timedelta(days=rng.randrange(14), hours=rng.randrange(9, 20))
    for number, groups in enumerate(plan, 1):
        session_id, turns = f"s{number}", []
        for position, (speaker, group) in enumerate(groups, 1):
            turn_id = f"{session_id}:{position}"
            text, gold[turn_id] = writer.turn(group, turn_id, speaker)
            turns.append(Turn(turn_id, speaker, text, session_id, now.isoformat()))
        sessions.append(Session(session_id, now.isoformat(), tuple(turns)))
        now += timedelta(days=rng.randint(1, max(1, 60 // shape.sessions)), minutes=rng.randrange(0, 240, 5))
    drafts = _drafts(facts, writer, shape, rng)
    order = {turn_id: place for place, turn_id in enumerate(gold)}
    questions = tuple(draft.question(f"{dialogue_id}-q{i}", order, now) for i, draft in enumerate(drafts, 1))
    dialogue = Dialogue(dialogue_id, speakers, tuple(sessions), questions)
    return LabelledDialogue(dialogue, gold) if _acceptable(dialogue, shape) else None


def _acceptable(dialogue: Dialogue, shape: DialogueShape) -> bool:
    turns = dialogue.turns()
    used = {turn_id for question in dialogue.questions for turn_id in question.evidence}
    enough_idle = len(turns) - len(used) >= shape.min_idle * len(turns)
    short = all(len(turn.text.split()) <= MAX_WORDS for turn in turns)
    return enough_idle and short and len(dialogue.questions) == shape.questions


@dataclass(frozen=True, slots=True)
class _Draft:
    """A question before it has its id."""

    category: str
    text: str
    answer: str
    evidence: tuple[str, ...] = ()

    def question(self, question_id: str, order: Mapping[str, int], asked_at: datetime) -> Question:
        evidence = tuple(sorted(set(self.evidence), key=order.__getitem__))
        return Question(question_id, self.text, self.answer, self.category, evidence, asked_at.isoformat())


def _drafts(facts: Sequence[Fact], writer: Writer, shape: DialogueShape, rng: random.Random) -> list[_Draft]:
    """Draft the shape's questions: per dozen one unanswerable and one multi-hop, the rest one per fact.

    With aliases, each pet adds two questions to the hard ones; two-hop questions are these and multi-hop ones.
    """
    each = shape.questions // 12
    if shape.two_hop:
        chosen = [*_by_name(facts, writer, rng), *_multi_hop(facts, writer, rng)][: shape.questions]
        return rng.sample(chosen, len(chosen))
    hard = [*_take(_unanswerable(facts, writer, rng), each), *_take(_multi_hop(facts, writer, rng), max(1, each))]
    if shape.aliases:
        hard += _by_name(facts, writer, rng)
    plain = [_plain(fact, writer) for fact in facts if fact.asked]
    # Questions about changed facts come first: a memory exists for them.
    plain.sort(key=lambda draft: (draft.category == "recall", rng.random()))
    chosen = (hard + plain)[: shape.questions]
    return rng.sample(chosen, len(chosen))


def _take(drafts: Iterator[_Draft], count: int) -> list[_Draft]:
    return [draft for draft, _ in zip(drafts, range(count), strict=False)]


def _plain(fact: Fact, writer: Writer) -> _Draft:
    """Draft the question on one fact, with its answer at the end of the dialogue."""
    text = writer.question(fact, fact.pet_name if fact.of else fact.speaker)
    if fact.kept_after is not None:
        return _Draft("deletion", text, fact.value, (fact.turn_ids[0], fact.kept_after.turn_ids[-1]))
    newest = (fact.turn_ids[-1],)
    if fact.attribute in DATED:
        return _Draft("temporal", text, fact.new if fact.then == "c" else fact.date, newest)
    if fact.attribute == "pet":
        return _Draft("recall", text, fact.pet_name, newest)
    return _Draft("update" if fact.then == "c" else "recall", text, fact.current, newest)


def _multi_hop(facts: Sequence[Fact], writer: Writer, rng: random.Random) -> Iterator[_Draft]:
    """Draft questions that name the person by one fact and ask for another, or ask which animal a pet is."""
    pets = [fact for fact in facts if fact.attribute == "pet" and fact.then == "r"]
    if pets and rng.random() < 0.3:
        pet = rng.choice(pets)
        yield _Draft("multi-hop", writer.question(pet, pet.speaker, "k"), pet.value, tuple(pet.turn_ids))
    targets = [fact for fact in facts if fact.attribute in SINGLES and fact.asked]
    anchors = [*(fact for fact in facts if fact.attribute in SINGLES), *pets]
    pairs = [(a, t) for a in anchors for t in targets if a is not t and a.speaker == t.speaker]
    for anchor, target in rng.sample(pairs, len(pairs)):
        text = writer.question(target, writer.person_with(anchor))
        anchored = anchor.turn_ids[0 if anchor in pets else -1]  # a pet's name does not tell its animal
        yield _Draft("multi-hop", text, target.current, (anchored, target.turn_ids[-1]))


def _by_name(facts: Sequence[Fact], writer: Writer, rng: random.Random) -> Iterator[_Draft]:
    """Draft two questions per pet whose answer takes its name: where the pet sleeps, and something about its owner."""
    for den in (fact for fact in facts if fact.of):
        pet = den.of
        assert pet is not None
        named = pet.turn_ids[-1]
        yield _Draft("alias", writer.question(den, writer.pet_of(pet)), den.value, (named, den.turn_ids[0]))
        targets = [fact for fact in facts if fact.attribute in SINGLES and fact.asked and fact.speaker == pet.speaker]
        for target in rng.sample(targets, min(1, len(targets))):
            text = writer.question(target, writer.owner_of(pet))
            yield _Draft("owner", text, target.current, (named, target.turn_ids[-1]))


def _unanswerable(facts: Sequence[Fact], writer: Writer, rng: random.Random) -> Iterator[_Draft]:
    """Draft questions about facts that only the other speaker has stated, which are their distractors."""
    told = {(fact.speaker, fact.attribute) for fact in facts}
    speakers = sorted({fact.speaker for fact in facts})
    lone = [(f, s) for f in facts for s in speakers if f.attribute in SINGLES and (s, f.attribute) not in told]
    for fact, speaker in rng.sample(lone, len(lone)):
        yield _Draft("unanswerable", writer.question(fact, speaker), UNKNOWN)


def counts_of_path(path: Path) -> Counts:
    """Count the splits of a folder, or one JSONL file, whose name is the split."""
    files = [path / f"{split}.jsonl" for split in SPLITS] if path.is_dir() else [path]
    found = [file for file in files if file.is_file()]
    if not found:
        raise DataError(f"{path}: holds none of {', '.join(f'{split}.jsonl' for split in SPLITS)}; generate it again")
    return {"benchmark": "synthetic", "splits": {file.stem: count(read_dialogues(file)) for file in found}}
