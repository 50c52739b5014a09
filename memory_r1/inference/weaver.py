"""The weaver: compresses a text into a few memory tokens, vectors among the model's own input embeddings.

As in MemGen, learned query vectors stand behind the text, a LoRA adapter reads them, and their last hidden states
become the memory tokens. MemGen's tokens start as noise and need a GPU to become readable. Two changes make them
readable from the start:

- To its mapped hidden state, each token adds a mixture of the text's input embeddings. Query k starts at the k-th of
  the text's most surprising tokens, as prompt compressors keep what a language model cannot guess (Li et al. 2023,
  arXiv 2310.06201), and learns where else to look. The map of the hidden states starts at zero.
- The adapter reads the queries alone, not the text before them. Surprise is then the base model's, which training does
  not change, and no gradient passes through the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DynamicCache

from memory_r1.adapter_settings import QUERIES
from memory_r1.errors import ModelError
from memory_r1.inference.adapters import active_adapter
from memory_r1.inference.latents import base_of
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.models import adapter_hash
from memory_r1.weights import hash_file, read_tensor_headers

ADAPTER = "weaver"
"""Name of the LoRA adapter in a language model that uses it."""
_POINTER = 64  # size of the vectors that decide where a query looks
_AT_ONCE = 1024  # tokens whose logits are held together
_GAIN = 0.1  # of the mapped hidden state, so that it grows slowly beside the words
_ANCHORED = 6.0  # how strongly an untrained query keeps to its own token, in the logits of attention


class WeaverHead(nn.Module):
    """What a weaver learns beside its LoRA adapter.

    Args:
        queries: Number of queries per text (N).
        size: Size of the model's embeddings (E).
        seed: Seed of the start.
    """

    def __init__(self, queries: int, size: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.queries = nn.Parameter(torch.randn(queries, size, generator=generator) / size**0.5)  # of length 1
        self.looks = nn.Parameter(torch.zeros(_POINTER, size))
        self.keys = nn.Parameter(torch.randn(_POINTER, size, generator=generator) / _POINTER**0.5)
        self.states = nn.Parameter(torch.zeros(size, size))
        self.end = nn.Parameter(torch.zeros(size))  # the last token of every text; starts as a line break

    def forward(
        self,
        embedded: torch.Tensor,
        read: torch.Tensor,
        asked: torch.Tensor,
        anchored: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return the memory tokens, `(B, N + 1, E)`: one per query, and the end of the text.

        Args:
            embedded: The texts' input embeddings, `(B, T, E)`.
            read: Their last hidden states, `(B, T, E)`.
            asked: The queries' last hidden states, `(B, N, E)`.
            anchored: 1 where a query starts out looking, `(B, N, T)`.
            mask: 1 for the texts' tokens, 0 for the padding before them, `(B, T)`.
        """
        # Hidden states are some 15 times as long as embeddings: at that length, one step of Adam would already move
        # every query off its token and drown the token in the map of the states.
        asked, read = F.normalize(asked.float(), dim=-1), F.normalize(read.float(), dim=-1)
        scores = (asked @ self.looks.T) @ (read @ self.keys.T).transpose(1, 2)  # (B, N, T)
        weights = (scores + _ANCHORED * anchored).masked_fill(mask[:, None] == 0, -torch.inf).softmax(-1)
        tokens = weights @ embedded.float() + _GAIN * asked @ self.states.T
        return torch.cat([tokens, self.end.expand(len(tokens), 1, -1)], dim=1)


