"""Attention by products equals PyTorch's fused attention, and skips positions that no query may see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from memory_r1.inference import cpu_attention as products
from memory_r1.inference.cpu_attention import Branches, attend_in_branches
from memory_r1.inference.tree_attention import Tree, tree_attention

HEADS, GROUPS, SIZE = 4, 2, 8
PROMPT, COUNT, STEPS = 9, 3, 4
LENGTHS = {"equal prompts": (9, 9), "padded prompts": (9, 5)}


def tensors(queries: int, keys: int, rows: int = 2, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, HEADS, queries, SIZE), *[(rows, GROUPS, keys, SIZE)] * 2]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, enable_gqa=True)


def with_gradients(function: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    output = function(*inputs)
    weights = torch.linspace(-1, 2, output.numel()).view_as(output).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, weights)]


def tree_of(lengths: tuple[int, ...]) -> torch.Tensor:  # (D, 1, G * T, P + G * T)
    visible = torch.zeros(len(lengths), 1, COUNT * STEPS, PROMPT + COUNT * STEPS, dtype=torch.bool)
    for row, length in enumerate(lengths):
        visible[row, :, :, :length] = True
    visible[..., PROMPT:] = torch.block_diag(*[torch.ones(STEPS, STEPS, dtype=torch.bool).tril()] * COUNT)
    return visible


@pytest.mark.parametrize("name", LENGTHS)
def test_completions_attend_as_under_a_mask_and_so_do_their_gradients(name: str) -> None:
    visible = tree_of(LENGTHS[name])
    padding = ~visible[:, :, :1, :PROMPT]
    branches = Branches(COUNT, STEPS, padding if bool(padding.any()) else None)
    inputs = tensors(COUNT * STEPS, PROMPT + COUNT * STEPS)
    found = with_gradients(lambda *parts: attend_in_branches(*parts, branches, SIZE**-0.5), inputs)
    expected = with_gradients(lambda *parts: fused(*parts, visible), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_completions_attend_nearly_as_exactly_as_the_fused_kernel_lets_them() -> None:
    visible, branches = tree_of(LENGTHS["equal prompts"]), Branches(COUNT, STEPS, None)
    halves = tensors(COUNT * STEPS, PROMPT + COUNT * STEPS, dtype=torch.bfloat16)
    precise = [part.detach().float().requires_grad_() for part in halves]
    expected = with_gradients(lambda *parts: fused(*parts, visible), precise)
    found = with_gradients(lambda *parts: attend_in_branches(*parts, branches, SIZE**-0.5), halves)
    kernel = with_gradients(lambda *parts: fused(*parts, visible), halves)
    for exact, one, other in zip(expected, found, kernel, strict=True):
        assert (one.float() - exact).norm() <= 3 * (other.float() - exact).norm() <= 0.05 * exact.norm()


def test_completions_attend_and_learn_under_autocast() -> None:
    # As in a model whose rotary positions turn queries and keys, but not values, back into float32.
    query, key, value = tensors(COUNT * STEPS, PROMPT + COUNT * STEPS)
    branches, visible = Branches(COUNT, STEPS, None), tree_of(LENGTHS["equal prompts"])
    with torch.autocast("cpu", torch.bfloat16):
        output = attend_in_branches(query, key, value.bfloat16(), branches, SIZE**-0.5)
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), fused(query, key, value, visible), rtol=0.05, atol=0.05)
    assert all(part.grad is not None and part.grad.dtype == torch.float32 for part in (query, key, value))


def test_what_siblings_hold_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (part.detach() for part in tensors(COUNT * STEPS, PROMPT + COUNT * STEPS))
    for part in (key, value):
        part[:, :, PROMPT : PROMPT + STEPS] = torch.nan  # of the first branch
    places = torch.zeros(2, COUNT * STEPS), torch.zeros(2, PROMPT + COUNT * STEPS)
    visible = tree_of(LENGTHS["equal prompts"])[:, 0]
    module = torch.nn.Module()
    apart, _ = tree_attention(
        module, query, key, value, None, tree=Tree(visible, *places, Branches(COUNT, STEPS, None))
    )
    assert apart[:, :STEPS].isnan().all() and apart[:, STEPS:].isfinite().all()
    masked, _ = tree_attention(module, query, key, value, None, tree=Tree(visible, *places))
    assert masked.isnan().all()


def test_weights_that_would_take_too_much_memory_are_left_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, _ = tensors(4, 4, dtype=torch.bfloat16)
    assert products.pay(query, key, 0.0) and products.pay_in_branches(query, key, 0.0)
    monkeypatch.setattr(products, "KEPT", 2 * HEADS * 4 * 4 - 1)
    assert not products.pay(query, key, 0.0) and not products.pay_in_branches(query, key, 0.0)
    with torch.no_grad():
        assert products.pay(query, key, 0.0)
    assert not products.pay(query.detach(), key, 0.1) and not products.pay(query.detach().float(), key, 0.0)


def test_what_sees_both_ways_is_left_to_the_fused_kernel() -> None:
    query, key, value = (part.detach() for part in tensors(6, 6, dtype=torch.bfloat16))
    everything = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    tower = torch.nn.Module()
    tower.is_causal, tower.num_key_value_groups = False, HEADS // GROUPS  # of a picture, say
    output, _ = tree_attention(tower, query, key, value, None)
    torch.testing.assert_close(output.transpose(1, 2), fused(query, key, value, everything), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("at_once", [10, 4_000_000])
@pytest.mark.parametrize("kind", ["no mask", "boolean", "added", "one query"])
def test_half_precision_attends_by_products(kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SCORES", at_once)
    monkeypatch.setattr(products, "_FEWEST", 4)
    before = 0 if kind == "no mask" else 6
    queries = 1 if kind == "one query" else 13
    keys = before + queries
    inputs = tensors(queries, keys, dtype=torch.bfloat16)
    visible = torch.ones(2, 1, queries, keys, dtype=torch.bool).tril(before)
    if before:
        visible[1, ..., :3] = False  # padding on the left
    given = {
        "no mask": None,
        "one query": visible,
        "boolean": visible,
        "added": torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.bfloat16).min),
    }[kind]
    module = torch.nn.Module()
    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", None)
        found = with_gradients(lambda *parts: tree_attention(module, *parts, given)[0].transpose(1, 2), inputs)
    precise = [part.detach().float().requires_grad_() for part in inputs]
    expected = with_gradients(lambda *parts: fused(*parts, visible), precise)
    for one, other in zip(found, expected, strict=True):
        assert (one.float() - other).norm() <= 0.01 * other.norm()


def test_every_query_has_its_own_row_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tensors(10, 12)
    added = torch.randn(2, 1, 10, 12, generator=torch.Generator().manual_seed(1))
    whole = products.attend(query[:, :GROUPS], key, value, added, 0.3)
    monkeypatch.setattr(products, "SCORES", 1)
    monkeypatch.setattr(products, "_FEWEST", 4)
    torch.testing.assert_close(products.attend(query[:, :GROUPS], key, value, added, 0.3), whole)


def test_a_chunk_leaves_out_the_keys_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SCORES", 1)
    monkeypatch.setattr(products, "_FEWEST", 4)
    seen: list[tuple[int, int]] = []
    real = products.attend

    def recorded(query: torch.Tensor, key: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((query.size(2), key.size(2)))
        return real(query, key, *rest)

    monkeypatch.setattr(products, "attend", recorded)
    query, key, value = tensors(10, 10, dtype=torch.bfloat16)
    tree_attention(torch.nn.Module(), query, key, value, None)
    assert seen == [(4 * HEADS // GROUPS, 4), (4 * HEADS // GROUPS, 8), (2 * HEADS // GROUPS, 10)]
