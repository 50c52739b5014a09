"""The records shared by every other module: frozen, plain data without torch or faiss. Read it as a glossary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class OperationKind(StrEnum):
    """The operations a Memory Manager can apply to the bank: Memory-R1's (section 3.1), and two of graphs alone."""

    ADD = "ADD"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    NOOP = "NOOP"
    LINK = "LINK"
    """Two entities are one."""
    ABSTRACT = "ABSTRACT"
    """A summary over entries."""


FLAT_KINDS = (OperationKind.ADD, OperationKind.UPDATE, OperationKind.DELETE, OperationKind.NOOP)
"""The operations of a bank of texts."""
ADDING = (OperationKind.ADD, OperationKind.LINK, OperationKind.ABSTRACT)
"""The operations that make a new entry."""


PREVIOUS_TURNS = 2
"""Number of earlier turns of the same session shown to the Memory Manager."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. `timestamp` is ISO 8601 and defaults to the session's."""

    turn_id: str
    speaker: str
    text: str
    session_id: str = ""
    timestamp: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """The turns of one sitting, in order."""

    session_id: str
    timestamp: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a dialogue, asked at `asked_at` (ISO 8601; empty means after the last session).

    `evidence` holds the ids of the turns that support `answer`, in dialogue order; empty for unanswerable questions.
    """

    question_id: str
    question: str
    answer: str
    category: str
    evidence: tuple[str, ...] = ()
    asked_at: str = ""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A multi-session dialogue and the questions about it."""

    dialogue_id: str
    speakers: tuple[str, ...]
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...] = ()

    def turns(self) -> tuple[Turn, ...]:
        """Return all turns in dialogue order."""
        return tuple(turn for session in self.sessions for turn in session.turns)

    def previous_turns(self) -> dict[str, tuple[Turn, ...]]:
        """Map each turn id, in dialogue order, to the last `PREVIOUS_TURNS` turns before it in its session."""
        return {
            turn.turn_id: session.turns[max(0, position - PREVIOUS_TURNS) : position]
            for session in self.sessions
            for position, turn in enumerate(session.turns)
        }


SAME_AS = "is the same as"
"""The relation of an edge that makes two entities one."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A fact as an edge between two entities; `time`, in any words, is when it holds or happens."""

    subject: str
    relation: str
    object: str
    time: str = ""

    @property
    def text(self) -> str:
        """The edge as a sentence; a relation such as "'s home is" joins its subject without a blank."""
        blank = "" if self.relation.startswith("'s ") else " "
        return f"{self.subject}{blank}{self.relation} {self.object}{f', {self.time}' if self.time else ''}"


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """One live memory: its text, its speaker and source turns, and when it was said (ISO 8601).

    In a graph, `edge` is what the text says, and a summary is `over` the entries with these ids.
    """

    entry_id: int
    text: str
    speaker: str
    timestamp: str
    source_turn_ids: tuple[str, ...] = ()
    edge: Edge | None = None
    over: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One edit to the bank. Only UPDATE and DELETE have an `entry_id`; `text` is None for DELETE and NOOP.

    In a graph, an ADD, UPDATE or LINK has the `edge` that its text says, and an ABSTRACT is `over` entries.
    """

    kind: OperationKind
    text: str | None = None
    entry_id: int | None = None
    edge: Edge | None = None
    over: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Recall:
    """The memories that a memory system returns for a query.

    `items` are in prompt order. `text` is their block of the prompt; if empty, the items are rendered. `usage` maps
    each kind of cost to its count, e.g. `{"tokens": 120}`. `latents` are memory tokens, oldest first: each a vector
    among the Answer Agent's input embeddings, as float32 bytes; they stand where `text` has `LATENTS`. `scope` is the
    one recalled from, where feedback belongs.
    """

    items: tuple[MemoryEntry, ...]
    text: str = ""
    usage: Mapping[str, float] = field(default_factory=dict)
    latents: tuple[bytes, ...] = ()
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The Answer Agent's reply: its final answer, the ids of the distilled entries, and the whole completion."""

    text: str
    distilled: tuple[int, ...]
    completion: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ManagerTuple:
    """Training unit of the Memory Manager: a turn, the bank before it, and the questions that score the bank after it.

    `previous` holds up to `PREVIOUS_TURNS` earlier turns of the session. `linked` questions have `turn` as their last
    evidence turn; `retention` questions ask about facts already in `bank`. `gold` holds the gold operations, with the
    bank's entry ids, or None if the data has none. `sources` holds the known source turns of the entries in `bank`.
    """

    tuple_id: str
    dialogue_id: str
    turn: Turn
    previous: tuple[Turn, ...]
    speakers: tuple[str, ...]
    bank: tuple[MemoryEntry, ...]
    linked: tuple[Question, ...]
    retention: tuple[Question, ...]
    gold: tuple[Operation, ...] | None = None
    sources: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionTuple:
    """Training unit of whole-session credit: a session, the bank before it, and the questions that score it after.

    `linked` questions have their last evidence turn in the session; the rest is as in `ManagerTuple`.
    """

    tuple_id: str
    dialogue_id: str
    session: Session
    speakers: tuple[str, ...]
    bank: tuple[MemoryEntry, ...]
    linked: tuple[Question, ...]
    retention: tuple[Question, ...]
    sources: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """A turn at which whole-session credit may branch a group: `dialogue.sessions[session].turns[turn]`.

    `linked` questions have their last evidence in that turn or a later one of its session; `earlier` questions have it
    before that turn. No question is asked before the session is over.
    """

    dialogue: Dialogue
    session: int
    turn: int
    linked: tuple[Question, ...]
    earlier: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class AnswerTuple:
    """Training unit of the Answer Agent: a question and the bank to answer it from."""

    tuple_id: str
    dialogue_id: str
    question: Question
    speakers: tuple[str, ...]
    bank: tuple[MemoryEntry, ...]
