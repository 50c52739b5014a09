"""Measure a weaver on held-out dialogues: do its memory tokens tell more than another dialogue's, and than none?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.adapter_settings import AgentSettings
from memory_r1.evaluation.scoring.statistics import bootstrap_interval, paired_difference
from memory_r1.jsonl import read_json
from memory_r1.types import Dialogue, Question, Recall

if TYPE_CHECKING:
    from data.synthetic.generator import Split
    from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
    from memory_r1.inference.local_model import LocalLanguageModel

MEASURED = "measured.json"
METRICS = ("f1_squad", "exact_match", "log_likelihood")


def measure(folder: Path, *, model_name: str, dtype: str, answer: str | None, count: int, seed: int) -> dict[str, Any]:
    """Answer held-out questions from their own dialogue's memory tokens, from another's, and from none.

    Args:
        folder: The weaver's.
        model_name: Its base model.
        dtype: Precision of the base model.
        answer: The Answer Agent's adapter; None for the base model.
        count: Number of held-out dialogues, at least 2.
        seed: Seed of the generator.
    """
    from rich.progress import track

    from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
    from memory_r1.agents.prompts import ANSWER_TOKENS
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.inference.weaver import ADAPTER, Weaver
    from memory_r1.metrics import score_answer
    from memory_r1.systems.latent_tokens import LatentTokens
    from memory_r1.systems.player import Episode, play

    adapters = {ADAPTER: folder} | ({"answer": Path(answer)} if answer else {})
    model = LocalLanguageModel.load(model_name, adapters, dtype=dtype)
    system = LatentTokens(Weaver.load(model, folder), count_tokens=model.count_tokens)
    style = answer_style(answer)
    agent = AnswerAgent(model, adapter="answer" if answer else None, max_new_tokens=ANSWER_TOKENS[style], style=style)
    dialogues = generated("heldout", count, seed)
    play(system, [Episode.of(dialogue) for dialogue in dialogues])
    scores: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ("own", "another", "none")}
    groups: dict[str, str] = {}
    for place, dialogue in enumerate(track(dialogues, "asking held-out questions")):
        other = dialogues[(place + 1) % len(dialogues)].dialogue_id
        groups |= {question.question_id: dialogue.dialogue_id for question in dialogue.questions}
        for name, scope in (("own", dialogue.dialogue_id), ("another", other), ("none", None)):
            recalls = [system.recall(q.question, scope) if scope else Recall(()) for q in dialogue.questions]
            asked = [
                AnswerRequest(question.question, recall, question.asked_at)
                for question, recall in zip(dialogue.questions, recalls, strict=True)
            ]
            likelihoods = log_likelihoods(model, agent, asked, dialogue.questions)
            for question, answered, likely in zip(dialogue.questions, agent.answer(asked), likelihoods, strict=True):
                scored = score_answer(answered.text, question.answer, question.category)
                scores[name][question.question_id] = {**scored, "log_likelihood": likely}
    summary = read_json(folder / "training_summary.json")
    kept = ("recipe", "base_model", "steps", "wall_seconds", "trainable_parameters", "git_revision", "log_history")
    return {"training": {name: summary[name] for name in kept}} | compared(scores, groups)


def compared(scores: dict[str, dict[str, dict[str, float]]], groups: dict[str, str]) -> dict[str, Any]:
    """Return each condition's means, and the differences that decide, with intervals over dialogues."""
    of_metric = {
        metric: {name: {key: row[metric] for key, row in rows.items()} for name, rows in scores.items()}
        for metric in METRICS
    }
    keys = list(groups)
    means = {
        metric: {
            name: bootstrap_interval([rows[key] for key in keys], [groups[key] for key in keys])
            for name, rows in by_name.items()
        }
        for metric, by_name in of_metric.items()
    }
    differences = {
        metric: {
            f"own less {name}": paired_difference(by_name["own"], by_name[name], groups) for name in ("another", "none")
        }
        for metric, by_name in of_metric.items()
    }
    return {
        "questions": len(keys),
        "dialogues": len(set(groups.values())),
        "means": {metric: {name: mean and mean.to_dict() for name, mean in of.items()} for metric, of in means.items()},
        "differences": {
            metric: {name: found and found.interval.to_dict() for name, found in of.items()}
            for metric, of in differences.items()
        },
        "passes": all(found is not None and found.interval.low > 0 for found in differences["f1_squad"].values()),
        "scores": {
            metric: {name: [round(rows[key], 4) for key in keys] for name, rows in by_name.items()}
            for metric, by_name in of_metric.items()
        },
    }


def log_likelihoods(
    model: LocalLanguageModel, agent: AnswerAgent, requests: Sequence[AnswerRequest], questions: Sequence[Question]
) -> list[float]:
    """Return the mean log-likelihood per token of each gold answer, behind the reply's other parts."""
    import torch

    from memory_r1.agents.prompts import ANSWER_MARKER, MEMORIES_MARKER
    from memory_r1.inference.latents import base_of, from_bytes
    from memory_r1.training.weaver import LatentExample, reply_losses

    size = base_of(model.model).get_input_embeddings().embedding_dim
    examples = []
    for request, question in zip(requests, questions, strict=True):
        head = f"{MEMORIES_MARKER} {'1' if request.recall.latents else 'none'}\n{ANSWER_MARKER}"
        examples.append(LatentExample((), agent.prompt(request)[0], f" {question.answer}", head))
    latents = [from_bytes(request.recall.latents, size) for request in requests]
    with torch.no_grad():
        return [-loss for loss in reply_losses(model, agent.adapter, examples, latents).tolist()]


def generated(split: Split, count: int, seed: int) -> list[Dialogue]:
    """Return short dialogues of eight turns: a small reader gets lost among the memory tokens of twenty."""
    from data.synthetic.generator import generate_split
    from data.synthetic.plan import DialogueShape

    shape = DialogueShape(sessions=2, turns=8, facts=5, questions=4, recalled=1)
    return [item.dialogue for item in generate_split(split, count, seed, shape)]


def answer_style(adapter: str | None) -> str:
    """Return how the Answer Agent cites memories."""
    return (AgentSettings.read(adapter).answer_style if adapter else None) or "ids"


def show(measured: dict[str, Any], folder: Path) -> None:
    """Print the means and the differences that decide."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"latent-tokens, {measured['questions']} held-out questions")
    for heading in ("", *METRICS):
        table.add_column(heading)
    for kind in ("means", "differences"):
        for name in measured[kind][METRICS[0]]:
            cells = (measured[kind][metric][name] for metric in METRICS)
            table.add_row(name, *(f"{cell['mean']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})" for cell in cells))
    console = Console(markup=False)
    console.print(table)
    console.print(f"record: {folder / MEASURED}", soft_wrap=True)
