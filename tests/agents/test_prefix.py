"""What prompts begin with is computed once, and nothing they say changes by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from memory_r1.agents.language_model import LocalLanguageModel
from memory_r1.agents.prefix import aligned, first_occurrence, prompt_cache, supports_plain_cache
from tests.tiny import load_tokenizer, sharpen

SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 8
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "mistral, sliding window": MistralConfig(**SIZES, sliding_window=WINDOW),
    "mistral, no window": MistralConfig(**SIZES, sliding_window=None),
    "gemma2, every second layer slides": Gemma2Config(**SIZES, sliding_window=WINDOW, query_pre_attn_scalar=8),
}
COMMON = list(range(10, 25))
# Instructions in common, two prompts twice, and rests of 3, 9 and 14 tokens.
ROWS = [
    [*COMMON, 30, 31, 32],
    [*COMMON, *range(40, 49)],
    [*COMMON, 30, 31, 32],
    [*COMMON, *range(60, 74)],
    [*COMMON, *range(40, 49)],
]


def make_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return sharpen(AutoModelForCausalLM.from_config(config)).eval()


def rows_of_tokens() -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=4)


@given(rows_of_tokens())
def test_aligned_rows_are_the_rows_with_padding_after_what_they_share(rows: list[list[int]]) -> None:
    batch = aligned(rows, pad=0)
    assert len({len(row) for row in batch.ids}) == 1
    for row, ids, mask in zip(rows, batch.ids, batch.mask, strict=True):
        assert [token for token, real in zip(ids, mask, strict=True) if real] == row
        assert ids[: batch.shared] == rows[0][: batch.shared]
        assert mask[: batch.shared] == [1] * batch.shared
        assert mask[-1] == 1  # the next token is predicted in the last column
        assert batch.shared < len(row)


def test_all_that_is_shared_is_shared() -> None:
    assert aligned([[5, 6, 7], [5, 6, 8, 9]], pad=0).ids == [[5, 6, 0, 7], [5, 6, 8, 9]]
    assert aligned([[5, 6], [5, 6]], pad=0).shared == 1  # one token of each row is left to run with the completion
    assert aligned([[5, 6], [6, 5]], pad=0).shared == 0
    assert aligned([[5, 6, 7], [5, 6, 8, 9]], pad=0, share=False).ids == [[0, 5, 6, 7], [5, 6, 8, 9]]


def passes(model: Any) -> Iterator[list[tuple[int, ...]]]:
    shapes: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_says_what_each_prompt_says_alone(name: str, tiny_model: Path) -> None:
    model, tokenizer = make_model(CONFIGS[name]), load_tokenizer(tiny_model)
    one_by_one = [LocalLanguageModel(model, tokenizer).generate_ids([row], max_new_tokens=6)[0] for row in ROWS]
    assert len({tuple(ids) for ids in one_by_one}) == 3
    assert LocalLanguageModel(model, tokenizer, batch_size=8).generate_ids(ROWS, max_new_tokens=6) == one_by_one
    # Alone, prompts go through the cache too: so compare with the model's own generation.
    plain = model.generate(input_ids=torch.tensor([ROWS[3]]), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert plain[0, len(ROWS[3]) :].tolist()[: len(one_by_one[3])] == one_by_one[3]


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral, no window"])
def test_the_cache_leads_to_the_logits_of_whole_prompts(name: str) -> None:
    model = make_model(CONFIGS[name])
    batch = aligned(ROWS, pad=0)
    ids, mask = torch.tensor(batch.ids), torch.tensor(batch.mask)
    shapes = next(passes(model))
    with torch.no_grad():
        cache = prompt_cache(model, ids, mask, batch.shared)
        assert cache is not None
        # The instructions once, then three distinct rests without their last token.
        assert shapes == [(1, len(COMMON)), (3, 13)]
        last = (mask.sum(-1, keepdim=True) - 1).long()
        found = model(input_ids=ids[:, -1:], attention_mask=mask, position_ids=last, past_key_values=cache).logits[
            :, -1
        ]
        expected = torch.stack([model(input_ids=torch.tensor([row])).logits[0, -1] for row in ROWS])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_rows_with_nothing_in_common_share_nothing() -> None:
    model = make_model(CONFIGS["llama"])
    batch = aligned([[5, 6, 7], [8, 9]], pad=0)
    with torch.no_grad():
        cache = prompt_cache(model, torch.tensor(batch.ids), torch.tensor(batch.mask), batch.shared)
    assert batch.shared == 0
    assert cache is not None
    assert cache.layers[0].keys.shape[0] == 2


def test_a_prompt_that_holds_the_padding_token_is_not_taken_for_padding(tiny_model: Path) -> None:
    model, tokenizer = make_model(CONFIGS["llama"]), load_tokenizer(tiny_model)
    rows = [[5, 6, 7, 8], [5, 0, 6, 7, 8], [5, 9, 9, 9, 9]]  # padded, the first is 5 0 6 7 8 as well
    one_by_one = [LocalLanguageModel(model, tokenizer).generate_ids([row], max_new_tokens=4)[0] for row in rows]
    assert one_by_one[0] != one_by_one[1]
    assert LocalLanguageModel(model, tokenizer).generate_ids(rows, max_new_tokens=4) == one_by_one


def test_a_prompt_of_one_token_has_no_cache(tiny_model: Path) -> None:
    model = make_model(CONFIGS["llama"])
    assert prompt_cache(model, torch.tensor([[5]]), torch.tensor([[1]]), 0) is None
    assert len(LocalLanguageModel(model, load_tokenizer(tiny_model)).generate_ids([[5]], max_new_tokens=2)[0]) <= 2


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        *[(CONFIGS[name], "window" not in name or "no window" in name) for name in list(CONFIGS)[:4]],
        (CONFIGS["gemma2, every second layer slides"], False),
        (Qwen3Config(**SIZES, sliding_window=4096, use_sliding_window=False), True),  # has a window, does not use it
        (MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=4), False),
    ],
)
def test_only_full_attention_has_a_plain_cache(config: PretrainedConfig, plain: bool) -> None:
    class Model:
        def __init__(self) -> None:
            self.config = config

    assert supports_plain_cache(Model()) is plain


def test_the_first_row_of_each_group() -> None:
    # Groups 0, 1 and 2 begin in rows 1, 0 and 3.
    assert first_occurrence(torch.tensor([1, 0, 1, 2, 0])).tolist() == [1, 0, 3]
