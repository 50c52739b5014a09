"""The agents' prompts and completion formats, for a 135M model and an 8B one alike.

The instructions are short on purpose: on small hardware every prompt token costs time in each rollout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from memory_r1.memory.forms import FLAT, GRAPH, OperationForm
from memory_r1.types import MemoryEntry, Turn

ANSWER_MARKER = "**Answer:**"
MEMORIES_MARKER = "Memories:"
UNKNOWN = "unknown"

MANAGER_INSTRUCTIONS = (
    "Update the memory of facts about the speakers after the last turn. Reply with a JSON array only: "
    '[{"op": "ADD", "text": "..."}, {"op": "UPDATE", "id": 1, "text": "..."}, {"op": "DELETE", "id": 1}] or '
    '[{"op": "NOOP"}].'
)
GRAPH_INSTRUCTIONS = (
    "Update the graph of facts about the speakers after the last turn. Reply with a JSON array only: "
    '[{"op": "ADD", "subject": "...", "relation": "...", "object": "...", "time": "..."}, {"op": "UPDATE", "id": 1, '
    '"subject": "...", "relation": "...", "object": "..."}, {"op": "DELETE", "id": 1}, {"op": "LINK", "entity": "...", '
    '"same_as": "..."}, {"op": "ABSTRACT", "ids": [1, 2], "text": "..."}] or [{"op": "NOOP"}].'
)
_INSTRUCTIONS = {FLAT.name: MANAGER_INSTRUCTIONS, GRAPH.name: GRAPH_INSTRUCTIONS}
SESSION_INSTRUCTIONS = (
    "You keep a memory of facts about the speakers. Read the session and the stored memories. Reply with one JSON "
    "array of operations for the whole session only, each with the number of the turn it stands for: "
    '{"op": "ADD", "turn": 1, "text": "..."} for a new fact, {"op": "UPDATE", "turn": 2, "id": 1, "text": "..."} for a '
    'changed one, {"op": "DELETE", "turn": 3, "id": 1} for one that no longer holds, {"op": "NOOP"} if nothing is '
    "worth storing."
)
ANSWER_INSTRUCTIONS = {
    "ids": (
        "Answer from the memories: first the numbers of those you rely on, then a few words.\n"
        f"{MEMORIES_MARKER} 2\n{ANSWER_MARKER} your answer\nIf none helps: {MEMORIES_MARKER} none and "
        f"{ANSWER_MARKER} {UNKNOWN}."
    ),
    "quotes": (
        "Answer the question from the memories. First quote, word by word and one a line, the memories you rely on "
        f"after {MEMORIES_MARKER}, then give a short answer of a few words after {ANSWER_MARKER} If no memory helps, "
        f"quote none and answer {UNKNOWN}."
    ),
}
ANSWER_TOKENS = {"ids": 32, "quotes": 128}
"""Tokens of a short answer in each style, including the memories it cites."""


EXAMPLES = [
    {
        "role": "user",
        "content": "Memories:\n1. Kim works at a nursery [Monday 3 April 2017]\nDialogue [Saturday 6 May 2017]:\n"
        "Lou: How is the nursery?\nLast turn: Kim: I left! I am a gardener at the palace now, and I adopted a goat, "
        "Gus.",
    },
    {
        "role": "assistant",
        "content": '[{"op": "UPDATE", "id": 1, "text": "Kim works as a gardener at the palace"}, '
        '{"op": "ADD", "text": "Kim has a goat called Gus"}]',
    },
    {
        "role": "user",
        "content": "Memories:\n1. Lou goes to the chess club on Mondays [Saturday 6 May 2017]\n2. Kim has a goat "
        "called Gus [Saturday 6 May 2017]\nDialogue [Friday 2 June 2017]:\nKim: Chess tonight?\nLast turn: Lou: No, I "
        "quit the club for good.",
    },
    {"role": "assistant", "content": '[{"op": "DELETE", "id": 1}]'},
    {
        "role": "user",
        "content": "Memories:\n1. Kim has a goat called Gus [Saturday 6 May 2017]\nDialogue [Friday 2 June 2017]:\n"
        "Lou: What a day.\nLast turn: Kim: Ha, tell me about it!",
    },
    {"role": "assistant", "content": '[{"op": "NOOP"}]'},
]
"""Worked turns for an untrained manager, as Mem0 prompts its model (Chhikara et al. 2025): no training, few shots."""


def manager_prompt(
    turn: Turn, previous: Sequence[Turn], recalled: Sequence[MemoryEntry], form: OperationForm = FLAT
) -> list[dict[str, str]]:
    """Build chat messages for the Memory Manager: memories numbered from 1, earlier turns, and the turn itself.

    They never contain a question: the manager writes before any question is known.
    """
    lines = _memory_lines(recalled)
    lines.append(f"Dialogue {date_of(turn.timestamp)}:" if turn.timestamp else "Dialogue:")
    lines += [f"{earlier.speaker}: {earlier.text}" for earlier in previous]
    lines.append(f"Last turn: {turn.speaker}: {turn.text}")
    return _messages(_INSTRUCTIONS[form.name], lines)


def session_prompt(turns: Sequence[Turn], recalled: Sequence[MemoryEntry]) -> list[dict[str, str]]:
    """Build chat messages for a Memory Manager that stores a whole session: memories and turns numbered from 1."""
    lines = _memory_lines(recalled)
    began = turns[0].timestamp if turns else ""
    lines.append(f"Session {date_of(began)}:" if began else "Session:")
    lines += [f"Turn {number}: {turn.speaker}: {turn.text}" for number, turn in enumerate(turns, start=1)]
    return _messages(SESSION_INSTRUCTIONS, lines)


def answer_prompt(
    question: str, recalled: Sequence[MemoryEntry], *, asked_at: str = "", style: str = "ids", text: str = ""
) -> tuple[list[dict[str, str]], list[int]]:
    """Build chat messages for the Answer Agent; return them with the entry ids in prompt order.

    Memories form one block per speaker (Memory-R1, appendix D), each best first. If a memory system renders its own
    `text`, that replaces the blocks.
    """
    lines: list[str] = []
    numbered: list[int] = []
    for speaker in dict.fromkeys(entry.speaker for entry in recalled):
        lines.append(f"Memories of {speaker}:" if speaker else "Memories:")
        for entry in (entry for entry in recalled if entry.speaker == speaker):
            numbered.append(entry.entry_id)
            lines.append(memory_line(len(numbered), entry))
    if text:
        lines = [text]
    if not lines:
        lines.append("Memories: none")
    lines.append(f"Question {date_of(asked_at)}: {question}" if asked_at else f"Question: {question}")
    return _messages(ANSWER_INSTRUCTIONS[style], lines), numbered


def render_answer(answer: str, numbers: Sequence[int]) -> str:
    """Render the completion that an Answer Agent learns to write in style "ids"."""
    named = ", ".join(str(number) for number in numbers) or "none"
    return f"{MEMORIES_MARKER} {named}\n{ANSWER_MARKER} {answer}"


def render_quoted_answer(answer: str, quotes: Sequence[str]) -> str:
    """Render the completion that an Answer Agent learns to write in style "quotes"."""
    return "\n".join([MEMORIES_MARKER, *quotes, f"{ANSWER_MARKER} {answer}"])


def parse_answer(completion: str) -> str:
    """Return the rest of the line after the last answer marker, or the whole completion without a marker."""
    if ANSWER_MARKER not in completion:
        return completion.strip()
    tail = completion.rsplit(ANSWER_MARKER, 1)[1].strip()
    return tail.splitlines()[0].strip() if tail else ""


def parse_distilled(completion: str, numbered: Sequence[int]) -> tuple[int, ...]:
    """Return the entry ids named before the answer marker, in order and once each; ignore numbers not in the prompt."""
    head = completion.split(ANSWER_MARKER, 1)[0]
    if MEMORIES_MARKER not in head:
        return ()
    named = (int(digits) for digits in re.findall(r"(?<!\d)\d{1,4}(?!\d)", head.split(MEMORIES_MARKER, 1)[1]))
    return tuple(dict.fromkeys(numbered[number - 1] for number in named if 1 <= number <= len(numbered)))


def parse_quoted(completion: str, numbered: Sequence[int], texts: Sequence[str]) -> tuple[int, ...]:
    """Return the entry ids whose text is quoted before the answer marker; `texts` are the texts of `numbered`."""
    head = completion.split(ANSWER_MARKER, 1)[0].lower()
    return tuple(entry_id for entry_id, text in zip(numbered, texts, strict=True) if text.lower() in head)


def parse_relied_on(completion: str, numbered: Sequence[int], texts: Sequence[str], style: str) -> tuple[int, ...]:
    """Return the entry ids that a completion in `style` cites."""
    return parse_distilled(completion, numbered) if style == "ids" else parse_quoted(completion, numbered, texts)


def _messages(instructions: str, lines: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": "system", "content": instructions}, {"role": "user", "content": "\n".join(lines)}]


def _memory_lines(recalled: Sequence[MemoryEntry]) -> list[str]:
    """Render the manager's block of memories."""
    numbered = [memory_line(number, entry) for number, entry in enumerate(recalled, start=1)]
    return ["Memories:", *(numbered or ["none"])]


def dialogue_lines(said: Iterable[Turn | MemoryEntry]) -> list[str]:
    """Render what was said, one turn a line, with a line for the day wherever that changes."""
    lines, today = [], ""
    for turn in said:
        if turn.timestamp and (day := date_of(turn.timestamp)) != today:
            lines.append(day)
            today = day
        lines.append(f"{turn.speaker}: {turn.text}")
    return lines


def memory_line(number: int, entry: MemoryEntry) -> str:
    """Render one memory for a prompt."""
    return f"{number}. {entry.text} {date_of(entry.timestamp)}" if entry.timestamp else f"{number}. {entry.text}"


def date_of(timestamp: str) -> str:
    """Return `2023-05-08T13:56:00` as `[Monday 8 May 2023]`, with the day that "next Friday" counts from."""
    moment = datetime.fromisoformat(timestamp)
    return f"[{moment:%A} {moment.day} {moment:%B %Y}]"
