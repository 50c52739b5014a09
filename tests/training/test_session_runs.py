"""Whole-session credit in the trainer: two steps of a tiny model per case, through the outcome reward."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import memory_r1.training.session_credit as sessions
from data.tuples import branch_points, session_tuples
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.inference.language_model import Completion
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.memory.bank import entries_from_json, entries_to_json
from memory_r1.memory.retriever import Retriever
from memory_r1.metrics import exact_match
from memory_r1.training.completion_stats import DESCRIBE
from memory_r1.training.frozen_answering import BankQuestion, FrozenAnswering
from memory_r1.training.grpo import MemoryGRPOTrainer
from memory_r1.training.rows import Row, apply_completion, questions_from_json
from memory_r1.training.session_credit import BranchRollout, branch_rows, session_rows
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from memory_r1.types import Dialogue, Question, Session, Turn
from rewards.answers import one_by_one
from rewards.formats import operation_format_reward
from rewards.outcome import EntryCost, OutcomeReward, by_answer
from tests.fakes import FakeEmbedder, ScriptedLanguageModel
from tests.tiny import load_base, load_tokenizer, lora_parameters, sharpen, snapshot, with_lora

RECALL_PER_SPEAKER, ENTRY_COST = 2, 0.01


def make_dialogue(name: str) -> Dialogue:
    """Build two sessions of two turns, with a question about each turn."""
    turns = [
        Turn(f"{name}:{number}", "Ann", text, f"s{number // 2}", "2023-05-08T10:00:00")
        for number, text in enumerate(("I live in Rome.", "I have a dog.", "I moved to Oslo.", "Good night."))
    ]
    sessions = tuple(Session(f"s{n}", turns[0].timestamp, tuple(turns[2 * n : 2 * n + 2])) for n in range(2))
    questions = tuple(Question(f"{turn.turn_id}?", "QUIZ", "GOLDANSWER", "recall", (turn.turn_id,)) for turn in turns)
    return Dialogue(name, ("Ann", "Ben"), sessions, questions)


def length_reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """Return rewards that vary, unlike those of a random model's operations."""
    return [len(set(completion[0]["content"])) / 10 for completion in completions]


def make_answering(script: Callable[[Any, str | None], str] | None = None) -> FrozenAnswering:
    agent = AnswerAgent(ScriptedLanguageModel(script or (lambda *_: "Memories: none\n**Answer:** unknown")))
    return FrozenAnswering(agent, Retriever(FakeEmbedder()), RECALL_PER_SPEAKER)


def make_trainer(
    tiny_model: Path, folder: Path, rows: list[Row], answering: FrozenAnswering | None = None, **options: Any
) -> MemoryGRPOTrainer:
    outcome = OutcomeReward("answer", by_answer(answering or make_answering(), one_by_one(exact_match)))
    return MemoryGRPOTrainer(
        model=with_lora(sharpen(load_base(tiny_model)), seed=1),
        args=MemoryGRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=6,
            max_steps=2,
            logging_steps=1,
            learning_rate=0.01,
            save_strategy="no",
        ),
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list(rows),
        reward_funcs=[outcome, operation_format_reward, length_reward, EntryCost(ENTRY_COST, [outcome])],
        describe=DESCRIBE["manager"],
        completions_log=folder / "completions.jsonl",
        **options,
    )


def check_trained(trainer: MemoryGRPOTrainer, folder: Path) -> list[Row]:
    """Train, check that every lora_B moves and every row is scored, and return the log of completions."""
    before = snapshot(lora_parameters(trainer.model))
    trainer.train()
    after = lora_parameters(trainer.model)
    moved = [name for name, value in before.items() if "lora_B" in name and not torch.equal(value, after[name])]
    assert moved
    assert len(moved) == sum("lora_B" in name for name in before)
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert all(row["rewards"]["answer"] is not None for row in rows)
    assert not any("QUIZ" in row["prompt"] or "GOLDANSWER" in row["prompt"] for row in rows)
    assert trainer.state.log_history[0]["outcome/failed_rows"] == 0
    assert "completions/share_ADD" in trainer.state.log_history[0]
    return rows


def test_whole_sessions_train(tiny_model: Path, tmp_path: Path) -> None:
    dialogues = [make_dialogue(name) for name in ("d", "e")]
    tuples = [item for d in dialogues for item in session_tuples(d, {turn.turn_id: () for turn in d.turns()})]
    rows = check_trained(
        make_trainer(tiny_model, tmp_path, session_rows(tuples, Retriever(FakeEmbedder()), RECALL_PER_SPEAKER)),
        tmp_path,
    )
    assert all("Turn 2: Ann: " in row["prompt"] for row in rows)


