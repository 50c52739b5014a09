"""The interface of the language model behind both agents, whether it runs here or behind a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from memory_r1.errors import EndpointError

Messages = list[dict[str, str]]
Schema = Mapping[str, Any]
"""A JSON schema."""
LATENTS = "<memory tokens>"
"""Marks where a prompt's memory tokens stand; only its first occurrence counts."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated reply and its cost in tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class LanguageModel(Protocol):
    """The interface that the agents need, whether the model is local or behind a server."""

    def generate(
        self,
        prompts: Sequence[Messages],
        *,
        max_new_tokens: int,
        adapter: str | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        schemas: Sequence[Schema] | None = None,
    ) -> list[Completion]:
        """Complete each prompt, in order.

        `adapter` None is the base model, `temperature` 0 is greedy, and `schemas` hold each completion to its own JSON.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens in `text`, without special tokens."""
        ...


@runtime_checkable
class FallibleLanguageModel(Protocol):
    """A model that may fail on some prompts and complete others, such as one behind a server."""

    def try_generate(
        self,
        prompts: Sequence[Messages],
        *,
        max_new_tokens: int,
        adapter: str | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion | EndpointError]:
        """Complete each prompt as `LanguageModel.generate` does, with an error in place of each failed one."""
        ...


@runtime_checkable
class WindowedLanguageModel(Protocol):
    """A model that knows its context window, such as a local one."""

    @property
    def window(self) -> int | None:
        """Most tokens of a prompt and its completion together; None if unbounded."""
        ...

    def prompt_tokens(self, prompt: Messages) -> int:
        """Return the number of tokens of a prompt under the chat template."""
        ...


@runtime_checkable
class ScoringLanguageModel(Protocol):
    """A model that can tell how probable a given text is: a local one."""

    def likelihood(
        self, prompts: Sequence[Messages], heads: Sequence[str], texts: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """Return the geometric mean probability of each text's tokens behind its prompt and the reply's head."""
        ...


@runtime_checkable
class LatentLanguageModel(Protocol):
    """A model that reads memory tokens, vectors among its input embeddings: a local one."""

    def generate_with_latents(
        self,
        prompts: Sequence[Messages],
        latents: Sequence[Sequence[bytes]],
        *,
        max_new_tokens: int,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Complete each prompt greedily, with its memory tokens (float32 bytes each) in place of `LATENTS`."""
        ...


def window_of(model: LanguageModel) -> int | None:
    """Return the model's window, or None if it has none or, behind a server, does not tell."""
    return model.window if isinstance(model, WindowedLanguageModel) else None


def room_for(model: LanguageModel, prompt: Messages, max_new_tokens: int) -> int | None:
    """Return the tokens that a prompt and its longest completion leave free in the window; negative if too long.

    Return None if the window is unknown: a server refuses prompts that are too long itself.
    """
    if not isinstance(model, WindowedLanguageModel) or model.window is None:
        return None
    return model.window - max_new_tokens - model.prompt_tokens(prompt)
