"""Chats of an exact number of tokens, for the training benchmark."""

from __future__ import annotations

from typing import Any

from memory_r1.errors import ConfigurationError

Messages = list[dict[str, str]]

_WORDS = ("memory", "garden", "river", "Lisbon", "violin", "Tuesday", "yellow", "train", "doctor", "sister")
_FILLERS = (" a", "a", ".", " 7", "7", "!")


def prompt_of(tokenizer: Any, tokens: int, number: int) -> Messages:
    """Make a chat of exactly `tokens` tokens; chats with other numbers differ from the first word on.

    Raises:
        ConfigurationError: The chat template alone is longer, or no text has exactly this length.
    """

    def chat(text: str) -> Messages:
        return [{"role": "user", "content": f"{number}: {text}"}]

    def length(text: str) -> int:
        return len(token_ids(tokenizer, chat(text)))

    if length("") > tokens:
        raise ConfigurationError(f"P={tokens}: the chat template alone takes {length('')} tokens; give a larger P")
    low, high = 0, tokens  # words, of at least one token each
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(_words(middle)) <= tokens else (low, middle - 1)
    text = _words(low)
    while length(text) < tokens:
        text = next((text + filler for filler in _FILLERS if length(text) < length(text + filler) <= tokens), "")
        if not text:
            raise ConfigurationError(f"no text of exactly {tokens} tokens was found for this tokenizer; give another P")
    return chat(text)


def _words(count: int) -> str:
    return " ".join(_WORDS[(place * place + place // 7) % len(_WORDS)] for place in range(count))


def token_ids(tokenizer: Any, prompt: Messages) -> list[int]:
    """Tokenize a prompt as the trainers do."""
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])
