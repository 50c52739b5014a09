"""MemAgent: one bounded text, overwritten section by section with the question in view (Yu et al., 2025).

Turns are only stored when they are observed. A question reads all of them, so memory is written, and paid for, at
recall, and anew for each question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from memory_r1.agents.prompts import dialogue_lines
from memory_r1.errors import ConfigurationError
from memory_r1.systems.banked import BankedSystem, Proposal
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.baselines import add_every_turn
from memory_r1.systems.rules import relevant, sentences
from memory_r1.systems.state import ScopeState
from memory_r1.systems.writer import Writer, Writing, WritingTask, cost_of, object_of
from memory_r1.types import MemoryEntry, Turn

LONGEST = 600
"""Characters of the memory."""
MEMORY = WritingTask(
    "memory",
    "Rewrite the memory: add what the dialogue says that helps to answer the question, and keep what helps already. "
    'Reply with JSON only: {"memory": "Kim adopted a goat on 6 May 2017."} or {"memory": ""}.',
    object_of({"memory": {"type": "string", "maxLength": LONGEST}}),
    max_new_tokens=160,
)
NOTHING = "No previous memory"
READ = 0
"""Id of the recalled memory, which is an entry of no bank."""


class MemAgent(BankedSystem):
    """Reads all turns for each question, section by section, and recalls the text that the last section left.

    Args:
        writer: Overwrites the memory; by default the rules do, which keep the sentences nearest to the question.
        section_tokens: Size of a section, in tokens of the turns alone; a longer turn is split.
        count_tokens: As in `BankedSystem`; measures sections too.
        states: As in `BankedSystem`.

    Raises:
        ConfigurationError: `section_tokens` is below 1.
    """

    name = "memagent"

    def __init__(
        self,
        writer: Writer | None = None,
        *,
        section_tokens: int = 1000,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        if section_tokens < 1:
            raise ConfigurationError(f"section_tokens is {section_tokens}: give a section's size in tokens, at least 1")
        super().__init__(count_tokens=count_tokens, states=states)
        self._writer = writer or Writer()
        self._section_tokens = section_tokens
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_READS}

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        return add_every_turn(turns)

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        return [memory for memory, _ in self._rank_at_a_cost(requests)]

    def _rank_at_a_cost(
        self, requests: Sequence[RecallRequest]
    ) -> list[tuple[tuple[MemoryEntry, ...], Mapping[str, float]]]:
        """Read the sections for every question, and return its memory as one entry, or none."""
        entries = {request.scope: self.entries(request.scope) for request in requests}
        sections = {scope: self._sections(of_scope) for scope, of_scope in entries.items()}
        memories = {(request.scope, request.query): "" for request in requests}
        written: dict[tuple[str, str], list[Writing]] = {question: [] for question in memories}
        for place in range(max(map(len, sections.values()), default=0)):
            reading = [question for question in memories if place < len(sections[question[0]])]
            lines, by_rules = [], []
            for scope, query in reading:
                section, memory = sections[scope][place], memories[scope, query]
                lines.append(section_lines(section, memory, query))
                by_rules.append({"memory": _by_rules(section, memory, query)})
            for question, writing in zip(reading, self._writer.write(MEMORY, lines, by_rules), strict=True):
                memories[question] = writing.value["memory"].strip()
                written[question].append(writing)
        read: list[tuple[tuple[MemoryEntry, ...], Mapping[str, float]]] = []
        for request in requests:
            question = request.scope, request.query
            sources = dict.fromkeys(turn_id for entry in entries[request.scope] for turn_id in entry.source_turn_ids)
            entry = MemoryEntry(READ, memories[question], "", "", tuple(sources))
            read.append(((entry,) if entry.text else (), cost_of(written[question])))
        return read

    def _sections(self, entries: Sequence[MemoryEntry]) -> list[list[MemoryEntry]]:
        """Cut the turns into sections, as long as possible, in order; a turn longer than a section is split."""
        sections: list[list[MemoryEntry]] = []
        left = 0
        for entry in entries:
            for piece in self._pieces(entry):
                cost = self._count_tokens(f"{piece.speaker}: {piece.text}\n")
                if cost > left:
                    sections.append([])
                    left = self._section_tokens
                sections[-1].append(piece)
                left -= cost
        return sections

    def _pieces(self, entry: MemoryEntry) -> list[MemoryEntry]:
        tokens, text = self._count_tokens(entry.text), entry.text
        size = max(1, len(text) * self._section_tokens // max(tokens, 1))
        return [replace(entry, text=text[start : start + size]) for start in range(0, len(text), size)]


def section_lines(section: Sequence[MemoryEntry], memory: str, query: str) -> list[str]:
    """Return what a model reads to overwrite the memory: the section, the memory, and the question.

    The section comes first, so that questions on one dialogue share the start of their prompts, and so that a small
    window cuts turns and never the question.
    """
    return [*dialogue_lines(section), f"Memory: {memory or NOTHING}", f"Question: {query}"]


def _by_rules(section: Sequence[MemoryEntry], memory: str, query: str) -> str:
    told = [f"{entry.speaker}: {sentence}" for entry in section for sentence in sentences(entry.text)]
    return relevant(query, [*sentences(memory), *told], LONGEST)
