"""Draft questions, answers and evidence from the turns of a dialogue with a language model.

No rules stand in for the model: a reply that does not parse is counted and yields no question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from memory_r1.agents.prompts import date_of
from memory_r1.systems.writer import Writer, WritingTask, count_writings, object_of
from memory_r1.types import Dialogue, Session, Turn

CATEGORIES = ("recall", "update", "deletion", "temporal", "multi-hop")
MAX_QUESTIONS = 6
WINDOW = 6
"""Default number of turns that are read at once."""

DRAFT = WritingTask(
    "draft",
    "Write questions that someone may ask weeks later about lasting facts in these turns, at most one a fact. Name the "
    "person in each question, copy a short answer from the turns, and give the numbers of the turns that tell it. "
    "Reply with JSON only: "
    '{"questions": [{"question": "What is Kim\'s goat called?", "answer": "Gus", "category": "recall", '
    '"evidence": [2]}]} or {"questions": []}.',
    object_of(
        {
            "questions": {
                "type": "array",
                "items": object_of(
                    {
                        "question": {"type": "string", "minLength": 1, "maxLength": 300},
                        "answer": {"type": "string", "minLength": 1, "maxLength": 200},
                        "category": {"type": "string", "enum": CATEGORIES},
                        "evidence": {"type": "array", "items": {"type": "integer"}, "maxItems": 4},
                    }
                ),
                "maxItems": MAX_QUESTIONS,
            }
        }
    ),
    max_new_tokens=384,
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafted question. `evidence` holds turn ids in dialogue order, `flags` the reasons for which it is rejected."""

    question: str
    answer: str
    category: str
    evidence: tuple[str, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drafted:
    """The drafts of one dialogue.

    `windows` counts what was read: `cut` of them exceeded the model's own window and lost their first lines, and the
    replies to `unparsed` of them did not parse.
    """

    dialogue_id: str
    windows: int
    unparsed: int
    cut: int
    drafts: tuple[Draft, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a row that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        drafts = (
            Draft(**{**draft, "evidence": tuple(draft["evidence"]), "flags": tuple(draft["flags"])})
            for draft in row["drafts"]
        )
        return cls(row["dialogue_id"], row["windows"], row["unparsed"], row["cut"], tuple(drafts))


def windows(dialogue: Dialogue, most: int = WINDOW) -> list[tuple[Turn, ...]]:
    """Cut each session into parts of at most `most` turns, as equal as possible."""
    return [part for session in dialogue.sessions for part in _parts(session, most)]


def window_lines(window: Sequence[Turn]) -> list[str]:
    """Return the lines that a drafter reads: the day, and the turns with their numbers from 1."""
    turns = [f"{number}. {turn.speaker}: {' '.join(turn.text.split())}" for number, turn in enumerate(window, start=1)]
    return [date_of(window[0].timestamp), *turns]


class Drafter:
    """Drafts with a language model, greedily.

    Args:
        writer: Holds the model, local or behind a server.
        window: Most turns that are read at once.
    """

    def __init__(self, writer: Writer, window: int = WINDOW) -> None:
        self.writer = writer
        self.window = window

    def draft(self, dialogues: Sequence[Dialogue]) -> list[Drafted]:
        """Draft questions for each dialogue, in one batch.

        Raises:
            EndpointError: The model's server gives no reply.
        """
        read = [windows(dialogue, self.window) for dialogue in dialogues]
        texts = [window_lines(window) for parts in read for window in parts]
        written = iter(self.writer.write(DRAFT, texts, [{"questions": []}] * len(texts)))
        drafted = []
        for dialogue, parts in zip(dialogues, read, strict=True):
            unparsed, cut, drafts = 0, 0, []
            for window in parts:
                writing = next(written)
                unparsed += count_writings([writing.record])["written_by_rules"]
                cut += writing.record.cut > 0
                drafts += [_draft(item, window) for item in writing.value["questions"]]
            drafted.append(Drafted(dialogue.dialogue_id, len(parts), unparsed, cut, tuple(drafts)))
        return drafted


def _draft(item: Mapping[str, Any], window: Sequence[Turn]) -> Draft:
    """Return one drafted question; numbers of no turn are dropped from its evidence."""
    numbers = sorted({number for number in item["evidence"] if 1 <= number <= len(window)})
    evidence = tuple(window[number - 1].turn_id for number in numbers)
    question, answer = (" ".join(item[name].split()) for name in ("question", "answer"))
    return Draft(question, answer, item["category"], evidence)


def _parts(session: Session, most: int) -> Iterator[tuple[Turn, ...]]:
    turns = session.turns
    count = -(-len(turns) // most)
    for part in range(count):
        yield turns[part * len(turns) // count : (part + 1) * len(turns) // count]
