"""The records everything else speaks in. Frozen, plain data; no torch, no faiss.

Read it as a glossary: dialogue > session > turn; question; memory entry; operation; recall; answer; the training
tuples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class OperationKind(StrEnum):
    """What a Memory Manager may do to the bank (Memory-R1, section 3.1)."""

    ADD = "ADD"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    NOOP = "NOOP"


PREVIOUS_TURNS = 2
"""Turns of the same session that the Memory Manager reads beside the one it manages."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. `timestamp` is ISO 8601 and is the session's unless the turn has its own."""

    turn_id: str
    speaker: str
    text: str
    session_id: str = ""
    timestamp: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """Turns spoken in one sitting, in order."""

    session_id: str
    timestamp: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a dialogue, asked at `asked_at` (ISO 8601; empty: after the last session).

    `evidence` holds the ids of the turns that support `answer`, in dialogue order; empty for unanswerable ones.
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
        """All turns in dialogue order."""
        return tuple(turn for session in self.sessions for turn in session.turns)

    def previous_turns(self) -> dict[str, tuple[Turn, ...]]:
        """Turn id to the up to `PREVIOUS_TURNS` turns before it in its session, oldest first, in dialogue order."""
        return {
            turn.turn_id: session.turns[max(0, position - PREVIOUS_TURNS) : position]
            for session in self.sessions
            for position, turn in enumerate(session.turns)
        }


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """One live memory: its text, who and which turns it comes from, and when it was said (ISO 8601)."""

    entry_id: int
    text: str
    speaker: str
    timestamp: str
    source_turn_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One edit to the bank. `entry_id` is None for ADD and NOOP, `text` is None for DELETE and NOOP.

    As parsed from a completion, `entry_id` is the number under which the entry stood in the prompt; once validated
    against that prompt it is the bank's own id.
    """

    kind: OperationKind
    text: str | None = None
    entry_id: int | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    """What a memory system returns for a query.

    `items` are ordered as they stand in the prompt, `text` is that block of the prompt (empty: render the items),
    `usage` counts what the recall cost (name to number), e.g. `{"tokens": 120}`.
    """

    items: tuple[MemoryEntry, ...]
    text: str = ""
    usage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The Answer Agent's reply: the final answer, the entry ids it distilled, and the whole completion."""

    text: str
    distilled: tuple[int, ...]
    completion: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ManagerTuple:
    """Training unit of the Memory Manager: a turn, the bank before it, and the questions that score the bank after it.

    `previous` are up to two turns before `turn` in its session. `linked` are questions whose last evidence turn is
    `turn`; `retention` are questions about facts already in `bank`. `gold` are gold operations where the data has
    them (entry ids are the bank's), else None. `sources` are the turns that the entries of `bank` come from, as far as
    they are known.
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
    """Training unit of whole-session credit: a session, the bank before it, and what scores the bank after it.

    `linked` are questions whose last evidence turn the session holds; `retention` are questions about facts already in
    `bank`. `sources` as in `ManagerTuple`.
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

    `linked` are questions whose last evidence is that turn or a later one of its session; `earlier` are questions whose
    last evidence was said before. None is asked before its session is over.
    """

    dialogue: Dialogue
    session: int
    turn: int
    linked: tuple[Question, ...]
    earlier: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class AnswerTuple:
    """Training unit of the Answer Agent: a question and the bank it is asked of."""

    tuple_id: str
    dialogue_id: str
    question: Question
    speakers: tuple[str, ...]
    bank: tuple[MemoryEntry, ...]
