"""A language model in this process: one base model, adapters switched by name, batched generation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.errors import ConfigurationError, PromptTooLongError
from memory_r1.inference.adapters import active_adapter, attach_adapter
from memory_r1.inference.language_model import Completion, Messages, Schema
from memory_r1.models import check_adapter, load_base, resolve_model

if TYPE_CHECKING:
    import torch

    from memory_r1.inference.constrained import Constraint
    from memory_r1.inference.prompt_trees import PromptTrees


class LocalLanguageModel:
    """A transformers model, plain or a `PeftModel` whose adapters are chosen by name at each call.

    Prompts that begin alike are completed together, and long ones apart from short ones.

    Args:
        model: A causal language model or a `PeftModel` around one.
        tokenizer: Its tokenizer, with a chat template.
        batch_size: Rows generated together (B).
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 16) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @classmethod
    def load(
        cls,
        model: str,
        adapters: Mapping[str, str | Path] | None = None,
        *,
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int = 16,
    ) -> LocalLanguageModel:
        """Load a base model and the named adapters (name to folder).

        Raises:
            ModelError: A folder is missing or broken, or an adapter was trained on another base model.
        """
        import torch

        source = resolve_model(model)
        for folder in (adapters or {}).values():
            check_adapter(folder, source)
        base, tokenizer = load_base(source, dtype)
        loaded: Any = base
        for name, folder in (adapters or {}).items():
            loaded = attach_adapter(loaded, name, folder)
        # PEFT loads adapters in float32; on a bfloat16 base every layer would convert back and forth.
        loaded = loaded.to(base.dtype)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(loaded.to(device).eval(), tokenizer, batch_size)

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
        """Complete each prompt (see `LanguageModel`); leave the training mode and `requires_grad` unchanged.

        Raises:
            PromptTooLongError: A prompt with its longest completion exceeds the window. No prompt is completed then.
        """
        import torch

        if seed is not None:
            torch.manual_seed(seed)
        tokenized = [self.tokenize(prompt) for prompt in prompts]
        longest = max(map(len, tokenized), default=0)
        self.check_length(longest, max_new_tokens)
        with self.evaluating(adapter):
            generated = self.generate_ids(
                tokenized, max_new_tokens=max_new_tokens, temperature=temperature, schemas=schemas
            )
        return [
            Completion(self.tokenizer.decode(ids, skip_special_tokens=True).strip(), len(prompt), len(ids))
            for prompt, ids in zip(tokenized, generated, strict=True)
        ]

    def generate_with_latents(
        self,
        prompts: Sequence[Messages],
        latents: Sequence[Sequence[bytes]],
        *,
        max_new_tokens: int,
        adapter: str | None = None,
    ) -> list[Completion]:
        """See `LatentLanguageModel.generate_with_latents`.

        Raises:
            PromptTooLongError: A prompt with its longest completion exceeds the window. No prompt is completed then.
        """
        from memory_r1.inference.latents import complete_around

        with self.evaluating(adapter):
            return complete_around(self, prompts, latents, max_new_tokens)

    def generate_ids(
        self,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        schemas: Sequence[Schema] | None = None,
    ) -> list[list[int]]:
        """Complete tokenized prompts, each up to and including its end-of-sequence token; return ids, in order.

        The model keeps its current mode and adapter.
        """
        import torch

        from memory_r1.inference.prompt_trees import batches

        completions: dict[int, list[int]] = {}
        with torch.no_grad():
            for rows in batches(prompts, self.batch_size):
                bounds = None if schemas is None else [schemas[row] for row in rows]
                generated = self._generate_batch([prompts[row] for row in rows], max_new_tokens, temperature, bounds)
                completions.update(zip(rows, generated, strict=True))
        return [completions[row] for row in range(len(prompts))]

    def likelihood(
        self, prompts: Sequence[Messages], heads: Sequence[str], texts: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """See `ScoringLanguageModel.likelihood`."""
        import torch

        rows, lengths = [], []
        for prompt, head, text in zip(prompts, heads, texts, strict=True):
            before, whole = (
                self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, head + text)
            )
            rows.append([*self.tokenize(prompt), *whole])
            lengths.append(max(1, len(whole) - len(before)))
        means: dict[int, float] = {}
        with torch.no_grad(), self.evaluating(adapter):
            order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
            for first in range(0, len(rows), self.batch_size):
                batch = order[first : first + self.batch_size]
                found = self._token_logprobs([rows[row] for row in batch], max(lengths[row] for row in batch))  # (B, C)
                means |= {row: float(found[place, -lengths[row] :].mean()) for place, row in enumerate(batch)}
        return [math.exp(means[row]) for row in range(len(rows))]

    def _token_logprobs(self, rows: list[list[int]], last: int) -> torch.Tensor:
        """Log-probabilities of the `last` tokens of each row, `(B, C)`."""
        import torch

        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)  # (B, T)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=ids.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=last + 1)
        logits = output.logits[:, :-1].float()  # (B, C, V): each predicts the token behind it
        return logits.log_softmax(-1).gather(-1, ids[:, -last:, None]).squeeze(-1)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def window(self) -> int | None:
        """The number of positions that the model supports."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(positions) if positions else None

    def check_length(self, longest: int, max_new_tokens: int) -> None:
        """Raise a PromptTooLongError if a prompt of `longest` tokens and its longest completion exceed the window."""
        if self.window is not None and longest + max_new_tokens > self.window:
            raise PromptTooLongError(
                f"a prompt of {longest} tokens with a completion of up to {max_new_tokens} exceeds the model's window "
                f"of {self.window}: shorten what the prompt shows, or the completion"
            )

    def prompt_tokens(self, prompt: Messages) -> int:
        return len(self.tokenize(prompt))

    def tokenize(self, prompt: Messages) -> list[int]:
        """Return the prompt's token ids, up to the start of the completion."""
        encoded = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])

    def _generate_batch(
        self,
        rows: list[list[int]],
        max_new_tokens: int,
        temperature: float,
        schemas: Sequence[Schema] | None = None,
    ) -> list[list[int]]:
        """Complete one batch, with transformers' `generate` if the model cannot share prompts."""
        import torch
        from transformers import GenerationConfig

        from memory_r1.inference.decoding import decode, until
        from memory_r1.inference.tree_attention import use_tree_attention

        stops, pad = self.stops_and_pad()
        if use_tree_attention(self.model):
            return decode(
                self.model,
                rows,
                max_new_tokens=max_new_tokens,
                stops=stops,
                pad=pad,
                temperature=temperature,
                constrain=schemas and self._constrained(schemas),
            )
        if schemas is not None:
            raise ConfigurationError("constrained decoding needs a model whose prompts can be shared; leave it out")
        width = max(len(row) for row in rows)
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)  # (B, T)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=ids.device)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=pad, **sampling)
        output: torch.Tensor = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return [until(row, stops) for row in output[:, width:].tolist()]

    def stops_and_pad(self) -> tuple[list[int], int]:
        """Return the ids that end a completion, and the one that fills gaps."""
        stops = _as_list(self.model.generation_config.eos_token_id)
        if self.tokenizer.eos_token_id not in stops:
            stops.append(self.tokenizer.eos_token_id)
        return stops, self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else stops[0]

    def _constrained(self, schemas: Sequence[Schema]) -> Callable[[PromptTrees], Constraint]:
        from memory_r1.inference.constrained import Constraint

        def build(trees: PromptTrees) -> Constraint:
            of_distinct = {row: schemas[place] for place, row in enumerate(trees.row)}  # equal prompts have equal ones
            return Constraint(self.tokenizer, [of_distinct[row] for row in range(len(of_distinct))], trees.slots)

        return build

    @contextmanager
    def evaluating(self, adapter: str | None) -> Iterator[None]:
        """Enter evaluation mode with one adapter, or none; restore mode, adapter and `requires_grad` on exit.

        A policy in training has float32 adapters on a lower-precision base, so it runs under autocast here too.
        """
        import torch

        was_training = self.model.training
        mixed = any(parameter.dtype != self.model.dtype for parameter in self.model.parameters())
        self.model.eval()
        try:
            with (
                active_adapter(self.model, adapter),
                torch.autocast(self.model.device.type, dtype=self.model.dtype, enabled=mixed),
            ):
                yield
        finally:
            self.model.train(was_training)


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
