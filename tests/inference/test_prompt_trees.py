"""Trees hold every prompt, and each token sees exactly the prompt tokens before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_r1.inference import prompt_trees
from memory_r1.inference.prompt_trees import PromptTrees, batches

PAD = 0
prompts = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=8)


@given(prompts, st.sampled_from([0, 10, 1000]))
def test_every_token_sees_its_prompt_up_to_itself(rows: list[list[int]], scores_a_token: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_trees, "_SCORES_A_TOKEN", scores_a_token)
        trees = PromptTrees(rows, PAD)
    assert len(set(zip(trees.row, trees.slot, strict=True))) == len(rows)
    start, found = len(trees.shared), []
    for part in trees.passes:
        visible = part.visible()
        for tree, leaf, path in zip(*part.ends, part.paths, strict=True):
            ids = [*trees.shared, *part.ids[tree].tolist()]
            found.append([ids[column] for column in path])
            assert part.positions[tree, path].tolist() == list(range(len(path)))
            assert path[-1] == start + part.ids.size(1) - part.leaves + leaf
            for place, column in enumerate(path[start:], start=start):
                assert visible[tree, column - start].nonzero()[:, 0].tolist() == sorted(path[: place + 1])
    assert [found[row] for row in trees.row] == rows
    assert [len(row) for row in found] == trees.lengths
    assert trees.slots == max(map(rows.count, rows))


@given(prompts)
def test_the_mask_is_of_the_tokens_and_says_all_where_nothing_branches(rows: list[list[int]]) -> None:
    trees = PromptTrees(rows, PAD)
    start = len(trees.shared)
    for part in trees.passes:
        mask = part.mask().bool()
        for tree in range(len(mask)):
            paths = [path for at, path in zip(part.ends[0], part.paths, strict=True) if at == tree]
            assert mask[tree].nonzero()[:, 0].tolist() == sorted(set().union(*paths))
            if not part.branching:
                real = mask[tree, start:]
                seen = part.visible()[tree, :, start:][real][:, real]
                assert seen.tolist() == seen.new_ones(seen.shape).tril().tolist()
    assert trees.tokens == start + sum(int(part.mask()[:, start:].sum()) for part in trees.passes)


def test_what_is_shared_is_counted_once() -> None:
    bank = list(range(20, 60))
    trees = PromptTrees([[1, 2, *bank, 5, 6], [1, 2, *bank, 5, 7], [1, 2, 9], [1, 2, 9]], PAD)
    assert trees.shared == [1, 2]
    assert [part.ids.tolist() for part in trees.passes] == [[[*bank, 5, 6, 7]], [[9]]]
    assert [part.branching for part in trees.passes] == [True, False]
    assert (trees.row, trees.slot, trees.slots) == ([0, 1, 2, 2], [0, 0, 0, 1], 2)
    assert trees.tokens == 2 + (40 + 1 + 2) + 1


def test_a_prompt_that_has_little_in_common_gets_a_tree_of_its_own() -> None:
    rest = [list(range(first, first + 300)) for first in (100, 500)]

    def count(beginning: list[int]) -> int:
        trees = PromptTrees([[*beginning, *rest[0]], [*beginning, *rest[1]], [3]], PAD)
        return sum(len(part.ids) for part in trees.passes)

    assert count([1, 2]) == 3  # 180 thousand scores more, and two tokens less
    assert count(list(range(1000, 1250))) == 2


@given(prompts, st.integers(1, 5))
def test_batches_hold_every_prompt_once(rows: list[list[int]], size: int) -> None:
    cut = batches(rows, size)
    assert sorted(number for batch in cut for number in batch) == list(range(len(rows)))
    assert max(map(len, cut)) <= size


def test_long_prompts_come_first_and_those_of_one_tree_together() -> None:
    banks = [[number, *range(100, 150 + number)] for number in (1, 2, 3)]
    rows = [[*bank, 7, question] for question in (8, 9) for bank in banks]
    assert batches(rows, 4) == [[2, 5, 1, 4], [0, 3]]
    assert batches(rows, 3) == [[2, 5, 1], [4, 0, 3]]  # full, though a tree is cut
    assert batches([], 4) == []
