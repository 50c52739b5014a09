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
from typing import TYPE_CHECKING

from memory_r1.adapter_settings import AgentSettings
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import read_json, write_json
from memory_r1.packaged_adapters import choose
from memory_r1.training.field_checks import validate_fields
from memory_r1.types import Dialogue, Question
from recipes.measure_latents import MEASURED, answer_style, generated, measure, show

if TYPE_CHECKING:
    from memory_r1.training.weaver import LatentExample

LEAST = {
    **dict.fromkeys(("vectors", "max_steps", "eval_steps", "batch_size"), 1),
    **dict.fromkeys(("validation_dialogues", "heldout_dialogues"), 2),  # each needs another one beside it
    "distractors": 0,
}

logger = logging.getLogger("recipes.latent_tokens")


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
    train_dialogues: int = field(default=300, metadata={"help": "Generated dialogues to train on."})
    validation_dialogues: int = field(default=16, metadata={"help": "Generated dialogues that choose the weights."})
    heldout_dialogues: int = field(default=60, metadata={"help": "Held-out dialogues to measure on, at least 2."})
    dialogue_seed: int = field(default=0, metadata={"help": "Seed of the generator."})
    vectors: int = field(default=8, metadata={"help": "Memory tokens per turn, beside the one that ends it."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the weaver's adapter, on queries and values."})
    lora_alpha: int = field(default=32, metadata={"help": "Its scale."})
    distractors: int = field(
        default=7, metadata={"help": "Turns beside a question's evidence: up to this many at the end, none at first."}
    )
    max_steps: int = field(default=300, metadata={"help": "Optimizer steps."})
    batch_size: int = field(default=16, metadata={"help": "Questions per step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    eval_steps: int = field(default=50, metadata={"help": "Steps between validations."})
    seed: int = field(default=0, metadata={"help": "Seed of the start and of the order of questions."})

    def __post_init__(self) -> None:
        validate_fields(self, none_is_unset=False)
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}: found {getattr(self, name)}, allowed: at least {least}")


def main(argv: Sequence[str]) -> int:
    from memory_r1.training.recipe_file import parse_fields

    (arguments,) = parse_fields((WeaverArguments,), argv, "Train and measure the weaver of latent-tokens.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.answer = choose({"answer": arguments.answer}, arguments.model_name_or_path)["answer"]
    folder = Path(arguments.output_dir)
    train(arguments, folder)
    if not (folder / MEASURED).is_file():
        measured = measure(
            folder,
            model_name=arguments.model_name_or_path,
            dtype=arguments.dtype,
            answer=arguments.answer,
            count=arguments.heldout_dialogues,
            seed=arguments.dialogue_seed,
        )
        write_json(folder / MEASURED, measured)
    show(read_json(folder / MEASURED), folder)
    return 0


def train(arguments: WeaverArguments, folder: Path) -> None:
    """Train the weaver into `folder`, unless it holds this recipe's weaver already."""
    from rich.progress import Progress

    from memory_r1.inference.local_model import LocalLanguageModel
    from memory_r1.inference.weaver import Weaver
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
    model = LocalLanguageModel(policy.eval(), tokenizer)
    weaver = Weaver.untrained(model, arguments.vectors, adapter=POLICY, seed=arguments.seed)
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
        "trainable_parameters": require_trainable(policy) + sum(part.numel() for part in weaver.head.parameters()),
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


def questions_of(dialogues: Sequence[Dialogue]) -> list[tuple[Dialogue, Question]]:
    return [(dialogue, question) for dialogue in dialogues for question in dialogue.questions]


def swapped(examples: Sequence[LatentExample]) -> list[LatentExample]:
    """Return the examples, each with the texts of the example half the list away, which is another dialogue's."""

    half = len(examples) // 2
    return [
        replace(example, texts=examples[(place + half) % len(examples)].texts) for place, example in enumerate(examples)
    ]


if __name__ == "__main__":
    sys.exit(run_main(main, lower="batch_size or distractors"))
