"""Generated dialogues of written scenes: natural talk with its gold memory operations, for a manager's warm start.

The templates of `generator` state facts in a few hundred ways. The scenes in `phrases/scenes_*.txt` are worded as
people chat: facts between jokes, over two messages, several in one, or about somebody else. A dialogue deals the parts
of some scenes out to its sessions and draws their names, values and dates.

A scene is a block of lines: `A:` and `B:` talk, `+` adds an entry, `~1` rewords the scene's first entry, `-1` deletes
it, and `==` begins a part of a later session. `{shop=Blue Door|Old Mill}` draws a value, and `{shop}` repeats it; `{a}`
and `{b}` are the speakers, `{date}` and `{date2}` days of the coming months, and `{day+1}` and `{friday}` days counted
from the session's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import count
from pathlib import Path

from data.everyday.relative_dates import written
from data.labelled import LabelledDialogue
from data.synthetic.values import NAMES
from data.synthetic.wording import talk
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.types import Dialogue, Operation, OperationKind, Session, Turn

SCENES, SESSIONS = 12, 4
"""Scenes and sessions of a dialogue."""
_HELD_OUT = 10  # every tenth scene validates, and trains nothing
_MAX_WORDS = 60  # of a turn that two parts share
_FILES = sorted((Path(__file__).parent / "phrases").glob("scenes_*.txt"))
_FIRST_DAY = datetime.fromisoformat("2023-02-06")
_SLOT = re.compile(r"\{(\w+?)(?:=([^{}]+)|([+-]\d+))?\}")
_OPERATION = re.compile(r"(?:(\+)|~(\d+)) (.+)|-(\d+)")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_KINDS = {"+": OperationKind.ADD, "~": OperationKind.UPDATE, "-": OperationKind.DELETE}


@dataclass(frozen=True, slots=True)
class Line:
    """A message of a scene.

    Attributes:
        speaker: "a" or "b".
        text: What is said, with slots.
        operations: The kind, the number of the scene's entry (from 1; an ADD makes the next), and the text with slots.
    """

    speaker: str
    text: str
    operations: tuple[tuple[OperationKind, int, str], ...]


Part = tuple[Line, ...]
"""Consecutive messages of one session."""
Scene = tuple[Part, ...]
"""At most as many parts as a dialogue has sessions."""


@lru_cache
def scenes() -> tuple[Scene, ...]:
    """Return all scenes, each with its parts.

    Raises:
        DataError: A line is none of a scene, or names an entry that the scene has not made.
    """
    return tuple(
        _scene(path, block) for path in _FILES for block in path.read_text(encoding="utf-8").strip().split("\n\n")
    )


def generate_scenes(split: str, n_dialogues: int, seed: int) -> list[LabelledDialogue]:
    """Generate dialogues of scenes, without questions; the same arguments give the same dialogues in every process.

    Raises:
        ConfigurationError: `split` is neither "train" nor "validation".
    """
    if split not in ("train", "validation"):
        raise ConfigurationError(f"split={split!r}, allowed for scenes: train, validation")
    chosen = [scene for number, scene in enumerate(scenes()) if (number % _HELD_OUT == 0) == (split == "validation")]
    dealt = _endlessly(chosen, random.Random(f"scenes-{split}-{seed}"))
    return [
        _dialogue(split, f"scenes-{split}-{seed}-{number}", [next(dealt) for _ in range(SCENES)])
        for number in range(n_dialogues)
    ]


def _scene(path: Path, block: str) -> Scene:
    parts: list[list[Line]] = [[]]
    made, known = 0, {"a", "b", "date", "date2", "day", *_WEEKDAYS}
    for text in block.strip().splitlines():
        known |= {name for name, options, _ in _SLOT.findall(text) if options}
        if unknown := {name for name, _, _ in _SLOT.findall(text)} - known:
            raise DataError(f"{path}: {text!r} has {{{min(unknown)}}}, whose options no line before gives")
        if text == "==":
            parts.append([])
        elif text[:3] in ("A: ", "B: "):
            parts[-1].append(Line(text[0].lower(), text[3:], ()))
        elif (found := _OPERATION.fullmatch(text)) and parts[-1]:
            made += text[0] == "+"
            number = made if text[0] == "+" else int(found[2] or found[4])
            if not 1 <= number <= made:
                raise DataError(f"{path}: {text!r} names entry {number} of a scene that has made {made}")
            last = parts[-1].pop()
            operation = (_KINDS[text[0]], number, found[3] or "")
            parts[-1].append(Line(last.speaker, last.text, (*last.operations, operation)))
        else:
            raise DataError(f"{path}: {text!r} is no line of a scene; data/synthetic/scenes.py says what is")
    if len(parts) > SESSIONS or not all(parts):
        raise DataError(
            f"{path}: {block.splitlines()[0]!r} begins a scene of {len(parts)} parts; allowed are {SESSIONS}"
        )
    return tuple(map(tuple, parts))


def _endlessly(chosen: Sequence[Scene], rng: random.Random) -> Iterator[Scene]:
    """Deal the scenes in a random order, and again in another once all are dealt.

    Those in which nothing is to be remembered come half as often, since every scene has such turns.
    """
    while True:
        for scene in rng.sample(chosen, len(chosen)):
            if any(line.operations for part in scene for line in part) or rng.random() < 0.5:
                yield scene


@dataclass(frozen=True, slots=True)
class _Message:
    """Who says what, and what is to be remembered of it."""

    speaker: str
    text: str
    operations: tuple[Operation, ...] = ()


@dataclass
class _Telling:
    """One scene as it is told in one dialogue: who is who, the drawn values, and the ids of its entries."""

    names: dict[str, str]
    values: dict[str, str]
    ids: dict[int, int] = field(default_factory=dict)

    def message(self, line: Line, today: date, made: Iterator[int], rng: random.Random) -> _Message:
        """Return a line as it is told `today`; `made` numbers the entries of the dialogue."""
        text = self._fill(line.text, today, rng)
        operations = []
        for kind, number, entry in line.operations:
            told = self._fill(entry, today, rng) or None
            if kind is OperationKind.ADD:
                self.ids[number] = next(made)
            operations.append(Operation(kind, told, None if kind is OperationKind.ADD else self.ids[number]))
        return _Message(self.names[line.speaker], text, tuple(operations))

    def _fill(self, text: str, today: date, rng: random.Random) -> str:
        """Fill the slots of a text, drawing what is drawn for the first time."""

        def value(slot: re.Match[str]) -> str:
            name, options, days = slot.groups()
            if name == "day":
                return written(today + timedelta(days=int(days or 0)))
            if name in _WEEKDAYS:
                return written(today + timedelta(days=(_WEEKDAYS.index(name) - today.weekday()) % 7 or 7))
            if options and name not in self.values:
                self.values[name] = rng.choice(options.split("|"))
            return self.names.get(name) or self.values[name]

        filled = _SLOT.sub(value, text)
        return filled[:1].upper() + filled[1:]


def _dialogue(split: str, dialogue_id: str, told: Sequence[Scene]) -> LabelledDialogue:
    rng = random.Random(dialogue_id)
    first, second = rng.sample(NAMES[split], 2)
    speakers = (first, second)
    now = _FIRST_DAY + timedelta(days=rng.randrange(300), hours=rng.randrange(8, 21))
    coming = [written(now.date() + timedelta(days=days)) for days in rng.sample(range(50, 170), 2 * len(told))]
    tellings = [
        _Telling(dict(zip("ab", rng.sample(speakers, 2), strict=True)), {"date": day, "date2": other})
        for day, other in zip(coming[::2], coming[1::2], strict=True)
    ]
    made = count(1)
    gold: dict[str, tuple[Operation, ...]] = {}
    sessions = []
    for number, parts in enumerate(_dealt(told, rng), 1):
        session_id, turns = f"s{number}", []
        parts_told = ([tellings[scene].message(line, now.date(), made, rng) for line in part] for scene, part in parts)
        for position, message in enumerate(_joined(parts_told, speakers, talk(split), rng), 1):
            turn_id = f"{session_id}:{position}"
            gold[turn_id] = message.operations or (Operation(OperationKind.NOOP),)
            turns.append(Turn(turn_id, message.speaker, message.text, session_id, now.isoformat()))
        sessions.append(Session(session_id, now.isoformat(), tuple(turns)))
        now += timedelta(days=rng.randint(4, 20), minutes=rng.randrange(0, 240, 5))
    return LabelledDialogue(Dialogue(dialogue_id, speakers, tuple(sessions), ()), gold)


def _dealt(told: Sequence[Scene], rng: random.Random) -> list[list[tuple[int, Part]]]:
    """Return for each session the parts told in it, with the place of their scene; those of one scene stay in order."""
    sessions: list[list[tuple[int, Part]]] = [[] for _ in range(SESSIONS)]
    for place, parts in enumerate(told):
        chosen = sorted(rng.sample(range(SESSIONS), len(parts)))
        for session, part in zip(chosen, parts, strict=True):
            sessions[session].append((place, part))
    return [rng.sample(parts, len(parts)) for parts in sessions if parts]


def _joined(
    parts: Iterable[Sequence[_Message]], speakers: tuple[str, str], chat: Sequence[str], rng: random.Random
) -> list[_Message]:
    """Return the messages of a session; where one part ends and the next begins with the same speaker, one turn says
    both, or the other chats between them."""
    messages: list[_Message] = []
    for part in parts:
        for message in part:
            last = messages[-1] if messages else None
            if last is None or last.speaker != message.speaker:
                messages.append(message)
            elif len(f"{last.text} {message.text}".split()) <= _MAX_WORDS and rng.random() < 0.85:
                both = (*last.operations, *message.operations)
                messages[-1] = _Message(message.speaker, f"{last.text} {message.text}", both)
            else:
                other = speakers[speakers[0] == message.speaker]
                messages += [_Message(other, rng.choice(chat).format(o=message.speaker)), message]
    return messages
