"""Train a weaver of memory tokens through the frozen Answer Agent (as MemGen's SFT trains its weaver).

The loss is the cross-entropy of the gold reply behind a prompt that shows only memory tokens. Its gradient passes
through the Answer Agent, whose weights stay as they are, into the tokens, and so into the queries and the adapter.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
import torch.nn.functional as F

from memory_r1.agents.prompts import answer_prompt, render_answer, render_quoted_answer
from memory_r1.errors import TrainingError
from memory_r1.inference.adapters import active_adapter
from memory_r1.inference.language_model import Messages
from memory_r1.inference.latents import embed_rows, prompt_around
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.tree_attention import use_tree_attention
from memory_r1.inference.weaver import Weaver
from memory_r1.systems.latent_tokens import BLOCK, spoken
from memory_r1.training.policy import require_trainable
from memory_r1.training.shared_prefix import IGNORED, position_ids, prefix_cache, supports_prefix_cache
from memory_r1.types import Dialogue, Question

logger = logging.getLogger(__name__)

_CLIP = 1.0
_WARM_UP = 0.05  # share of the steps


@dataclass(frozen=True, slots=True)
class LatentExample:
    """A prompt with `LATENTS`, the texts whose memory tokens stand there, oldest first, and the gold reply.

    `head` begins the reply and is not scored.
    """

    texts: tuple[str, ...]
    prompt: Messages
    reply: str
    head: str = ""


def latent_example(
    dialogue: Dialogue, question: Question, distractors: int, rng: random.Random, style: str = "ids"
) -> LatentExample:
    """Return a question with its evidence turns and up to `distractors` others, at least one turn in all."""
    turns = [turn for turn in dialogue.turns() if turn.text.strip()]
    others = [turn.turn_id for turn in turns if turn.turn_id not in question.evidence]
    wanted = max(distractors, 0 if question.evidence else 1)
    chosen = {*question.evidence, *rng.sample(others, min(wanted, len(others)))}
    prompt, _ = answer_prompt(question.question, (), asked_at=question.asked_at, style=style, text=BLOCK)
    relied = [1] if question.evidence else []  # the block is the only memory
    reply = render_answer(question.answer, relied) if style == "ids" else render_quoted_answer(question.answer, [])
    return LatentExample(tuple(spoken(turn) for turn in turns if turn.turn_id in chosen), prompt, reply)


def train_weaver(
    weaver: Weaver,
    adapter: str | None,
    draw: Callable[[float], Sequence[LatentExample]],
    validation: Sequence[LatentExample],
    swapped: Sequence[LatentExample],
    *,
    steps: int,
    learning_rate: float,
    eval_steps: int,
    advance: Callable[[float], object] = lambda loss: None,
) -> list[dict[str, float]]:
    """Train a weaver and leave the weights of the lowest validation loss in it; return the curve.

    Args:
        weaver: Its adapter's parameters are the model's only trainable ones.
        adapter: The frozen Answer Agent's adapter; None for the base model.
        draw: Returns one step's examples, given the share of the steps that is done.
        validation: Examples that choose the weights.
        swapped: The same with other dialogues' texts, for the curve alone.
        steps: Number of optimizer steps.
        learning_rate: Its peak; it rises over the first 5% of the steps and then falls with a half cosine.
        eval_steps: Number of steps between validations; the start and the end are always validated.
        advance: Called with each step's loss.

    Raises:
        TrainingError: A loss is not finite.
    """
    model = weaver.model.model
    require_trainable(model)
    use_tree_attention(model)  # even without a tree it is faster in bfloat16 on a CPU
    learnt = [*weaver.head.parameters(), *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    optimizer = torch.optim.AdamW(learnt, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    curve: list[dict[str, float]] = []
    best, best_loss = _copies(learnt), math.inf
    seen: list[float] = []
    for step in range(steps + 1):
        if step % eval_steps == 0 or step == steps:
            right, wrong = (_mean_loss(weaver, adapter, examples) for examples in (validation, swapped))
            curve.append({"step": step, "loss": _mean(seen), "eval_loss": right, "eval_loss_swapped": wrong})
            logger.info("step %d: validation loss %.3f, with another dialogue's texts %.3f", step, right, wrong)
            seen = []
            if right < best_loss:
                best, best_loss = _copies(learnt), right
        if step == steps:
            break
        loss = example_losses(weaver, adapter, draw(step / steps)).mean()
        if not torch.isfinite(loss):
            raise TrainingError(f"step {step + 1}: the loss is {float(loss.detach())}; lower learning_rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, _CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
        advance(seen[-1])
    with torch.no_grad():
        for parameter, kept in zip(learnt, best, strict=True):
            parameter.copy_(kept)
    return curve


def example_losses(weaver: Weaver, adapter: str | None, examples: Sequence[LatentExample]) -> torch.Tensor:
    """Return each example's `reply_losses`, `(B,)`, with every text woven once."""
    with weaver.model.evaluating(weaver.adapter):  # no dropout, and autocast if the adapter has another precision
        place = {text: number for number, text in enumerate(dict.fromkeys(t for e in examples for t in e.texts))}
        woven = weaver.weave(list(place))  # (texts, N, E)
        latents = [woven[[place[text] for text in example.texts]].flatten(0, 1) for example in examples]
        return reply_losses(weaver.model, adapter, examples, latents)


