"""The Memory Manager: turns a dialogue turn and its related memories into operations (Memory-R1, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memory_r1.agents.prompts import manager_prompt
from memory_r1.inference.language_model import Completion, LanguageModel, Messages, room_for
from memory_r1.memory.bank import MemoryBank
from memory_r1.memory.forms import FLAT, OperationForm, operations_schema
from memory_r1.memory.operations import CheckedCompletion, check_completion
from memory_r1.memory.retriever import RetrievalRequest, Retriever
from memory_r1.types import MemoryEntry, Turn


@dataclass(frozen=True, slots=True)
class ManageRequest:
    """A turn to store, up to two turns before it, the bank before it, and the dialogue's speakers."""

    turn: Turn
    previous: tuple[Turn, ...]
    bank: MemoryBank
    speakers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Management:
    """The manager's reply to one request, not yet applied.

    `recalled` holds the memories in its prompt. `cut` counts the earlier turns and memories left out to fit the model's
    window, plus one if the turn itself was shortened.
    """

    checked: CheckedCompletion
    recalled: tuple[MemoryEntry, ...]
    completion: Completion
    cut: int = 0


class MemoryManager:
    """Proposes operations for batches of turns.

    Args:
        model: The language model.
        retriever: Finds the memories to show with the turn.
        adapter: Name of the adapter to use; None for the base model.
        recall_per_speaker: Memories recalled per speaker. The manager sees the best `recall_per_speaker * speakers`
            overall, since a turn mostly concerns its speaker.
        max_new_tokens: Longest completion, in tokens.
        examples: Messages with worked turns, which an untrained model reads before the turn (`EXAMPLES`).
        constrained: Hold each completion to the operations that its prompt allows, token by token.
        form: How it writes operations.
    """

    def __init__(
        self,
        model: LanguageModel,
        retriever: Retriever,
        *,
        adapter: str | None = None,
        recall_per_speaker: int = 2,
        max_new_tokens: int = 48,
        examples: Sequence[dict[str, str]] = (),
        constrained: bool = False,
        form: OperationForm = FLAT,
    ) -> None:
        self.model = model
        self.retriever = retriever
        self.adapter = adapter
        self.recall_per_speaker = recall_per_speaker
        self.max_new_tokens = max_new_tokens
        self.examples = list(examples)
        self.constrained = constrained
        self.form = form

    def manage(self, requests: Sequence[ManageRequest]) -> list[Management]:
        """Generate operations for each request greedily, and check them against its prompt."""
        recalls = self.recall(requests)
        fitted = [self._fit(request, recalled) for request, recalled in zip(requests, recalls, strict=True)]
        prompts = [self._prompt(request, shown) for request, shown, _ in fitted]
        completions = self.model.generate(
            prompts,
            max_new_tokens=self.max_new_tokens,
            adapter=self.adapter,
            schemas=[operations_schema(len(shown), self.form) for _, shown, _ in fitted] if self.constrained else None,
        )
        return [
            Management(self._check(completion, shown), shown, completion, cut)
            for (_, shown, cut), completion in zip(fitted, completions, strict=True)
        ]

    def _check(self, completion: Completion, shown: Sequence[MemoryEntry]) -> CheckedCompletion:
        return check_completion(completion.text, [entry.entry_id for entry in shown], form=self.form)

    def recall(self, requests: Sequence[ManageRequest]) -> list[tuple[MemoryEntry, ...]]:
        """Return the memories for each request's prompt, best first."""
        return self.retriever.retrieve_many(
            [
                RetrievalRequest(
                    query=f"{request.turn.speaker}: {request.turn.text}",
                    entries=request.bank.entries(),
                    k=self.recall_per_speaker * max(1, len(request.speakers)),
                )
                for request in requests
            ]
        )

    def _fit(
        self, request: ManageRequest, recalled: tuple[MemoryEntry, ...]
    ) -> tuple[ManageRequest, tuple[MemoryEntry, ...], int]:
        """Cut a request to the model's window; return it with its memories and the number of cuts.

        Cut the earlier turns first, oldest first, then the least related memories, then the end of the turn.
        """
        whole, cut = request.turn, 0
        while (room := room_for(self.model, self._prompt(request, recalled), self.max_new_tokens)) is not None:
            if room >= 0:
                break
            if request.previous:
                request, cut = replace(request, previous=request.previous[1:]), cut + 1
            elif recalled:
                recalled, cut = recalled[:-1], cut + 1
            elif text := request.turn.text:
                kept = 1 + room / max(1, self.model.count_tokens(text))  # room is below 0
                shorter = text[: min(int(len(text) * kept), len(text) - 1)] if kept > 0 else ""
                request = replace(request, turn=replace(whole, text=shorter))
            else:
                break
        return request, recalled, cut + (request.turn is not whole)

    def _prompt(self, request: ManageRequest, recalled: Sequence[MemoryEntry]) -> Messages:
        system, asked = prompt_for(request, recalled, self.form)
        return [system, *self.examples, asked]


def prompt_for(request: ManageRequest, recalled: Sequence[MemoryEntry], form: OperationForm = FLAT) -> Messages:
    """Return the prompt for one request, the same in training and evaluation."""
    return manager_prompt(request.turn, request.previous, recalled, form)
