"""The Answer Agent: distils the recalled memories, then answers (Memory-R1, section 3.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from memory_r1.agents.language_model import Completion, FallibleLanguageModel, LanguageModel, Messages
from memory_r1.agents.prompts import (
    ANSWER_INSTRUCTIONS,
    answer_prompt,
    parse_answer,
    parse_distilled,
    parse_quoted,
)
from memory_r1.errors import ConfigurationError, EndpointError
from memory_r1.types import Answer, Recall


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A question and what the memory system recalled for it; `asked_at` is ISO 8601 or empty."""

    question: str
    recall: Recall
    asked_at: str = ""


class AnswerAgent:
    """Answers batches of questions, greedily; equal prompts are answered once.

    Args:
        model: The language model.
        adapter: Name of the adapter to use; None for the base model.
        max_new_tokens: Longest completion, in tokens.
        style: "ids" names the entries relied on by number; "quotes" quotes them, as the paper's prompt does.
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
        """An answer for each request, in order.

        Raises:
            EndpointError: The model is behind a server, and a request got no usable reply.
        """
        answers = []
        for answer in self.try_answer(requests):
            if isinstance(answer, EndpointError):
                raise answer
            answers.append(answer)
        return answers

    def try_answer(self, requests: Sequence[AnswerRequest]) -> list[Answer | EndpointError]:
        """As `answer`, with the error in the place of each request whose prompt was not completed."""
        built = [
            answer_prompt(
                request.question,
                request.recall.items,
                asked_at=request.asked_at,
                style=self.style,
                text=request.recall.text,
            )
            for request in requests
        ]
        keys = [json.dumps(prompt) for prompt, _ in built]
        distinct = {key: prompt for key, (prompt, _) in zip(keys, built, strict=True)}
        completions = dict(zip(distinct, self._complete(list(distinct.values())), strict=True))
        answers: list[Answer | EndpointError] = []
        for request, key, (_, numbered) in zip(requests, keys, built, strict=True):
            completion = completions[key]
            if isinstance(completion, EndpointError):
                answers.append(completion)
                continue
            distilled = (
                parse_distilled(completion.text, numbered)
                if self.style == "ids"
                else parse_quoted(completion.text, request.recall.items)
            )
            answers.append(
                Answer(
                    text=parse_answer(completion.text),
                    distilled=distilled,
                    completion=completion.text,
                    prompt_tokens=completion.prompt_tokens,
                    completion_tokens=completion.completion_tokens,
                )
            )
        return answers

    def _complete(self, prompts: list[Messages]) -> Sequence[Completion | EndpointError]:
        if isinstance(self.model, FallibleLanguageModel):
            return self.model.try_generate(prompts, max_new_tokens=self.max_new_tokens, adapter=self.adapter)
        return self.model.generate(prompts, max_new_tokens=self.max_new_tokens, adapter=self.adapter)