def reply_losses(
    model: LocalLanguageModel,
    adapter: str | None,
    examples: Sequence[LatentExample],
    latents: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Return each gold reply's mean negative log-likelihood per token, `(B,)`, under the Answer Agent.

    Args:
        model: The language model.
        adapter: The Answer Agent's adapter; None for the base model.
        examples: B of them.
        latents: Each one's memory tokens, `(n, E)`.
    """
    tokenizer = model.tokenizer
    rows, replies = [], []
    for example, tokens in zip(examples, latents, strict=True):
        before, behind = prompt_around(tokenizer, example.prompt)
        head, whole = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (example.head, example.head + example.reply)
        )
        reply = [*whole[len(head) :], tokenizer.eos_token_id]
        rows.append((before, tokens, [*behind, *whole[: len(head)], *reply]))
        replies.append(reply)
    prefix = _common([before[:-1] for before, _, _ in rows]) if supports_prefix_cache(model.model) else []
    shared, device = len(prefix), model.model.device
    with active_adapter(model.model, adapter):
        with torch.no_grad():  # no memory token stands in it
            cache = prefix_cache(model.model, torch.tensor(prefix, device=device), len(rows)) if prefix else None
        embedded, own = embed_rows(model.model, [(before[shared:], tokens, behind) for before, tokens, behind in rows])
        mask = torch.cat([own.new_ones(len(rows), shared), own], dim=1)
        longest = max(map(len, replies))
        logits = (
            model.model(
                inputs_embeds=embedded,
                attention_mask=mask,
                position_ids=position_ids(mask)[:, shared:],
                past_key_values=cache,
                logits_to_keep=longest + 1,
            )
            .logits[:, :-1]
            .float()
        )  # (B, C, V)
    labels = torch.tensor([[IGNORED] * (longest - len(reply)) + reply for reply in replies], device=device)  # (B, C)
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(labels.shape).sum(-1) / (labels != IGNORED).sum(-1)


def _common(rows: Sequence[list[int]]) -> list[int]:
    """Return the ids that all rows begin with."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in columns]


def _mean_loss(weaver: Weaver, adapter: str | None, examples: Sequence[LatentExample]) -> float:
    size = weaver.model.batch_size
    with torch.no_grad():
        batches = (examples[first : first + size] for first in range(0, len(examples), size))
        return _mean([loss for batch in batches for loss in example_losses(weaver, adapter, batch).tolist()])


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, round(_WARM_UP * steps))
    return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def _copies(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
