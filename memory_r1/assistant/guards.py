"""Guards against hostile or careless messages: text from outside is data, and stays that.

Two guards cannot be switched off. The model names a memory by its number in the prompt, so a turn reaches at most the
entries that it was shown; and messages of the system and of tools, where an application puts recalled memories and
foreign text, are no turns of the dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from memory_r1.assistant.masking import mask_secrets
from memory_r1.errors import ConfigurationError
from memory_r1.memory.operations import RefusalReason
from memory_r1.types import MemoryEntry, Operation, OperationKind

# Marks by which chat templates tell roles apart (ChatML, Llama, Mistral, Gemma, DeepSeek); tokenizers read them in any
# text.
_TEMPLATE_MARKS = re.compile(
    r"<[|\uff5c][^|\uff5c<>\n]{1,40}[|\uff5c]>|</?s>|<</?SYS>>|<(?:start|end)_of_turn>|<(?:[be]os|pad|unk)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
# Soft hyphens, spaces without width and changes of direction. Joiners stay, which emoji and some scripts need.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_LISTED = re.compile(r"^(?:\d+[.)]|[-*])|\[[^\[\]]*\]$")
_SHORTEST_ECHO = 3  # words; "Ann smiled" may well be said anew


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A message's text after the guards; `masked` names the kinds of its secrets."""

    text: str
    masked: tuple[str, ...] = ()
    shortened: bool = False


@dataclass(frozen=True, slots=True)
class Guards:
    """What a message and the operations on it may do; None switches a limit off.

    Attributes:
        max_operations: Operations on one turn.
        max_deletions: Deletions by the model in one session.
        max_messages: Messages of one `add`.
        max_message_characters: Length of a message; the rest is cut off.
        max_memory_characters: Length of a memory; longer ones are refused.
        mask_secrets: Mask keys, passwords and the like, as detect-secrets finds them in the visible characters.
        refuse_echoes: Store nothing that was recalled. Lines of any message that repeat a memory are taken out, and
            from the assistant's every such passage; a new memory equal to a live one is refused.
        plain_text: Join lines and take out a chat template's marks, so that no message looks like part of the prompt.
    """

    max_operations: int | None = 4
    max_deletions: int | None = 3
    max_messages: int | None = 100
    max_message_characters: int | None = 4000
    max_memory_characters: int | None = 500
    mask_secrets: bool = True
    refuse_echoes: bool = True
    plain_text: bool = True

    def __post_init__(self) -> None:
        for name in (
            "max_operations",
            "max_deletions",
            "max_messages",
            "max_message_characters",
            "max_memory_characters",
        ):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise ConfigurationError(f"guard {name} is {value!r}: give a whole number from 0, or None for no limit")

    @classmethod
    def off(cls) -> Self:
        """Return guards that let everything pass, to measure what they are worth."""
        return cls(None, None, None, None, None, False, False, False)

    def message(self, text: str, memories: Sequence[MemoryEntry], *, by_assistant: bool = False) -> Cleaned:
        """Return what the model may read of a message, given the user's live `memories`."""
        longest = self.max_message_characters
        # Twice the length, so that a secret across the limit is seen whole.
        unread = "" if longest is None else text[2 * longest :]
        text = text[: None if longest is None else 2 * longest]
        if self.refuse_echoes:
            text = without_echoes(text, memories, by_assistant=by_assistant)
        text, masked = self._masked(text)
        line = self.line(text)
        return Cleaned(line[:longest], tuple(masked), bool(unread.strip()) or line[:longest] != line)

    def line(self, text: str) -> str:
        """Return a text on one line, without a template's marks, if `plain_text` is on."""
        return " ".join(_TEMPLATE_MARKS.sub(" ", text).split()) if self.plain_text else text

    def memory(self, text: str) -> str:
        """Return the text under which a memory is stored."""
        return self.line(self._masked(text)[0])

    def operation(self, operation: Operation) -> Operation:
        """Return an operation with the text that is stored."""
        return operation if operation.text is None else replace(operation, text=self.memory(operation.text))

    def objection(
        self, operation: Operation, done: Sequence[Operation], deletions: int, live: Iterable[MemoryEntry]
    ) -> tuple[RefusalReason, int | None] | None:
        """Return why an operation is refused, with the entry that it repeats, or None if it is not.

        Args:
            operation: From `self.operation`.
            done: The operations on the same turn that were let pass.
            deletions: Deletions in the session before this turn.
            live: The live memories.
        """
        if operation.kind is OperationKind.NOOP:
            return None
        if self.max_operations is not None and len(done) >= self.max_operations:
            return RefusalReason.OVER_LIMIT, None
        deletions += sum(earlier.kind is OperationKind.DELETE for earlier in done)
        if operation.kind is OperationKind.DELETE:
            over = self.max_deletions is not None and deletions >= self.max_deletions
            return (RefusalReason.OVER_DELETIONS, None) if over else None
        text = operation.text or ""
        if not text:
            return RefusalReason.EMPTY_TEXT, None
        if self.max_memory_characters is not None and len(text) > self.max_memory_characters:
            return RefusalReason.TOO_LONG, None
        if self.refuse_echoes and operation.kind is OperationKind.ADD:
            core = _core(text)
            echoed = next((entry.entry_id for entry in live if _core(entry.text) == core), None)
            if echoed is not None or any(_core(earlier.text) == core for earlier in done if earlier.text):
                return RefusalReason.ECHO, echoed
        return None

    def _masked(self, text: str) -> tuple[str, list[str]]:
        return mask_secrets(_INVISIBLE.sub("", text)) if self.mask_secrets else (text, [])


def without_echoes(text: str, memories: Iterable[MemoryEntry], *, by_assistant: bool) -> str:
    """Return a message without the lines that repeat a memory, plain or as listed in a prompt.

    An assistant's passages inside a line go too. A user's stay, since "it is not true that ..." may quote a memory.
    """
    cores = {_core(entry.text) for entry in memories}
    text = "\n".join(line for line in text.splitlines() if _core(line) not in cores)
    if by_assistant:
        folded = " ".join(text.casefold().split())
        for core in cores:
            words = core.split()
            if len(words) >= _SHORTEST_ECHO and core in folded:
                passage = r"\s+".join(map(re.escape, words))
                text = re.sub(rf"(?<!\w){passage}(?!\w)", " ", text, flags=re.IGNORECASE)
    return text


def _core(text: str) -> str:
    """Return a text without its number in a list, its date in brackets, case, spacing and last full stop."""
    return " ".join(_LISTED.sub("", text.strip()).casefold().split()).rstrip(".!")
