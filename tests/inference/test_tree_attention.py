"""Long prompts attend in chunks with the same scores, skipping keys that the mask hides from a whole chunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, Qwen3Config
from transformers.cache_utils import DynamicCache

from memory_r1.inference import tree_attention as attention
from memory_r1.inference.tree_attention import use_tree_attention
from tests.inference.test_prefix import SIZES, WINDOW

CONFIGS = {"qwen3": Qwen3Config(**SIZES), "window": MistralConfig(**SIZES, sliding_window=WINDOW)}


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_change_nothing_and_leave_out_the_keys_behind_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa").eval()
    ids = torch.randint(3, 400, (3, 45))
    mask = torch.ones_like(ids)
    mask[1, :20] = 0  # left padding longer than two chunks
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    start = {"input_ids": ids[:, :5], "attention_mask": mask[:, :5], "position_ids": positions[:, :5]}
    rest = {"input_ids": ids[:, 5:], "attention_mask": mask, "position_ids": positions[:, 5:]}

    def logits() -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(**start, past_key_values=cache, use_cache=True)
            return model(**rest, past_key_values=cache, use_cache=True).logits

    whole = logits()
    monkeypatch.setattr(attention, "CHUNK", 8)
    seen: list[tuple[int, int]] = []
    real = attention.sdpa_attention_forward

    def recorded(module: Any, query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append((query.size(2), key.size(2)))
        return real(module, query, key, *rest, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", recorded)
    assert use_tree_attention(model)
    chunked = logits()
    shown = mask[:, 5:].bool()
    torch.testing.assert_close(chunked[shown], whole[shown], rtol=1e-5, atol=1e-6)
    assert chunked[~shown].isfinite().all()
    if name == "qwen3":
        layer = [(5, 5), *((8, 5 + end) for end in range(8, 41, 8))]
        assert sorted(seen) == sorted(layer * 2)


@pytest.mark.parametrize("added", [False, True])
def test_keys_behind_a_chunk_that_a_mask_shows_are_kept(added: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CHUNK", 8)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 24, 4) for _ in range(3))
    mask = torch.ones(1, 1, 24, 24, dtype=torch.bool).tril()
    mask[..., 4:12, 4:12] = True  # sees both ways across the end of the first chunk, as the parts of an image do
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    given = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min) if added else mask
    module = torch.nn.Module()
    module.is_causal = True
    output, _ = attention.tree_attention(module, query, key, value, given)
    torch.testing.assert_close(output.transpose(1, 2), expected)
