"""The weaver: compresses a text into a few memory tokens, vectors among the model's own input embeddings.

As in MemGen, learned query vectors stand behind the text's input embeddings, and a LoRA adapter reads both: the last
hidden states at the queries become memory tokens. Each token adds two parts, and is then scaled to the length of an
ordinary embedding:

- a mixture of the text's input embeddings. Query k starts with the k-th part of the text and learns where to look;
- a linear map of its hidden state, which starts at zero.

So an untrained weaver averages neighbouring words, which a frozen reader half understands, and training goes on from
there. MemGen's tokens start from noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from memory_r1.errors import ModelError
from memory_r1.inference.latents import base_of
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.models import adapter_hash
from memory_r1.weights import hash_file, read_tensor_headers

ADAPTER = "weaver"
"""Name of the LoRA adapter in the language model."""
QUERIES = "queries.safetensors"
_POINTER = 64  # size of the vectors that decide where a query looks
_NEARNESS = 4.0  # how strongly an untrained query keeps to its own part of the text


class WeaverHead(nn.Module):
    """What the weaver learns beside its LoRA adapter.

    Args:
        queries: Number of memory tokens per text (N).
        size: Size of the model's embeddings (E).
        seed: Seed of the start.
    """

    def __init__(self, queries: int, size: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.queries = nn.Parameter(torch.randn(queries, size, generator=generator))
        self.looks = nn.Parameter(torch.zeros(_POINTER, size))
        self.keys = nn.Parameter(torch.randn(_POINTER, size, generator=generator) / size**0.5)
        self.states = nn.Parameter(torch.zeros(size, size))

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the memory tokens before scaling, `(B, N, E)`.

        Args:
            embedded: The texts' input embeddings, `(B, T, E)`.
            hidden: The last hidden states of texts and queries, `(B, T + N, E)`.
            mask: 1 for the texts' tokens, 0 for the padding before them, `(B, T)`.
        """
        count = len(self.queries)
        text, query = hidden[:, :-count].float(), hidden[:, -count:].float()
        scores = (query @ self.looks.T) @ (text @ self.keys.T).transpose(1, 2)  # (B, N, T)
        places = (mask.cumsum(-1) - 0.5) / mask.sum(-1, keepdim=True) * count - 0.5  # (B, T), in parts of the text
        part = torch.arange(count, device=mask.device)
        scores = scores - _NEARNESS * (places[:, None] - part[:, None]) ** 2
        weights = scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(-1)
        return weights @ embedded.float() + query @ self.states.T


class Weaver:
    """A weaver on a language model that holds its adapter.

    Args:
        model: The language model.
        head: What was learnt beside the adapter.
        identity: Names the weights, for caches of memory tokens.
        adapter: Name of the LoRA adapter; None for the bare base model.
    """

    def __init__(
        self, model: LocalLanguageModel, head: WeaverHead, identity: str, adapter: str | None = ADAPTER
    ) -> None:
        self.model = model
        self.head = head
        self.identity = identity
        self.adapter = adapter

    @classmethod
    def load(cls, model: LocalLanguageModel, folder: str | Path) -> Self:
        """Load what `save` wrote; the model holds the folder's adapter as `ADAPTER` already.

        Raises:
            ModelError: The file of the queries is missing, cut short or another model's.
        """
        path = Path(folder).expanduser() / QUERIES
        _, headers = read_tensor_headers(path)
        size = base_of(model.model).get_input_embeddings().embedding_dim
        head = WeaverHead(headers.get("queries", {}).get("shape", [1])[0], size)
        expected = {name: list(tensor.shape) for name, tensor in head.state_dict().items()}
        if {name: header["shape"] for name, header in headers.items()} != expected:
            raise ModelError(f"{path} does not fit this base model; train the weaver on it: make train-latent-tokens")
        head.load_state_dict(load_file(path))
        identity = f"{hash_file(path)} {adapter_hash(folder)}"
        return cls(model, head.to(model.model.device).eval(), identity)

    def save(self, folder: str | Path) -> None:
        """Write what was learnt beside the adapter."""
        save_file(
            {name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}, Path(folder) / QUERIES
        )

    @property
    def vectors(self) -> int:
        """Number of memory tokens per text."""
        return len(self.head.queries)

    @property
    def longest(self) -> int | None:
        """Most tokens of a text that it reads; None if unbounded."""
        return None if self.model.window is None else self.model.window - self.vectors

    def compress(self, texts: Sequence[str]) -> list[tuple[bytes, ...]]:
        """Return each text's memory tokens, as float32 bytes."""
        compressed: dict[int, tuple[bytes, ...]] = {}
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        with torch.no_grad(), self.model.evaluating(self.adapter):
            for first in range(0, len(order), self.model.batch_size):
                rows = order[first : first + self.model.batch_size]
                tokens = self.weave([texts[row] for row in rows]).float().cpu().numpy()  # (B, N, E)
                compressed |= {
                    row: tuple(vector.tobytes() for vector in of_text)
                    for row, of_text in zip(rows, tokens, strict=True)
                }
        return [compressed[place] for place in range(len(texts))]

    def weave(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the texts' memory tokens, `(B, N, E)` in float32, under the model's current adapter and mode."""
        base = base_of(self.model.model)
        table = base.get_input_embeddings()
        rows = [self.model.tokenizer(text, add_special_tokens=False)["input_ids"][: self.longest] for text in texts]
        width = max(map(len, rows))
        pad = self.model.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=base.device)  # (B, T)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=base.device)
        embedded = table(ids)  # (B, T, E)
        length = shell(table)
        queries = self.head.queries / self.head.queries.norm(dim=-1, keepdim=True) * length
        behind = queries.to(embedded.dtype).expand(len(rows), -1, -1)
        whole = torch.cat([mask, mask.new_ones(len(rows), self.vectors)], dim=1)
        hidden = base.base_model(
            inputs_embeds=torch.cat([embedded, behind], dim=1),
            attention_mask=whole,
            position_ids=(whole.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state  # (B, T + N, E)
        tokens = self.head(embedded, hidden, mask)
        return tokens / tokens.norm(dim=-1, keepdim=True).clamp(min=1e-6) * length


def shell(table: nn.Module) -> torch.Tensor:
    """Return the mean length of a table's embeddings."""
    return table.weight.detach().float().norm(dim=-1).mean()