def test_branches_train(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [point for name in ("d", "e") for point in branch_points(make_dialogue(name))]
    rollout = BranchRollout(
        points, Retriever(FakeEmbedder()), recall_per_speaker=RECALL_PER_SPEAKER, retention_questions=1, seed=0
    )
    trainer = make_trainer(tiny_model, tmp_path, branch_rows(points), rollout_func=rollout)
    drawn: list[dict[str, Any]] = []
    called = BranchRollout.__call__

    def note(self: BranchRollout, prompts: Any, trainer: Any) -> dict[str, Any]:
        assert trainer.model.training
        output = called(self, prompts, trainer)
        assert trainer.model.training  # greedy playing put the policy back into training mode
        assert trainer.model.active_adapter == "default"
        assert all(value.requires_grad for value in lora_parameters(trainer.model).values())
        drawn.append(output)
        return output

    adapters: list[str | None] = []
    generate = LocalLanguageModel.generate

    def played(self: LocalLanguageModel, prompts: Any, **options: Any) -> Any:
        adapters.append(options["adapter"])
        return generate(self, prompts, **options)

    monkeypatch.setattr(BranchRollout, "__call__", note)
    monkeypatch.setattr(LocalLanguageModel, "generate", played)
    logged = check_trained(trainer, tmp_path)
    assert set(adapters) == {"default"}  # the policy itself plays, before and after the branch
    assert len(drawn) == 2
    for output, start in zip(drawn, (0, 8), strict=True):
        for group in (slice(0, 4), slice(4, 8)):  # a group: one turn, one bank, one prompt
            assert len(set(output["tuple_id"][group])) == len(set(output["bank"][group])) == 1
            assert len({tuple(ids) for ids in output["prompt_ids"][group]}) == 1
        asked = [prompt[-1]["content"] for prompt in output["played_prompt"]]
        assert [row["prompt"] for row in logged[start : start + 8]] == asked
        tokenize = trainer.processing_class.apply_chat_template
        assert output["prompt_ids"] == [
            tokenize(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
            for prompt in output["played_prompt"]
        ]


def add(text: str) -> str:
    return json.dumps([{"op": "ADD", "text": text}])


def score(answering: FrozenAnswering, bank: str, output: dict[str, Any], row: int) -> float:
    """Score `bank` on a row's questions, through the Answer Agent."""
    entries = entries_from_json(bank)
    parts = []
    for column in ("linked", "retention"):
        questions = questions_from_json(output[column][row])
        asked = [BankQuestion(question, entries, tuple(output["speakers"][row])) for question in questions]
        if asked:
            answers = [answer.text if answer else "" for answer in answering.answer(asked)]
            parts.append(sum(exact_match(answer, "GOLDANSWER") for answer in answers) / len(answers))
    return sum(parts) / len(parts) - ENTRY_COST * len(entries)


def test_a_branch_earns_what_the_bank_at_its_end_is_worth(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(prompt: Any, adapter: str | None) -> str:
        known = "played on" in " ".join(message["content"] for message in prompt)
        return f"**Answer:** {'GOLDANSWER' if known else 'unknown'}"

    def branch(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Add an entry with every second completion; the others do not change the bank."""
        encode = trainer.processing_class.encode
        texts = [add(f"fact {row}") if row % 2 else '[{"op": "NOOP"}]' for row in range(len(prompts))]
        tokenize = trainer.processing_class.apply_chat_template
        return {
            "prompt_ids": [
                tokenize(prompt, add_generation_prompt=True, return_dict=True)["input_ids"] for prompt in prompts
            ],
            "completion_ids": [encode(text, add_special_tokens=False) for text in texts],
            "logprobs": None,
        }

    def play(self: LocalLanguageModel, prompts: Any, **options: Any) -> list[Completion]:
        return [Completion(add("Ann has played on"), 1, 1) for _ in prompts]

    drawn: list[dict[str, Any]] = []
    called = BranchRollout.__call__

    def note(self: BranchRollout, prompts: Any, trainer: Any) -> dict[str, Any]:
        drawn.append(called(self, prompts, trainer))
        return drawn[-1]

    monkeypatch.setattr(sessions, "shared_prefix_rollout", branch)
    monkeypatch.setattr(LocalLanguageModel, "generate", play)
    monkeypatch.setattr(BranchRollout, "__call__", note)
    # Branched at each dialogue's first turn, so that banks have only the entry that playing on adds.
    points = [branch_points(make_dialogue(name))[0] for name in ("d", "e")]
    rollout = BranchRollout(
        points, Retriever(FakeEmbedder()), recall_per_speaker=RECALL_PER_SPEAKER, retention_questions=1, seed=0
    )
    answering = make_answering(read)
    trainer = make_trainer(tiny_model, tmp_path, branch_rows(points), answering, rollout_func=rollout)
    trainer.train()

    logged = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert len(logged) == 16 and len(drawn) == 2
    for number, line in enumerate(logged):
        output, row = drawn[number // 8], number % 8
        expected = score(answering, output["bank_at_end"][row], output, row)
        assert line["rewards"]["answer"] + line["rewards"]["entry_cost"] == pytest.approx(expected)
        _, after = apply_completion(
            line["completion"], output["turn"][row], output["bank"][row], output["recalled_ids"][row]
        )
        assert expected - score(answering, entries_to_json(after.entries()), output, row) > 0.9
    assert len({line["rewards"]["entry_cost"] for line in logged}) > 1
