"""Prompts that begin alike, as trees, so that shared beginnings are computed once.

Prompts differ late: all prompts of an agent open with its instructions, questions to one bank continue with the same
memories, and the rows of a group are one prompt. A tree's tokens form one sequence in which each token sees its
ancestors. The last tokens of the prompts, whose successors are predicted, stand in the last columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

# Running a token through the layers costs about as much as this many scores (SmolLM2-135M on a CPU; more if larger).
_SCORES_A_TOKEN = 1000
# Trees narrower than this share of a pass's widest run in their own pass, so that few columns are padding.
_AS_WIDE = 0.8


@dataclass(slots=True)
class _Tree:
    """One tree behind the `start` tokens that all prompts share; columns count from there.

    Attributes:
        ids: Tokens of the columns, without the prompts' last tokens.
        positions: Their positions.
        runs: First column and ancestors (columns) of each stretch of tokens added by one prompt.
        paths: Columns visible to the last token of each distinct prompt.
        last: Last token of each distinct prompt, and its position.
        rows: The prompts themselves.
    """

    start: int
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    runs: list[tuple[int, list[int]]] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)
    last: list[tuple[int, int]] = field(default_factory=list)
    rows: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.ids) + len(self.last)

    def add(self, row: tuple[int, ...], common: int) -> None:
        """Add a prompt that shares its first `common` tokens with the prompt added before."""
        ancestors = self.paths[-1][: common - self.start] if self.paths else []
        first, added = len(self.ids), row[common:-1]
        self.runs.append((first, ancestors))
        self.ids += added
        self.positions += range(common, len(row) - 1)
        self.paths.append([*ancestors, *range(first, len(self.ids))])
        self.last.append((row[-1], len(row) - 1))
        self.rows.append(row)

    def gains(self, row: tuple[int, ...], common: int) -> bool:
        """Return whether a prompt costs less here than in its own tree.

        Here the common tokens are saved, but all queries of a tree compute the scores of all its columns.
        """
        together, alone = self.width + len(row) - common, len(row) - self.start
        return (common - self.start) * _SCORES_A_TOKEN > together**2 - self.width**2 - alone**2


def _planted(prompts: Sequence[Sequence[int]]) -> list[_Tree]:
    """Build the trees of the distinct prompts, widest first; the shared start leaves out each last token."""
    rows = sorted({tuple(prompt) for prompt in prompts})
    start = min(_common(rows[0], rows[-1]), *(len(row) - 1 for row in rows)) if len(rows) > 1 else 0
    trees: list[_Tree] = []
    for number, row in enumerate(rows):
        common = _common(rows[number - 1], row) if number else start
        if not trees or not trees[-1].gains(row, common):
            trees.append(_Tree(start))
            common = start
        trees[-1].add(row, common)
    return sorted(trees, key=lambda tree: -tree.width)


def _common(before: Sequence[int], row: Sequence[int]) -> int:
    """Count the leading tokens that two prompts share, without the last token of either."""
    most = min(len(before), len(row)) - 1
    return next((place for place in range(most) if before[place] != row[place]), most)


def batches(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Batch the prompts by `size`, tree by tree, those with long prompts first; return their indices.

    A tree that is split over two batches runs its beginning twice.
    """
    asked: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        asked.setdefault(tuple(prompt), []).append(number)
    trees = sorted(_planted(prompts), key=lambda tree: -max(map(len, tree.rows))) if prompts else []
    numbers = [number for tree in trees for row in tree.rows for number in asked[row]]
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


@dataclass(frozen=True, slots=True)
class Groups:
    """B rows as D distinct ones, each repeated in up to G slots: row b is in slot `slot[b]` of `group[b]`."""

    distinct: list[list[int]]
    group: list[int]
    slot: list[int]

    @property
    def size(self) -> int:
        """G, the size of the largest group."""
        return max(self.slot) + 1


def grouped(rows: Sequence[Sequence[int]]) -> Groups:
    """Find equal rows; groups are numbered in the order of their first rows."""
    number: dict[tuple[int, ...], int] = {}
    group = [number.setdefault(tuple(row), len(number)) for row in rows]
    taken = [0] * len(number)
    slot = []
    for index in group:
        slot.append(taken[index])
        taken[index] += 1
    return Groups([list(row) for row in number], group, slot)


