"""Validate a policy greedily, on rows by its training rewards or on whole played dialogues.

Rows judge single completions over a bank that another manager wrote. A policy's habits, such as an entry for every
remark, show only if it plays a dialogue itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.memory.forms import FLAT, OperationForm
from memory_r1.metrics import f1_squad
from memory_r1.systems.player import play_manager
from memory_r1.training.frozen_answering import BankQuestion, FrozenAnswering
from memory_r1.training.policy import POLICY
from memory_r1.training.rows import Row
from memory_r1.training.zero_variance import weighted_totals
from memory_r1.types import Dialogue

Scores = tuple[list[float | None], dict[str, float]]
"""A score per row or question (None if missing), and the means of other measures."""

Describe = Callable[[Sequence[str], Sequence[Row]], dict[str, float]]
"""Maps completions and their rows to metrics, such as the share of each operation."""


def score_greedily(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    rewards: Sequence[Callable[..., list[float | None]]],
    weights: torch.Tensor,
    *,
    max_new_tokens: int,
    describe: Describe | None = None,
) -> Scores:
    """Return the weighted reward of each row's greedy completion, None without any, and the mean of each function.

    The reward functions receive the same as in training: end-of-sequence tokens in the ids but not in the texts.

    Args:
        model: The policy, with its adapter active.
        tokenizer: Its tokenizer.
        rows: The rows to complete; their columns are passed to the rewards.
        rewards: F reward functions.
        weights: `(F,)`.
        max_new_tokens: Longest completion, in tokens.
        describe: Computes metrics of the completions.
    """
    if not rows:
        return [], {}
    local = LocalLanguageModel(model, tokenizer, batch_size=32)
    prompts = [row["prompt"] for row in rows]
    with local.evaluating(getattr(model, "active_adapter", None)):
        ids = local.generate_ids([local.tokenize(prompt) for prompt in prompts], max_new_tokens=max_new_tokens)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"} | {"completion_ids": ids}
    scored = [function(completions=completions, prompts=prompts, **columns) for function in rewards]  # F lists of B
    known = torch.tensor([[torch.nan if score is None else score for score in scores] for scores in scored])  # (F, B)
    means = known.nanmean(dim=1).nan_to_num().tolist()
    metrics = {f"reward/{function.__name__}": mean for function, mean in zip(rewards, means, strict=True)}
    if describe is not None:
        metrics |= {f"completions/{name}": value for name, value in describe(texts, rows).items()}
    totals = weighted_totals(known.T, weights).tolist()
    return [None if math.isnan(total) else total for total in totals], metrics


@dataclass(frozen=True, slots=True)
class PlayedDialogues:
    """Validation of a manager by the answers at the end of dialogues that it has played itself.

    Attributes:
        dialogues: Validation dialogues; all their questions are asked.
        answering: The frozen Answer Agent with its retriever.
        recall_per_speaker: Memories recalled per speaker for the manager.
        form: How the manager writes operations.
    """

    dialogues: Sequence[Dialogue]
    answering: FrozenAnswering
    recall_per_speaker: int
    form: OperationForm = FLAT

    def score(self, model: Any, tokenizer: Any, dialogues: Sequence[Dialogue], max_new_tokens: int) -> Scores:
        """Return the token F1 (SQuAD) of each question of `dialogues` over the policy's final bank."""
        if not dialogues:
            return [], {}
        manager = MemoryManager(
            LocalLanguageModel(model, tokenizer, batch_size=32),
            self.answering.retriever,
            adapter=POLICY,
            recall_per_speaker=self.recall_per_speaker,
            max_new_tokens=max_new_tokens,
            form=self.form,
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
    """Merge the processes' shares: the mean score, and the mean of each measure weighted by share size."""
    known = [score for scores, _ in shares for score in scores if score is not None]
    sizes: dict[str, int] = {}
    sums: dict[str, float] = {}
    for scores, measures in shares:
        for name, value in measures.items():
            sizes[name] = sizes.get(name, 0) + len(scores)
            sums[name] = sums.get(name, 0.0) + value * len(scores)
    return (sum(known) / len(known) if known else 0.0), {name: sums[name] / max(1, sizes[name]) for name in sums}
