"""A common prefix of prompts is computed once, without changing any completion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.prefix import ReservedLayer, prefill
from memory_r1.inference.prompt_trees import PromptTrees, grouped
from memory_r1.inference.tree_attention import use_tree_attention
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
    "qwen2": Qwen2Config(**SIZES),
    "gemma3, every second layer slides": Gemma3TextConfig(
        **SIZES, sliding_window=WINDOW, query_pre_attn_scalar=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "gemma2, every second layer slides": Gemma2Config(
        **SIZES, sliding_window=WINDOW, query_pre_attn_scalar=8
    ),  # caps its scores, so it uses its own generate
}
COMMON = list(range(10, 25))
# Common instructions, two repeated prompts, and suffixes of 3, 9, 12 and 14 tokens.
ROWS = [
    [*COMMON, 30, 31, 32],
    [*COMMON, *range(40, 49)],
    [*COMMON, 30, 31, 32],
    [*COMMON, *range(60, 74)],
    [*COMMON, *range(40, 49)],
    [*COMMON, *range(80, 92)],
]


def make_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return sharpen(AutoModelForCausalLM.from_config(config)).eval()


def passes(model: Any) -> Iterator[list[tuple[int, ...]]]:
    shapes: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_says_what_transformers_says_of_each_prompt(name: str, tiny_model: Path) -> None:
    model, tokenizer = make_model(CONFIGS[name]), load_tokenizer(tiny_model)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2}
    alone = [model.generate(input_ids=torch.tensor([row]), **options)[0, len(row) :].tolist() for row in ROWS]
    assert len({tuple(ids) for ids in alone}) == 4
    local = LocalLanguageModel(model, tokenizer, batch_size=8)
    assert local.generate_ids(ROWS, max_new_tokens=8) == alone
    assert local.generate_ids([ROWS[3]], max_new_tokens=8) == [alone[3]]


@pytest.mark.parametrize("name", ["llama", "mistral, sliding window"])
def test_what_rows_share_runs_once_and_equal_rows_too(name: str) -> None:
    model = make_model(CONFIGS[name])
    assert use_tree_attention(model)
    shapes = next(passes(model))
    trees = PromptTrees(ROWS, pad=0)
    with torch.no_grad():
        logits, cache = prefill(model, trees, room=4)
        # The suffixes of 9 and 3 tokens, which would be mostly padding, in separate passes.
        assert shapes == [(1, len(COMMON)), (2, 14), (1, 9), (1, 3)]
        expected = torch.stack([model(input_ids=torch.tensor([row])).logits[0, -1] for row in ROWS])
    assert cache.get_seq_length() == len(COMMON) + 14
    torch.testing.assert_close(logits[trees.row], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral, sliding window"])
def test_what_some_rows_share_runs_once_too(name: str) -> None:
    model = make_model(CONFIGS[name])
    assert use_tree_attention(model)
    shapes = next(passes(model))
    bank = [*COMMON, *range(100, 140)]
    rows = [[*bank, 30, 31], [*bank, 30, 32], [*COMMON, 50, 51], [*bank, 33], [*COMMON, 50, 51]]
    trees = PromptTrees(rows, pad=0)
    with torch.no_grad():
        logits, _ = prefill(model, trees, room=4)
        assert shapes == [(1, len(COMMON)), (1, 40 + 1 + 3), (1, 2)]
        expected = torch.stack([model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows])
    torch.testing.assert_close(logits[trees.row], expected, rtol=0, atol=1e-4)


def test_a_prompt_that_holds_the_padding_token_is_not_taken_for_padding(tiny_model: Path) -> None:
    model, tokenizer = make_model(CONFIGS["llama"]), load_tokenizer(tiny_model)
    rows = [[5, 6, 7, 8, 8, 9], [5, 6, 7, 8, 8, 0, 9], [5, 9, 9, 9, 9, 9]]  # padded, the first is 5 6 7 8 8 0 9 as well
    one_by_one = [LocalLanguageModel(model, tokenizer).generate_ids([row], max_new_tokens=4)[0] for row in rows]
    assert one_by_one[0] != one_by_one[1]
    assert LocalLanguageModel(model, tokenizer).generate_ids(rows, max_new_tokens=4) == one_by_one


def test_a_prompt_of_one_token_is_completed(tiny_model: Path) -> None:
    model = make_model(CONFIGS["llama"])
    assert 1 <= len(LocalLanguageModel(model, load_tokenizer(tiny_model)).generate_ids([[5]], max_new_tokens=2)[0]) <= 2


def test_trees_with_and_without_branches_are_completed_alike(tiny_model: Path) -> None:
    bank = [*COMMON, *range(100, 140)]
    rows = [
        *([*bank, *range(200, 203), question] for question in (30, 31, 32)),
        *([*COMMON, *range(first, first + 42)] for first in (220, 270)),
        [*COMMON, 300],
    ]
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model(CONFIGS["llama"]).to(dtype)
        assert use_tree_attention(model)
        with torch.no_grad():
            trees = PromptTrees(rows, pad=0)
            assert [part.branching for part in trees.passes] == [True, False, False]
            logits, _ = prefill(model, trees, room=2)
            alone = torch.cat([model(input_ids=torch.tensor([row])).logits[:, -1] for row in rows])
        torch.testing.assert_close(logits[trees.row], alone, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.2)
        local = LocalLanguageModel(model, load_tokenizer(tiny_model))
        if dtype == torch.float32:
            expected = [local.generate_ids([row], max_new_tokens=6)[0] for row in rows]
            assert local.generate_ids(rows, max_new_tokens=6) == expected


def test_rows_are_numbered_in_their_order() -> None:
    groups = grouped([[5], [6], [5], [7], [5]])
    assert (groups.distinct, groups.group, groups.slot) == ([[5], [6], [7]], [0, 1, 0, 2, 0], [0, 0, 1, 0, 2])
    assert groups.size == 3


def test_a_reserved_layer_holds_what_it_was_given() -> None:
    layer = ReservedLayer(room=2)
    states = torch.randn(1, 1, 9, 4)
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 9)):
        keys, values = layer.update(states[:, :, start:stop], -states[:, :, start:stop])
    assert torch.equal(keys, states)
    assert torch.equal(values, -states)
    assert layer.get_seq_length() == 9
    apart = layer.repeated(2)
    keys, _ = apart.update(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4))
    assert torch.equal(keys[:, :, :9], states.repeat_interleave(2, dim=0))
    assert (apart.get_seq_length(), layer.get_seq_length()) == (10, 9)
    assert ReservedLayer(room=2).repeated(3).get_seq_length() == 0
