"""Rewards on distillation: do the memories that the Answer Agent names come from the question's evidence?

Memory-R1 (section 3.2) trains distillation by the final answer alone. Combine these two with an answer reward: naming
every memory earns full recall, and naming one sure memory earns full precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from memory_r1.agents.prompts import parse_relied_on
from memory_r1.metrics import evidence_recall

Share = Callable[[Sequence[str], Sequence[Sequence[str]]], float]


class EvidenceReward:
    """Score the memories that a completion names by their source turns.

    The reward is None (not applicable) if the question has no evidence or retrieval missed all of it: all completions
    of such a row would earn the same.

    Args:
        name: Key under which the reward is logged.
        share: Maps (evidence turn ids, source turn ids of each memory named) to a number in [0, 1].
    """

    def __init__(self, name: str, share: Share) -> None:
        self.__name__ = name
        self.share = share

    def __call__(
        self,
        completions: Sequence[list[dict[str, str]]],
        *,
        evidence: Sequence[Sequence[str]],
        sources: Sequence[Sequence[Sequence[str]]],
        texts: Sequence[Sequence[str]],
        answer_style: Sequence[str],
        **columns: Any,
    ) -> list[float | None]:
        """Return one reward per completion, in order."""
        rows = zip(completions, evidence, sources, texts, answer_style, strict=True)
        return [
            self._reward(completion[0]["content"], wanted, found, shown, style)
            for completion, wanted, found, shown, style in rows
        ]

    def _reward(
        self, text: str, evidence: Sequence[str], sources: Sequence[Sequence[str]], shown: Sequence[str], style: str
    ) -> float | None:
        """Score one completion; `sources` and `shown` are indexed by a memory's number in the prompt."""
        if not any(set(evidence).intersection(turn_ids) for turn_ids in sources):
            return None
        named = parse_relied_on(text, range(len(sources)), shown, style)
        return self.share(evidence, [sources[index] for index in named])


def recall_share(evidence: Sequence[str], named: Sequence[Sequence[str]]) -> float:
    """Return the share of evidence turns that are a source of some named memory."""
    return evidence_recall(evidence, [turn_id for sources in named for turn_id in sources]) or 0.0


def precision_share(evidence: Sequence[str], named: Sequence[Sequence[str]]) -> float:
    """Return the share of named memories that come from an evidence turn; 0 if none is named."""
    relevant = sum(not set(evidence).isdisjoint(sources) for sources in named)
    return relevant / len(named) if named else 0.0
