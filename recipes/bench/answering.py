"""The frozen Answer Agent in the training benchmark: prompts per second, and the outcome reward's share of a step.

An untrained policy's completions would not parse and ask nothing. Instead each group gets scripted operations, at least
half of them different, so that the reward's work does not depend on a checkpoint.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from data.banks import gold_banks
from data.synthetic.generator import generate_split
from data.tuples import manager_tuples
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.prompts import answer_prompt
from memory_r1.errors import DataError
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.prompt_trees import PromptTrees
from memory_r1.memory.retriever import RetrievalRequest
from memory_r1.metrics import f1_squad
from memory_r1.training.assembly import load_retriever
from memory_r1.training.frozen_answering import BankQuestion, FrozenAnswering
from memory_r1.training.policy import FROZEN_ANSWER, POLICY
from memory_r1.training.rows import Row, manager_rows
from memory_r1.types import Answer
from recipes.bench.measuring import Job, Measurement, Meter, Settings, Side, Turns
from recipes.bench.peak import flops_a_token
from recipes.bench.steps import Reward, load, train
from rewards.answers import one_by_one
from rewards.outcome import OutcomeReward, by_answer

ANSWER_TOKENS = 14
"""Length of every answer, in tokens: that of the longest worked answer of the generated dialogues."""
BATCH = 32
"""Distinct prompts of the answering row, and the batch size of the frozen agent in `recipes/grpo.py`."""
QUESTIONS = 5
"""Questions per turn: the mean over turns of generated dialogues with as full a bank."""
_RETENTION = 8  # maximum retention questions among them, as in recipes/smollm2-135m/manager_grpo.yaml


class CountingLanguageModel(LocalLanguageModel):
    """Counts the tokens it runs; with `shared` off it completes with transformers' `generate`, as stock TRL would."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, shared: bool) -> None:
        super().__init__(model, tokenizer, batch_size)
        self.shared = shared
        self.tokens = self.completed = 0

    def take_tokens(self) -> tuple[int, int]:
        """Return the tokens run since the last call, and how many of them were completions'."""
        taken = self.tokens, self.completed
        self.tokens = self.completed = 0
        return taken

    def _generate_batch(
        self, rows: list[list[int]], max_new_tokens: int, temperature: float, schemas: Any = None
    ) -> list[list[int]]:
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        self.completed += len(rows) * max_new_tokens
        self.tokens += len(rows) * max_new_tokens
        if self.shared:
            self.tokens += PromptTrees(rows, pad).tokens
            return super()._generate_batch(rows, max_new_tokens, temperature)
        self.tokens += sum(len(row) for row in rows)
        width = max(len(row) for row in rows)
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)  # (B, P)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=ids.device)
        config = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad)
        output: torch.Tensor = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return [list(row) for row in output[:, width:].tolist()]


