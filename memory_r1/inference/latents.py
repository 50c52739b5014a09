"""Prompts with memory tokens among their input embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from memory_r1.inference.decoding import until
from memory_r1.inference.language_model import LATENTS, Completion, Messages

if TYPE_CHECKING:
    from memory_r1.inference.local_model import LocalLanguageModel


def prompt_around(tokenizer: Any, prompt: Messages) -> tuple[list[int], list[int]]:
    """Return a prompt's token ids before and behind the first `LATENTS`; without it, everything stands before."""
    rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    before, _, behind = rendered.partition(LATENTS)
    return _ids(tokenizer, before), _ids(tokenizer, behind)


def complete_around(
    model: LocalLanguageModel,
    prompts: Sequence[Messages],
    latents: Sequence[Sequence[bytes]],
    max_new_tokens: int,
) -> list[Completion]:
    """Complete prompts greedily with their memory tokens in place; see `LatentLanguageModel`."""
    size = base_of(model.model).get_input_embeddings().embedding_dim
    rows = [
        (before, from_bytes(tokens, size), behind)
        for (before, behind), tokens in zip((prompt_around(model.tokenizer, p) for p in prompts), latents, strict=True)
    ]
    lengths = [len(before) + len(tokens) + len(behind) for before, tokens, behind in rows]
    model.check_length(max(lengths, default=0), max_new_tokens)
    stops, pad = model.stops_and_pad()
    settings = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stops, pad_token_id=pad)
    completed: dict[int, Completion] = {}
    order = sorted(range(len(rows)), key=lambda place: lengths[place])
    for first in range(0, len(order), model.batch_size):
        batch = order[first : first + model.batch_size]
        with torch.no_grad():
            embedded, mask = embed_rows(model.model, [rows[place] for place in batch])
            drawn = model.model.generate(inputs_embeds=embedded, attention_mask=mask, generation_config=settings)
        for place, ids in zip(batch, drawn.tolist(), strict=True):  # the new tokens alone
            ids = until(ids, stops)
            text = model.tokenizer.decode(ids, skip_special_tokens=True).strip()
            completed[place] = Completion(text, lengths[place], len(ids))
    return [completed[place] for place in range(len(rows))]


def embed_rows(
    model: Any, rows: Sequence[tuple[list[int], torch.Tensor, list[int]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input embeddings of rows, padded on the left, `(B, T, E)`, and their mask, `(B, T)`.

    Args:
        model: The language model.
        rows: Each the ids before, the memory tokens `(n, E)`, and the ids behind.
    """
    table = base_of(model).get_input_embeddings()
    parts = []
    for before, latents, behind in rows:
        first, last = (table(torch.tensor(ids, dtype=torch.long, device=model.device)) for ids in (before, behind))
        parts.append(torch.cat([first, latents.to(first), last]))  # (t, E)
    width = max(map(len, parts))
    embedded = torch.stack([torch.cat([part.new_zeros(width - len(part), part.size(1)), part]) for part in parts])
    lengths = torch.tensor([len(part) for part in parts], device=model.device)
    mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
    return embedded, mask


def from_bytes(latents: Sequence[bytes], size: int) -> torch.Tensor:
    """Return memory tokens of `size` numbers each, `(n, E)`."""
    if not latents:
        return torch.zeros(0, size)
    return torch.frombuffer(bytearray(b"".join(latents)), dtype=torch.float32).view(-1, size)


def base_of(model: Any) -> Any:
    """Return the causal language model inside a `PeftModel`, or a plain model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