class TreePass:
    """M trees that run in one pass: P columns behind S shared tokens, which run earlier.

    Args:
        trees: The trees.
        pad: Id that fills gaps; never read.

    Attributes:
        ids: `(M, P)`; the last L columns hold the last tokens of the distinct prompts.
        positions: `(M, S + P)`.
        leaves: L, the number of distinct prompts in the largest tree.
        ends: Tree and leaf of each distinct prompt, tree by tree, as two lists.
        paths: Columns of each distinct prompt among the S + P, first to last.
    """

    def __init__(self, trees: Sequence[_Tree], pad: int) -> None:
        self._trees, self._start = trees, trees[0].start
        self.leaves = max(len(tree.last) for tree in trees)
        inner = max(len(tree.ids) for tree in trees)
        self.ids = torch.full((len(trees), inner + self.leaves), pad)
        self.positions = torch.zeros(len(trees), self._start + inner + self.leaves, dtype=torch.long)
        self.positions[:, : self._start] = torch.arange(self._start)
        for ids, positions, tree in zip(self.ids, self.positions[:, self._start :], trees, strict=True):
            ends = slice(inner, inner + len(tree.last))
            ids[: len(tree.ids)] = torch.tensor(tree.ids, dtype=torch.long)
            positions[: len(tree.ids)] = torch.tensor(tree.positions, dtype=torch.long)
            ids[ends], positions[ends] = torch.tensor(tree.last).T
        leaves = [(number, leaf) for number, tree in enumerate(trees) for leaf in range(len(tree.last))]
        self.ends = [number for number, _ in leaves], [leaf for _, leaf in leaves]
        self.paths = [
            [*range(self._start), *(self._start + column for column in (*trees[number].paths[leaf], inner + leaf))]
            for number, leaf in leaves
        ]

    @property
    def branching(self) -> bool:
        """Whether some tree holds several prompts; otherwise a causal mask suffices."""
        return self.leaves > 1

    def mask(self) -> torch.Tensor:
        """Return 1 for tokens and 0 for padding, `(M, S + P)`."""
        mask = torch.zeros_like(self.positions)
        for number, path in zip(self.ends[0], self.paths, strict=True):
            mask[number, path] = 1
        return mask

    def visible(self) -> torch.Tensor:
        """Return what each column behind the shared tokens sees, boolean, `(M, P, S + P)`; padding sees itself too."""
        width = self.ids.size(1)
        visible = torch.ones(len(self.ids), width, self._start + width, dtype=torch.bool)
        visible[:, :, self._start :] = torch.eye(width, dtype=torch.bool)
        for seen, tree in zip(visible[:, :, self._start :], self._trees, strict=True):
            stops = [first for first, _ in tree.runs[1:]] + [len(tree.ids)]
            for (first, ancestors), stop in zip(tree.runs, stops, strict=True):
                seen[first:stop, ancestors] = True
                seen[first:stop, first:stop] = torch.ones(stop - first, stop - first, dtype=torch.bool).tril()
            for leaf, path in enumerate(tree.paths):
                seen[width - self.leaves + leaf, path] = True
        return visible


class PromptTrees:
    """B prompts, none empty, as trees behind the S tokens that all share.

    Args:
        prompts: Token ids.
        pad: Id that fills gaps; never read.

    Attributes:
        shared: The S tokens.
        passes: The trees, grouped by similar width.
        row: Index of each prompt among the D distinct ones, in the order of the passes.
        slot: Its index among equal prompts.
        slots: G, the largest number of equal prompts.
        lengths: Length of each distinct prompt in tokens, D numbers.
        tokens: Number of tokens to run, without padding.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], pad: int) -> None:
        planted = _planted(prompts)
        # Keep branching trees apart: a pass without any needs no mask of its own.
        trees = [tree for several in (True, False) for tree in planted if (len(tree.last) > 1) is several]
        self.shared = list(prompts[0][: trees[0].start])
        self.passes = [TreePass(part, pad) for part in _as_wide(trees)]
        self.tokens = len(self.shared) + sum(tree.width for tree in trees)
        distinct = [row for tree in trees for row in tree.rows]
        self.lengths = [len(row) for row in distinct]
        numbers = {row: number for number, row in enumerate(distinct)}
        groups = grouped(prompts)
        self.row = [numbers[tuple(prompt)] for prompt in prompts]
        self.slot, self.slots = groups.slot, groups.size


def _as_wide(trees: Sequence[_Tree]) -> list[list[_Tree]]:
    """Split the trees into runs of similar width, in which either all or none hold several prompts."""
    cut: list[list[_Tree]] = []
    for tree in trees:
        first = cut[-1][0] if cut else tree
        if cut and tree.width >= _AS_WIDE * first.width and (len(tree.last) > 1) is (len(first.last) > 1):
            cut[-1].append(tree)
        else:
            cut.append([tree])
    return cut
