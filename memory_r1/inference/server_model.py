"""A language model behind an OpenAI-compatible chat server, such as `vllm serve` with LoRA modules as adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory_r1.errors import ConfigurationError, EndpointError
from memory_r1.inference.endpoint import ChatReply, Endpoint
from memory_r1.inference.language_model import Completion, Messages, Schema

# A server may take sampling defaults from the model's `generation_config.json` (vLLM does: for Qwen2.5 a repetition
# penalty, which changes greedy answers too). A local model ignores them, so switch them off.
PLAIN_SAMPLING: dict[str, Any] = {"top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}


class ServerLanguageModel:
    """A `LanguageModel` on a server, which applies the chat template and counts the prompt tokens.

    Args:
        endpoint: The server; its model is the base model.
        tokenizer: The served model's tokenizer, used only by `count_tokens`.
        sampling: Request fields that switch off the server's own sampling defaults; a server that does not know those
            of vLLM needs others, or none.
    """

    def __init__(self, endpoint: Endpoint, tokenizer: Any, *, sampling: Mapping[str, Any] = PLAIN_SAMPLING) -> None:
        self.endpoint = endpoint
        self.tokenizer = tokenizer
        self.sampling = sampling

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
        """Complete each prompt (see `LanguageModel`); `adapter` is the server's name for a LoRA module.

        Raises:
            ConfigurationError: `schemas` are given, which servers take in ways of their own.
            EndpointError: A prompt got no usable reply after all retries.
        """
        if schemas is not None:
            raise ConfigurationError("constrained decoding needs a local model; leave it out for one behind a server")
        completions = self.try_generate(
            prompts, max_new_tokens=max_new_tokens, adapter=adapter, temperature=temperature, seed=seed
        )
        return [require(completion) for completion in completions]

    def try_generate(
        self,
        prompts: Sequence[Messages],
        *,
        max_new_tokens: int,
        adapter: str | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion | EndpointError]:
        """Complete each prompt as `generate` does, with an error in place of each failed one."""
        replies = self.endpoint.chat_many(
            [[{"role": item["role"], "content": item["content"]} for item in prompt] for prompt in prompts],
            max_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            model=adapter,
            extra=self.sampling,
        )
        return [
            Completion(reply.text.strip(), reply.prompt_tokens, reply.completion_tokens)
            if isinstance(reply, ChatReply)
            else reply
            for reply in replies
        ]

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def require(completion: Completion | EndpointError) -> Completion:
    """Return the completion, or raise the error in its place."""
    if isinstance(completion, EndpointError):
        raise completion
    return completion
