"""Constrained decoding: a completion is held to a JSON schema, token by token (llguidance)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import llguidance
import llguidance.hf
import llguidance.torch as bitmasks
import torch

from memory_r1.inference.language_model import Schema


class Constraint:
    """Masks the next tokens of a batch of completions, and follows what is drawn.

    Args:
        tokenizer: A fast tokenizer.
        schemas: The schema of each of D distinct prompts.
        slots: G, completions per prompt.
    """

    def __init__(self, tokenizer: Any, schemas: Sequence[Schema], slots: int) -> None:
        vocabulary = _vocabulary(tokenizer)
        grammars = {text: _grammar(text) for text in map(_text, schemas)}
        self._matchers = [
            [llguidance.LLMatcher(vocabulary, grammars[_text(schema)]) for _ in range(slots)] for schema in schemas
        ]
        self._size = vocabulary.vocab_size
        self._stop = tokenizer.eos_token_id

    def apply(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Return the logits `(D', G, V)` of the prompts `rows`, with every token that the schema forbids at -inf."""
        matchers = [matcher for row in rows for matcher in self._matchers[row]]
        mask = bitmasks.allocate_token_bitmask(len(matchers), self._size)
        for place, matcher in enumerate(matchers):
            if not matcher.is_stopped():
                bitmasks.fill_next_token_bitmask(matcher, mask, place)
        flat = logits.flatten(0, 1).float().clone()
        flat[:, self._size :] = -torch.inf
        bitmasks.apply_token_bitmask_inplace(flat[:, : self._size], mask.to(flat.device))
        whole = [place for place, matcher in enumerate(matchers) if matcher.is_stopped()]
        flat[whole] = -torch.inf  # the JSON is whole: nothing may follow
        flat[whole, self._stop] = 0.0
        return flat.view(logits.shape)

    def follow(self, tokens: torch.Tensor, rows: Sequence[int]) -> None:
        """Take note of the tokens drawn, `(D', G)`."""
        for row, drawn in zip(rows, tokens.tolist(), strict=True):
            for matcher, token in zip(self._matchers[row], drawn, strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token)


@cache
def _vocabulary(tokenizer: Any) -> Any:
    return llguidance.hf.from_tokenizer(tokenizer)


@cache
def _grammar(schema: str) -> str:
    # The form that `json.dumps` writes and agents are taught: no other blanks.
    blanks: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return str(llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=blanks))


def _text(schema: Schema) -> str:
    return json.dumps(schema, sort_keys=False)
