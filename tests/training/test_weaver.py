"""A weaver learns from the gold answer through an Answer Agent that stays as it is."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memory_r1.inference.language_model import LATENTS
from memory_r1.inference.latents import base_of, prompt_around
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.weaver import Weaver, WeaverHead
from memory_r1.training.policy import FROZEN_ANSWER, POLICY, load_policy
from memory_r1.training.weaver import LatentExample, example_losses, latent_example, reply_losses, train_weaver
from memory_r1.types import Dialogue, Question, Session, Turn
from tests.tiny import lora_parameters, randomise, sharpen, snapshot, write_adapter

TURNS = tuple(Turn(f"D1:{place}", "Ann", f"fact {place}", "s1", "2023-05-08T10:00:00") for place in range(1, 6))
ASKED = Question("q", "Which fact?", "fact 3", "recall", ("D1:3",), "2023-06-01T10:00:00")
DIALOGUE = Dialogue("d", ("Ann",), (Session("s1", "2023-05-08T10:00:00", TURNS),), (ASKED,))


@pytest.fixture
def weaver(tiny_model: Path, tmp_path: Path) -> Weaver:
    answer = write_adapter(tiny_model, tmp_path / "answer", 1)
    policy, tokenizer, _ = load_policy(str(tiny_model), dtype="float32", warm_start=None, answer_adapter=str(answer))
    return Weaver(LocalLanguageModel(policy.eval(), tokenizer), WeaverHead(4, 64), adapter=POLICY)


def example(text: str, reply: str, head: str = "") -> LatentExample:
    prompt = [{"role": "user", "content": f"1. {LATENTS}\nQuestion: Where does Ann live now?"}]
    return LatentExample((f"\n{text}",), prompt, reply, head)


def test_a_replys_loss_is_that_of_its_tokens_behind_the_words_that_the_vectors_stand_for(weaver: Weaver) -> None:
    """The same prompt in words, by a plain forward pass under the Answer Agent."""
    model, tokenizer = weaver.model.model, weaver.model.tokenizer
    table = base_of(model).get_input_embeddings().weight.detach()
    examples = [example("", " Lisbon"), example("", "1\nAnswer: since 8 May", "Memories: ")]
    remembered = [tokenizer(text)["input_ids"] for text in ("Ann: I moved to Lisbon", "Ben: I sold my bicycle in May")]
    expected = []
    for each, words in zip(examples, remembered, strict=True):
        before, behind = prompt_around(tokenizer, each.prompt)
        whole = tokenizer(each.head + each.reply)["input_ids"]
        reply = [*whole[len(tokenizer(each.head)["input_ids"]) :], tokenizer.eos_token_id]
        row = [*before, *words, *behind, *whole, tokenizer.eos_token_id]
        model.set_adapter(FROZEN_ANSWER)
        with torch.no_grad():
            chances = model(torch.tensor([row])).logits[0].log_softmax(-1)
        model.set_adapter(POLICY)
        last = range(len(row) - len(reply), len(row))
        expected.append(-sum(float(chances[place - 1, row[place]]) for place in last) / len(reply))
    losses = reply_losses(weaver.model, FROZEN_ANSWER, examples, [table[words] for words in remembered])
    assert losses.tolist() == pytest.approx(expected, abs=1e-4)


def test_training_lowers_the_loss_and_moves_the_weaver_alone(weaver: Weaver) -> None:
    model = weaver.model.model
    learnt = lora_parameters(model, POLICY)
    frozen = snapshot({name: part for name, part in model.named_parameters() if name not in learnt})
    before = snapshot({**learnt, **dict(weaver.head.named_parameters())})
    rows = [example("Ann: I moved to Lisbon", " Lisbon"), example("Ann: I sold my bicycle", " bicycle")]
    swapped = [replace(row, texts=other.texts) for row, other in zip(rows, rows[::-1], strict=True)]
    curve = train_weaver(
        weaver, FROZEN_ANSWER, lambda done: rows, rows, swapped, steps=12, learning_rate=1e-2, eval_steps=6
    )
    assert [point["step"] for point in curve] == [0, 6, 12]
    assert curve[-1]["eval_loss"] < curve[0]["eval_loss"] - 0.1
    assert curve[-1]["eval_loss"] != curve[-1]["eval_loss_swapped"]
    assert all(torch.equal(part, frozen[name]) for name, part in model.named_parameters() if name in frozen)
    after = {**lora_parameters(model, POLICY), **dict(weaver.head.named_parameters())}
    assert not any(torch.equal(after[name], before[name]) for name in before)


def test_the_weights_of_the_lowest_validation_loss_are_left(weaver: Weaver) -> None:
    rows, misleading = [example("Ann: I moved", " Lisbon")], [example("Ann: I moved", " bicycle [{]")]
    curve = train_weaver(
        weaver,
        FROZEN_ANSWER,
        lambda done: rows if done < 0.5 else misleading,
        rows,
        rows,
        steps=16,
        learning_rate=3e-2,
        eval_steps=1,
    )
    losses = [point["eval_loss"] for point in curve]
    assert min(losses) < min(losses[0], losses[-1]) - 0.01
    with torch.no_grad():
        left = float(example_losses(weaver, FROZEN_ANSWER, rows).mean())
    assert left == pytest.approx(min(losses), abs=1e-4)


def test_the_gradient_is_the_slope_of_the_loss(weaver: Weaver) -> None:
    """By a finite difference along a random direction, after a change that makes every part matter."""
    sharpen(base_of(weaver.model.model))
    parts = {**lora_parameters(weaver.model.model, POLICY), **dict(weaver.head.named_parameters())}
    randomise(parts, 5, 0.05)
    rows = [example("Ann: I moved to Lisbon", " Lisbon"), example("Ben: hm", " since 8 May")]
    example_losses(weaver, FROZEN_ANSWER, rows).mean().backward()
    generator = torch.Generator().manual_seed(0)
    step = {name: torch.randn(part.shape, generator=generator) * 1e-4 for name, part in parts.items()}
    slope = sum(float((part.grad * step[name]).sum()) for name, part in parts.items() if part.grad is not None)
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for name, part in parts.items():
                part += sign * step[name]
            losses.append(float(example_losses(weaver, FROZEN_ANSWER, rows).double().mean()))
    assert all(part.grad is not None for part in parts.values())
    assert (losses[0] - losses[1]) / 2 == pytest.approx(slope, rel=0.1)


def test_an_examples_gradient_reaches_no_weight_of_the_answer_agent(weaver: Weaver) -> None:
    example_losses(weaver, FROZEN_ANSWER, [example("Ann: I moved to Lisbon", " Lisbon")]).mean().backward()
    assert weaver.head.looks.grad is not None and weaver.head.states.grad.any()  # type: ignore[union-attr]
    reached = [name for name, part in weaver.model.model.named_parameters() if part.grad is not None]
    assert set(reached) <= set(lora_parameters(weaver.model.model, POLICY))


def test_an_example_holds_the_evidence_and_as_many_other_turns_in_their_order() -> None:
    rng = random.Random(0)
    alone = latent_example(DIALOGUE, ASKED, 0, rng)
    assert alone.texts == ("[Monday 8 May 2023]\nAnn: fact 3",)
    assert alone.reply == "Memories: 1\n**Answer:** fact 3"
    assert f"1. {LATENTS}\nQuestion [Thursday 1 June 2023]: Which fact?" in alone.prompt[-1]["content"]
    for _ in range(5):
        texts = latent_example(DIALOGUE, ASKED, 2, rng).texts
        assert len(texts) == 3
        assert alone.texts[0] in texts
        assert list(texts) == sorted(texts)
    assert len(latent_example(DIALOGUE, ASKED, 99, rng).texts) == 5


def test_a_question_without_evidence_is_asked_of_other_turns_and_relies_on_none() -> None:
    unanswerable = Question("q", "Which?", "unknown", "unanswerable")
    made: Any = latent_example(DIALOGUE, unanswerable, 0, random.Random(0))
    assert (len(made.texts), made.reply) == (1, "Memories: none\n**Answer:** unknown")
