"""Validation of a policy, greedily: on rows by the rewards it is trained on, or by dialogues played to their end.

Rows judge one completion over a bank that another manager wrote; what a policy's habits add up to over a dialogue, such
as a memory for every remark, shows only when it plays one itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memory_r1.agents.language_model import LocalLanguageModel
from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.metrics import f1_squad
from memory_r1.systems.player import play_manager
from memory_r1.training.answering import BankQuestion, FrozenAnswering
from memory_r1.training.policy import POLICY
from memory_r1.training.rows import Row
from memory_r1.types import Dialogue

Scores = tuple[list[float | None], dict[str, float]]
"""A score for each row or question, None where there is none, and means of other measures."""

Describe = Callable[[Sequence[str], Sequence[Row]], dict[str, float]]
"""(completions, their rows) to metrics of what the completions do, e.g. the share of each operation."""


def score_greedily(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    rewards: Sequence[tuple[float, Callable[..., list[float | None]]]],
    *,
    max_new_tokens: int,
    describe: Describe | None = None,
) -> Scores:
    """Weighted reward of each row's greedy completion, None where no function has one, and the mean of each function.

    Args:
        model: The policy, under its active adapter.
        tokenizer: Its tokenizer.
        rows: What is completed; their columns reach the rewards.
        rewards: Reward functions with their weights.
        max_new_tokens: Longest completion.
        describe: Metrics of the completions themselves.
    """
    if not rows:
        return [], {}
    local = LocalLanguageModel(model, tokenizer, batch_size=32)
    prompts = [row["prompt"] for row in rows]
    generated = local.generate(prompts, max_new_tokens=max_new_tokens, adapter=getattr(model, "active_adapter", None))
    completions = [[{"role": "assistant", "content": completion.text}] for completion in generated]
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    columns["completion_ids"] = [tokenizer(item.text, add_special_tokens=False)["input_ids"] for item in generated]
    totals: list[float | None] = [None] * len(rows)
    metrics: dict[str, float] = {}
    for weight, function in rewards:
        scores = function(completions=completions, prompts=prompts, **columns)
        known = [score for score in scores if score is not None]
        metrics[f"reward/{function.__name__}"] = sum(known) / len(known) if known else 0.0
        for index, score in enumerate(scores):
            if score is not None:
                totals[index] = (totals[index] or 0.0) + weight * score
    if describe is not None:
        described = describe([completion.text for completion in generated], rows)
        metrics |= {f"completions/{name}": value for name, value in described.items()}
    return totals, metrics


@dataclass(frozen=True, slots=True)
class PlayedDialogues:
    """Validation of a manager by what can be answered at the end of dialogues that it has played itself.

    Attributes:
        dialogues: Validation dialogues; all their questions are asked.
        answering: The frozen Answer Agent with its retriever.
        top_k: Memories recalled per speaker for the manager.
    """

    dialogues: Sequence[Dialogue]
    answering: FrozenAnswering
    top_k: int

    def score(self, model: Any, tokenizer: Any, dialogues: Sequence[Dialogue], max_new_tokens: int) -> Scores:
        """Token F1 (SQuAD) of each question of `dialogues` over the bank that the policy leaves."""
        if not dialogues:
            return [], {}
        manager = MemoryManager(
            LocalLanguageModel(model, tokenizer, batch_size=32),
            self.answering.retriever,
            adapter=POLICY,
            top_k=self.top_k,
            max_new_tokens=max_new_tokens,
        )
        log = play_manager(dialogues, manager)
        banks = {dialogue.dialogue_id: log.state(dialogue.dialogue_id).bank.entries() for dialogue in dialogues}
        asked = [
            BankQuestion(question, banks[dialogue.dialogue_id], dialogue.speakers)
            for dialogue in dialogues
            for question in dialogue.questions
        ]
        scores = [
            None if answer is None else f1_squad(answer.text, item.question.answer)
            for item, answer in zip(asked, self.answering.answer(asked), strict=True)
        ]
        return scores, {"entries": sum(map(len, banks.values())) / len(banks)}


def merged(shares: Sequence[Scores]) -> tuple[float, dict[str, float]]:
    """The mean score over all processes' shares, and the mean of each measure, weighted by their sizes."""
    known = [score for scores, _ in shares for score in scores if score is not None]
    sizes: dict[str, int] = {}
    sums: dict[str, float] = {}
    for scores, measures in shares:
        for name, value in measures.items():
            sizes[name] = sizes.get(name, 0) + len(scores)
            sums[name] = sums.get(name, 0.0) + value * len(scores)
    return (sum(known) / len(known) if known else 0.0), {name: sums[name] / max(1, sizes[name]) for name in sums}
