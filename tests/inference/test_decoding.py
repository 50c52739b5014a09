"""Finished completions leave the batch, and the others continue as if alone."""

from __future__ import annotations

import pytest
import torch

from memory_r1.inference.decoding import decode, until
from memory_r1.inference.tree_attention import use_tree_attention
from tests.inference.test_prefix import CONFIGS, make_model, passes

NAMES = ["llama", "qwen3", "mistral, sliding window"]
STEPS = 10
PROMPTS = [[*range(10, 25), first, first + 1] for first in (30, 40, 60, 70, 80, 90)]


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_end_early_leave_and_change_nothing_for_the_others(name: str) -> None:
    model = make_model(CONFIGS[name])
    assert use_tree_attention(model)
    whole = [decode(model, [row], max_new_tokens=STEPS, stops=[], pad=0)[0] for row in PROMPTS]
    stops = {row[2] for row in whole[:4]}  # most end with their third token
    expected = [until(row, stops) for row in whole]
    lengths = [len(row) for row in expected]
    assert min(lengths) <= 3 < max(lengths)
    shapes = next(passes(model))
    assert decode(model, PROMPTS, max_new_tokens=STEPS, stops=stops, pad=0) == expected
    decoded = [rows for rows, columns in shapes if columns == 1]
    assert decoded[-1] <= len(PROMPTS) // 2


def test_a_group_stays_until_all_of_its_completions_have_ended() -> None:
    model = make_model(CONFIGS["llama"])
    assert use_tree_attention(model)
    torch.manual_seed(0)
    prompts = [row for row in PROMPTS for _ in range(4)]
    stops = list(range(3, 120))
    sampled = decode(model, prompts, max_new_tokens=STEPS, stops=stops, pad=0, temperature=2.0)
    for row in sampled:
        assert row == until(row, stops)
        assert len(row) == STEPS or row[-1] in stops
    assert len({len(row) for row in sampled[:4]}) > 1
