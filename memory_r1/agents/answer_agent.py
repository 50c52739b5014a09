"""The Answer Agent: distils the recalled memories, then answers (Memory-R1, section 3.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from memory_r1.agents.prompts import (
    ANSWER_INSTRUCTIONS,
    MEMORIES_MARKER,
    answer_prompt,
    parse_answer,
    parse_relied_on,
    render_answer,
    render_quoted_answer,
)
from memory_r1.errors import ConfigurationError, EndpointError, MemoryR1Error, PromptTooLongError
from memory_r1.inference.language_model import (
    Completion,
    FallibleLanguageModel,
    LanguageModel,
    LatentLanguageModel,
    Messages,
    ScoringLanguageModel,
    room_for,
)
from memory_r1.metrics import holds_answer
from memory_r1.types import Answer, Recall

Read = tuple[Messages, tuple[bytes, ...]]
"""A prompt and its memory tokens."""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A question and its recalled memories; `asked_at` is ISO 8601 or empty."""

    question: str
    recall: Recall
    asked_at: str = ""


class AnswerAgent:
    """Answers batches of questions, greedily; equal prompts are answered once.

    Args:
        model: The language model.
        adapter: Name of the adapter to use; None for the base model.
        max_new_tokens: Longest completion, in tokens.
        style: "ids" to cite memories by number, "quotes" to quote them, as in the paper's prompt.
    """

    def __init__(
        self, model: LanguageModel, *, adapter: str | None = None, max_new_tokens: int = 32, style: str = "ids"
    ) -> None:
        if style not in ANSWER_INSTRUCTIONS:
            raise ConfigurationError(f"answer style '{style}' is unknown; allowed: {', '.join(ANSWER_INSTRUCTIONS)}")
        self.model = model
        self.adapter = adapter
        self.max_new_tokens = max_new_tokens
        self.style = style

    def answer(self, requests: Sequence[AnswerRequest]) -> list[Answer]:
        """Answer each request, in order.

        Raises:
            EndpointError: The model is behind a server, and a request got no usable reply.
            PromptTooLongError: A request's prompt does not fit the model's window.
        """
        answers = []
        for answer in self.try_answer(requests):
            if isinstance(answer, MemoryR1Error):
                raise answer
            answers.append(answer)
        return answers

    def room(self, request: AnswerRequest) -> int | None:
        """Return the tokens left free in the model's window by the prompt and the longest answer (see `room_for`)."""
        return self._room((self.prompt(request)[0], request.recall.latents))

    def try_answer(self, requests: Sequence[AnswerRequest]) -> list[Answer | MemoryR1Error]:
        """Answer each request as `answer` does, with an error in place of each failed one."""
        built = [self.prompt(request) for request in requests]
        read = [(prompt, request.recall.latents) for (prompt, _), request in zip(built, requests, strict=True)]
        keys = [(json.dumps(prompt), latents) for prompt, latents in read]
        distinct = dict(zip(keys, read, strict=True))
        completions = dict(zip(distinct, self._complete(list(distinct.values())), strict=True))
        answers: list[Answer | MemoryR1Error] = []
        for request, key, (_, numbered) in zip(requests, keys, built, strict=True):
            completion = completions[key]
            if isinstance(completion, MemoryR1Error):
                answers.append(completion)
                continue
            texts = {entry.entry_id: entry.text for entry in request.recall.items}
            answers.append(
                Answer(
                    text=parse_answer(completion.text),
                    distilled=parse_relied_on(
                        completion.text, numbered, [texts[entry_id] for entry_id in numbered], self.style
                    ),
                    completion=completion.text,
                    prompt_tokens=completion.prompt_tokens,
                    completion_tokens=completion.completion_tokens,
                )
            )
        return answers

    def likelihood(self, requests: Sequence[AnswerRequest], gold: Sequence[str]) -> list[float | None]:
        """Return the probability of each gold answer, normalised by its length: the geometric mean over its tokens.

        The whole reply is scored, with the recalled entries that hold the answer named before it, so that a stale entry
        beside them costs what it takes from the right choice. Nothing is decoded (the idea of InfoMem, arXiv
        2606.03329). None for a prompt that does not fit the model's window.

        Raises:
            ConfigurationError: The model is behind a server, which scores no given text.
        """
        if not isinstance(self.model, ScoringLanguageModel):
            raise ConfigurationError("the likelihood of an answer needs a local Answer Agent, not one behind a server")
        prompts, replies = [], []
        for request, answer in zip(requests, gold, strict=True):
            prompt, numbered = self.prompt(request)
            texts = {entry.entry_id: entry.text for entry in request.recall.items}
            held = [number for number, entry_id in enumerate(numbered, 1) if holds_answer(texts[entry_id], answer)]
            if self.style == "ids":
                whole = render_answer(answer, held)
            else:
                whole = render_quoted_answer(answer, [texts[numbered[number - 1]] for number in held])
            prompts.append(prompt)
            replies.append(whole.removeprefix(MEMORIES_MARKER))
        fits = [(room := room_for(self.model, prompt, self.max_new_tokens)) is None or room >= 0 for prompt in prompts]
        fitting = [(prompt, reply) for prompt, reply, fit in zip(prompts, replies, fits, strict=True) if fit]
        scores = iter(
            self.model.likelihood(
                [prompt for prompt, _ in fitting],
                [MEMORIES_MARKER] * len(fitting),
                [reply for _, reply in fitting],
                adapter=self.adapter,
            )
        )
        return [next(scores) if fit else None for fit in fits]

    def prompt(self, request: AnswerRequest) -> tuple[Messages, list[int]]:
        """Return a request's chat messages, with the entry ids in prompt order."""
        recall = request.recall
        return answer_prompt(
            request.question, recall.items, asked_at=request.asked_at, style=self.style, text=recall.text
        )

    def _room(self, read: Read) -> int | None:
        room = room_for(self.model, read[0], self.max_new_tokens)
        return None if room is None else room - len(read[1])

    def _complete(self, read: list[Read]) -> Sequence[Completion | MemoryR1Error]:
        """Complete the prompts that fit the window, with an error in place of the others."""
        try:
            return self._generate(read)
        except PromptTooLongError as error:
            rooms = [self._room(each) for each in read]
            fits = [room is None or room >= 0 for room in rooms]
            done = iter(self._generate([each for each, fit in zip(read, fits, strict=True) if fit]))
            return [next(done) if fit else error for fit in fits]

    def _generate(self, read: list[Read]) -> Sequence[Completion | EndpointError]:
        prompts, latents = [prompt for prompt, _ in read], [latents for _, latents in read]
        if any(latents):
            if not isinstance(self.model, LatentLanguageModel):
                raise ConfigurationError(
                    "memory tokens need a local Answer Agent, not one behind a server; use another memory system"
                )
            return self.model.generate_with_latents(
                prompts, latents, max_new_tokens=self.max_new_tokens, adapter=self.adapter
            )
        if isinstance(self.model, FallibleLanguageModel):
            return self.model.try_generate(prompts, max_new_tokens=self.max_new_tokens, adapter=self.adapter)
        return self.model.generate(prompts, max_new_tokens=self.max_new_tokens, adapter=self.adapter)
