"""Train the weaver of the memory system `latent-tokens`, and measure it.

    python recipes/latent_tokens.py --config recipes/latent_tokens.yaml --answer outputs/smollm2-135m/answer_sft

The weaver learns on generated dialogues from the cross-entropy of the gold answers under the frozen Answer Agent. Then
the system plays held-out dialogues, and each question is answered three times: from its own dialogue's memory tokens,
from another dialogue's, and from none. The folder receives the adapter, queries.safetensors, training_summary.json and
measured.json, which holds no text. Run again, the command continues with what is missing.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_r1.adapter_settings import AgentSettings
from memory_r1.entry import run_main
from memory_r1.evaluation.scoring.statistics import bootstrap_interval, paired_difference
from memory_r1.jsonl import read_json, write_json
from memory_r1.packaged_adapters import choose_adapter
from memory_r1.training.field_checks import validate_fields
from memory_r1.types import Dialogue, Question, Recall

if TYPE_CHECKING:
    from data.synthetic.generator import Split
    from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.training.weaver import LatentExample

logger = logging.getLogger("recipes.latent_tokens")

MEASURED = "measured.json"
METRICS = ("f1_squad", "exact_match", "log_likelihood")


@dataclass
class WeaverArguments:
    """The fields of the recipe."""

    output_dir: str = field(metadata={"help": "Folder for the weaver."})
    model_name_or_path: str = field(default="SmolLM2-135M-Instruct", metadata={"help": "Base model."})
    dtype: str = field(
        default="float32", metadata={"help": "Its precision.", "choices": ["float32", "bfloat16", "float16"]}
    )
    answer: str | None = field(
        default=None,
        metadata={"help": "The frozen Answer Agent: an adapter folder or 'base'; default: the packaged one, if any."},
    )
    train_dialogues: int = field(default=200, metadata={"help": "Generated dialogues to train on."})
    validation_dialogues: int = field(default=6, metadata={"help": "Generated dialogues that choose the weights."})
    heldout_dialogues: int = field(default=24, metadata={"help": "Held-out dialogues to measure on, at least 2."})
    dialogue_seed: int = field(default=0, metadata={"help": "Seed of the generator."})
    vectors: int = field(default=8, metadata={"help": "Memory tokens per turn."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the weaver's adapter, on queries and values."})
    lora_alpha: int = field(default=32, metadata={"help": "Its scale."})
    distractors: int = field(
        default=8, metadata={"help": "Turns beside a question's evidence: up to this many at the end, none at first."}
    )
    max_steps: int = field(default=300, metadata={"help": "Optimizer steps."})
    batch_size: int = field(default=16, metadata={"help": "Questions per step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    eval_steps: int = field(default=50, metadata={"help": "Steps between validations."})
    seed: int = field(default=0, metadata={"help": "Seed of the start and of the order of questions."})

    def __post_init__(self) -> None:
        validate_fields(self, none_is_unset=False)


def main(argv: Sequence[str]) -> int:
    from memory_r1.training.recipe_file import parse_fields

    (arguments,) = parse_fields((WeaverArguments,), argv, "Train and measure the weaver of latent-tokens.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.answer = choose_adapter("answer", arguments.answer, arguments.model_name_or_path)
    folder = Path(arguments.output_dir)
    train(arguments, folder)
    if not (folder / MEASURED).is_file():
        write_json(folder / MEASURED, measure(arguments, folder))
    show(read_json(folder / MEASURED), folder)
    return 0


def train(arguments: WeaverArguments, folder: Path) -> None:
    """Train the weaver into `folder`, unless it holds this recipe's weaver already."""
    from rich.progress import Progress

    from memory_r1.inference.latents import base_of
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.inference.weaver import Weaver, WeaverHead
    from memory_r1.models import adapter_hash, model_hash, resolve_model
    from memory_r1.provenance import git_revision, package_versions
    from memory_r1.training.policy import FROZEN_ANSWER, POLICY, load_policy, require_trainable
    from memory_r1.training.runs import base_model_record, claim_run, open_run, save_adapter
    from memory_r1.training.weaver import latent_example, train_weaver

    recipe = {name: value for name, value in asdict(arguments).items() if name not in ("output_dir", "answer")} | {
        "base_sha256": model_hash(resolve_model(arguments.model_name_or_path)),
        "answer_sha256": adapter_hash(arguments.answer) if arguments.answer else None,
    }
    finished, _ = open_run(folder, recipe)
    if finished:
        logger.info("%s: already trained with this recipe; remove the folder to train again", folder)
        return
    started = time.monotonic()
    policy, tokenizer, source = load_policy(
        arguments.model_name_or_path,
        dtype=arguments.dtype,
        warm_start=None,
        answer_adapter=arguments.answer,
        lora_r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_target_modules=["q_proj", "v_proj"],
        autocast=arguments.dtype != "float32",
        seed=arguments.seed,
    )
    head = WeaverHead(arguments.vectors, base_of(policy).get_input_embeddings().embedding_dim, arguments.seed)
    weaver = Weaver(LocalLanguageModel(policy.eval(), tokenizer), head, adapter=POLICY)
    rng = random.Random(arguments.seed)
    style = answer_style(arguments.answer)
    asked = questions_of(generated("train", arguments.train_dialogues, arguments.dialogue_seed))
    held = questions_of(generated("validation", arguments.validation_dialogues, arguments.dialogue_seed))

    def draw(done: float) -> list[LatentExample]:
        few = round(done * arguments.distractors)
        batch = rng.sample(asked, min(arguments.batch_size, len(asked)))
        return [latent_example(dialogue, question, rng.randint(0, few), rng, style) for dialogue, question in batch]

    fixed = random.Random(0)
    validation = [
        latent_example(dialogue, question, arguments.distractors // 2, fixed, style)
        for dialogue, question in held
        if question.evidence
    ]
    claim_run(folder, recipe)
    with Progress() as bars:
        task = bars.add_task("training the weaver", total=arguments.max_steps)
        curve = train_weaver(
            weaver,
            FROZEN_ANSWER if arguments.answer else None,
            draw,
            validation,
            swapped(validation),
            steps=arguments.max_steps,
            learning_rate=arguments.learning_rate,
            eval_steps=arguments.eval_steps,
            advance=lambda loss: bars.update(task, advance=1, description=f"training the weaver, loss {loss:.2f}"),
        )
    weaver.save(folder)
    losses = [point["eval_loss"] for point in curve]
    summary = {
        "agent": "weaver",
        "method": "sft",
        "recipe": recipe,
        "settings": AgentSettings(dtype=arguments.dtype, answer_style=style).to_dict(),
        "loss": "nll",
        "base_model": base_model_record(source, arguments.model_name_or_path),
        "steps": arguments.max_steps,
        "seed": arguments.seed,
        "trainable_parameters": require_trainable(policy) + sum(part.numel() for part in head.parameters()),
        "wall_seconds": time.monotonic() - started,
        "first_reward": None,
        "last_reward": None,
        "start_validation": losses[0],
        "best_validation": min(losses),
        "git_revision": git_revision(),
        "versions": package_versions(),
        "log_history": curve,
    }
    save_adapter(policy, tokenizer, folder, summary)
    logger.info("weaver written to %s", folder)


def measure(arguments: WeaverArguments, folder: Path) -> dict[str, Any]:
    """Answer held-out questions from their own dialogue's memory tokens, from another's, and from none."""
    from rich.progress import track

    from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
    from memory_r1.agents.prompts import ANSWER_TOKENS
    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.inference.weaver import ADAPTER, Weaver
    from memory_r1.metrics import score_answer
    from memory_r1.systems.latent_tokens import LatentTokens
    from memory_r1.systems.player import Episode, play

    adapters = {ADAPTER: folder} | ({"answer": Path(arguments.answer)} if arguments.answer else {})
    model = LocalLanguageModel.load(arguments.model_name_or_path, adapters, dtype=arguments.dtype)
    system = LatentTokens(Weaver.load(model, folder), count_tokens=model.count_tokens)
    style = answer_style(arguments.answer)
    agent = AnswerAgent(
        model, adapter="answer" if arguments.answer else None, max_new_tokens=ANSWER_TOKENS[style], style=style
    )
    dialogues = generated("heldout", max(2, arguments.heldout_dialogues), arguments.dialogue_seed)
    play(system, [Episode.of(dialogue) for dialogue in dialogues])
    scores: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ("own", "another", "none")}
    groups: dict[str, str] = {}
    for place, dialogue in enumerate(track(dialogues, "asking held-out questions")):
        other = dialogues[(place + 1) % len(dialogues)].dialogue_id
        groups |= {question.question_id: dialogue.dialogue_id for question in dialogue.questions}
        for name, scope in (("own", dialogue.dialogue_id), ("another", other), ("none", None)):
            recalls = [system.recall(q.question, scope) if scope else Recall(()) for q in dialogue.questions]
            requests = [
                AnswerRequest(question.question, recall, question.asked_at)
                for question, recall in zip(dialogue.questions, recalls, strict=True)
            ]
            likelihoods = log_likelihoods(model, agent, requests, dialogue.questions)
            for question, answer, likely in zip(dialogue.questions, agent.answer(requests), likelihoods, strict=True):
                scored = score_answer(answer.text, question.answer, question.category)
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
    from data.synthetic.generator import generate_split

    return [item.dialogue for item in generate_split(split, count, seed)]


def questions_of(dialogues: Sequence[Dialogue]) -> list[tuple[Dialogue, Question]]:
    return [(dialogue, question) for dialogue in dialogues for question in dialogue.questions]


def swapped(examples: Sequence[LatentExample]) -> list[LatentExample]:
    """Return the examples, each with the texts of the example half the list away, which is another dialogue's."""

    half = len(examples) // 2
    return [
        replace(example, texts=examples[(place + half) % len(examples)].texts) for place, example in enumerate(examples)
    ]


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


if __name__ == "__main__":
    sys.exit(run_main(main, lower="batch_size or distractors"))