class ScriptedOutcome:
    """The outcome reward on scripted operations instead of the completions, in TRL's signature."""

    def __init__(self, outcome: Reward, generations: int) -> None:
        self.outcome, self.generations = outcome, generations

    def __call__(self, completions: Sequence[Any], *, turn: Sequence[str], **columns: Any) -> list[float | None]:
        """Score one batch; the rows of a group are adjacent, as from TRL's sampler."""
        recalled = columns["recalled_ids"]
        scripted = [
            [{"role": "assistant", "content": operations(turn[row], len(recalled[row]), row % self.generations, half)}]
            for half in [(self.generations + 1) // 2]
            for row in range(len(turn))
        ]
        return self.outcome(scripted, turn=turn, **columns)


class _Asked:
    """Stands in for the frozen agent to record a reward's questions."""

    def __init__(self) -> None:
        self.questions: list[BankQuestion] = []

    def answer(self, asked: Sequence[BankQuestion]) -> list[Answer]:
        """Record the questions and answer them with nothing."""
        self.questions = list(asked)
        return [Answer("", (), "")] * len(asked)


def operations(turn: str, recalled: int, place: int, differing: int) -> str:
    """Return the completion at `place` in a group: the first `differing` add or update their own text, others NOOP."""
    if place >= differing:
        return '[{"op": "NOOP"}]'
    text = f"{json.loads(turn)['text']} ({place})"
    if place % 2 and recalled:
        return json.dumps([{"op": "UPDATE", "id": place % recalled + 1, "text": text}])
    return json.dumps([{"op": "ADD", "text": text}])


def tuple_rows(retriever: Any, recalled: int, count: int) -> list[Row]:
    """Return rows of turns with at least K = `recalled` entries in the bank and exactly `QUESTIONS` questions."""
    chosen = [
        item
        for example in generate_split("train", count + 2, seed=0)
        for item in manager_tuples(
            example.dialogue,
            gold_banks(example.dialogue, example.gold),
            retention_questions=_RETENTION,
            every_turn=True,
        )
        if len(item.bank) >= recalled and len(item.linked) + len(item.retention) == QUESTIONS
    ]
    if len(chosen) < count:
        raise DataError(
            f"found {len(chosen)} turns with {recalled} entries in the bank, needed {count}; give a smaller K"
        )
    return manager_rows(chosen[:count], retriever, recalled // 2)  # per speaker, of two


def run_reward(turns: Turns, side: Side, job: Job, settings: Settings) -> None:
    """Run whole steps of the manager with its outcome reward."""
    policy, tokenizer = load(settings, side)
    retriever = load_retriever(settings.embedder)
    model = _answerer(policy, tokenizer, side, BATCH)
    outcome = _outcome(_frozen(model, retriever, job))
    rows = tuple_rows(retriever, job.recalled, job.prompts * job.steps)
    train(
        turns,
        side,
        job,
        settings,
        policy,
        tokenizer,
        rows,
        ScriptedOutcome(outcome, job.generations),
        model.take_tokens,
    )


def run_answering(turns: Turns, side: Side, job: Job, settings: Settings) -> None:
    """Run answers alone: distinct prompts in batches or one by one, or equal requests once or each time."""
    policy, tokenizer = load(settings, side)
    retriever = load_retriever(settings.embedder)
    repeated = job.kind == "de-duplication"
    asked = _repeated_questions(retriever, job) if repeated else _distinct_questions(retriever, job)
    one_by_one = side == "stock" and not repeated
    model = _answerer(policy, tokenizer, "ours" if repeated else side, 1 if one_by_one else BATCH)
    _answer(model, retriever, job, asked[:2], once=True)  # warms up
    meter = Meter(policy.device)
    model.take_tokens()
    turns.ready(requests=len(asked), flops_a_token=flops_a_token(policy))
    for _ in range(job.repeats):
        turns.wait()
        started = meter.restart()
        generated = _answer(model, retriever, job, asked, once=side == "ours" or not repeated)
        seconds = meter.time() - started
        peak, (tokens, completed) = meter.peak(), model.take_tokens()
        turns.report(
            Measurement(
                {"answering": seconds},
                {"answering": peak},
                {"answering": tokens, "prompts": generated},
                {"answering": completed},
            )
        )


def _answer(model: Any, retriever: Any, job: Job, asked: Sequence[BankQuestion], once: bool) -> int:
    """Answer all, equal requests `once` or each time; return the number of prompts completed."""
    if once:
        frozen = _frozen(model, retriever, job)
        frozen.answer(asked)
        return frozen.generated
    recalls = retriever.retrieve_many(
        [RetrievalRequest(item.question.question, item.entries, job.recalled // 2, item.speakers) for item in asked]
    )
    prompts = [
        answer_prompt(item.question.question, recalled, asked_at=item.question.asked_at)[0]
        for item, recalled in zip(asked, recalls, strict=True)
    ]
    model.generate(prompts, max_new_tokens=ANSWER_TOKENS, adapter=FROZEN_ANSWER)
    return len(prompts)


def _distinct_questions(retriever: Any, job: Job) -> list[BankQuestion]:
    """Return questions for one batch of distinct prompts."""
    distinct: dict[Any, BankQuestion] = {}
    asked = _questions(tuple_rows(retriever, job.recalled, BATCH // 2), 1)
    recalls = retriever.retrieve_many(
        [RetrievalRequest(item.question.question, item.entries, job.recalled // 2, item.speakers) for item in asked]
    )
    for item, recalled in zip(asked, recalls, strict=True):
        distinct.setdefault((item.question.question, recalled), item)
    return list(distinct.values())[:BATCH]


def _repeated_questions(retriever: Any, job: Job) -> list[BankQuestion]:
    """Return all questions that the reward asks for the groups of one step."""
    return _questions(tuple_rows(retriever, job.recalled, job.prompts), job.generations)


def _questions(rows: Sequence[Row], generations: int) -> list[BankQuestion]:
    asked = _Asked()
    repeated = [row for row in rows for _ in range(generations)]
    columns = {name: [row[name] for row in repeated] for name in rows[0] if name != "prompt"}
    ScriptedOutcome(_outcome(asked), generations)([None] * len(repeated), **columns)
    return asked.questions


def _outcome(answering: Any) -> Reward:
    """The manager's outcome reward over `answering`."""
    return OutcomeReward("answer_f1", by_answer(answering, one_by_one(f1_squad)))


def _frozen(model: Any, retriever: Any, job: Job) -> FrozenAnswering:
    """Return the frozen agent without memory between calls, so that a repeat costs as much as the first call."""
    agent = AnswerAgent(model, adapter=FROZEN_ANSWER, max_new_tokens=ANSWER_TOKENS)
    return FrozenAnswering(agent, retriever, job.recalled // 2, remembered=0)


def _answerer(policy: Any, tokenizer: Any, side: Side, batch_size: int) -> CountingLanguageModel:
    """Return the model with a frozen adapter of the policy's shape beside the policy's."""
    policy.add_adapter(FROZEN_ANSWER, copy.deepcopy(policy.peft_config[POLICY]))
    for name, parameter in policy.named_parameters():
        if f".{FROZEN_ANSWER}." in name:
            parameter.requires_grad_(False)
    return CountingLanguageModel(policy, tokenizer, batch_size, shared=side == "ours")