class Weaver:
    """A weaver on a language model that holds its adapter.

    Args:
        model: The language model.
        head: What was learnt beside the adapter.
        identity: Names the weights, for caches of memory tokens.
        adapter: Name of the LoRA adapter.
    """

    def __init__(self, model: LocalLanguageModel, head: WeaverHead, identity: str = "", adapter: str = ADAPTER) -> None:
        self.model = model
        self.head = head
        self.identity = identity
        self.adapter = adapter

    @classmethod
    def untrained(cls, model: LocalLanguageModel, queries: int, *, adapter: str, seed: int) -> Self:
        """Return a weaver at its start, with the model's `adapter`, and with a line break behind every text."""
        table = base_of(model.model).get_input_embeddings()
        head = WeaverHead(queries, table.embedding_dim, seed).to(table.weight.device)
        line_break = model.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
        with torch.no_grad():
            head.end.copy_(table.weight[line_break])
        return cls(model, head, adapter=adapter)

    @classmethod
    def load(cls, model: LocalLanguageModel, folder: str | Path) -> Self:
        """Load what `save` wrote; the model holds the folder's LoRA adapter as `ADAPTER` already.

        Raises:
            ModelError: The file of the queries is missing, cut short or another model's.
        """
        path = Path(folder).expanduser() / QUERIES
        _, headers = read_tensor_headers(path)
        count = (headers.get("queries", {}).get("shape") or [1])[0]
        head = WeaverHead(count, base_of(model.model).get_input_embeddings().embedding_dim)
        expected = {name: list(tensor.shape) for name, tensor in head.state_dict().items()}
        if {name: header["shape"] for name, header in headers.items()} != expected:
            raise ModelError(f"{path} does not fit this base model; train a weaver on it: make train-latent-tokens")
        head.load_state_dict(load_file(path))
        return cls(model, head.to(model.model.device).eval(), f"{hash_file(path)} {adapter_hash(folder)}")

    def save(self, folder: str | Path) -> None:
        """Write what was learnt beside the adapter."""
        save_file({name: part.contiguous() for name, part in self.head.state_dict().items()}, Path(folder) / QUERIES)

    @property
    def vectors(self) -> int:
        """Number of memory tokens per text."""
        return len(self.head.queries) + 1

    @property
    def longest(self) -> int | None:
        """Most tokens of a text that it reads; None if unbounded."""
        return None if self.model.window is None else self.model.window - len(self.head.queries)

    def compress(self, texts: Sequence[str]) -> list[tuple[bytes, ...]]:
        """Return each text's memory tokens, as float32 bytes."""
        compressed: dict[int, tuple[bytes, ...]] = {}
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        with torch.no_grad(), self.model.evaluating(self.adapter):
            for first in range(0, len(order), self.model.batch_size):
                rows = order[first : first + self.model.batch_size]
                woven = self.weave([texts[row] for row in rows]).cpu().numpy()  # (B, N + 1, E)
                compressed |= {
                    row: tuple(token.tobytes() for token in of_text) for row, of_text in zip(rows, woven, strict=True)
                }
        return [compressed[place] for place in range(len(texts))]

    def weave(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the texts' memory tokens, `(B, N + 1, E)` in float32, with their autograd graph.

        A text's first line is context: it is read, but no query starts there.
        """
        base = base_of(self.model.model)
        ids, mask, own = self._tokenize(texts)  # (B, T)
        cache = DynamicCache(config=base.config)
        with torch.no_grad(), active_adapter(self.model.model, None):
            embedded = base.get_input_embeddings()(ids)  # (B, T, E)
            read = base.base_model(
                inputs_embeds=embedded, attention_mask=mask, position_ids=_positions(mask), past_key_values=cache
            ).last_hidden_state  # (B, T, E)
            anchored = _anchors(_surprise(base, read, ids, own), own, len(self.head.queries))  # (B, N, T)
        behind = self.head.queries.to(embedded.dtype).expand(len(ids), -1, -1) * _length(base)
        whole = torch.cat([mask, mask.new_ones(len(ids), len(self.head.queries))], dim=1)
        with active_adapter(self.model.model, self.adapter):
            asked = base.base_model(
                inputs_embeds=behind,
                attention_mask=whole,
                position_ids=_positions(whole)[:, mask.size(1) :],
                past_key_values=cache,
            ).last_hidden_state  # (B, N, E)
        return self.head(embedded, read, asked, anchored, mask)

    def _tokenize(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the texts' ids, padded on the left, their mask, and that mask without the context, all `(B, T)`."""
        rows, contexts = [], []
        for text in texts:
            context, line_break, own = text.partition("\n")
            parts = [
                self.model.tokenizer(part, add_special_tokens=False)["input_ids"]
                for part in (context + line_break, own)
            ]
            rows.append([*parts[0], *parts[1]][: self.longest])
            contexts.append(len(parts[0]))
        width = max(map(len, rows))
        pad, device = self.model.tokenizer.pad_token_id or 0, self.model.model.device
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        return ids, mask, mask * (mask.cumsum(-1) > torch.tensor(contexts, device=device)[:, None])


def _surprise(base: Any, read: torch.Tensor, ids: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return each own token's negative log-likelihood, `(B, T)`; the first counts as the most surprising.

    Tokens that are not a text's own have -1.
    """
    states, following = read[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    told = [
        F.cross_entropy(base.get_output_embeddings()(part).float(), tokens, reduction="none")
        for part, tokens in zip(states.split(_AT_ONCE), following.split(_AT_ONCE), strict=True)
    ]
    surprise = F.pad(torch.cat(told).view(len(ids), ids.size(1) - 1), (1, 0))
    return surprise.masked_fill(own.cumsum(-1) == 1, torch.inf).masked_fill(own == 0, -1.0)


def _anchors(surprise: torch.Tensor, own: torch.Tensor, count: int) -> torch.Tensor:
    """Return 1 where query k of `count` meets the k-th of the most surprising tokens in text order, `(B, N, T)`."""
    most = surprise.topk(min(count, surprise.size(1)), dim=-1).indices  # (B, at most N)
    chosen = torch.zeros_like(own).scatter(1, most, 1) * own  # (B, T)
    query = torch.arange(1, count + 1, device=own.device)
    return ((chosen * chosen.cumsum(-1))[:, None] == query[:, None]).float()


def _length(base: Any) -> torch.Tensor:
    """Return the mean length of the model's input embeddings."""
    return base.get_input_embeddings().weight.detach().float().norm(dim=-1).mean()


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)
