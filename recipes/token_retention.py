"""Train the policy of `token-retention` with PPO and MaskablePPO, and measure it on held-out streams.

    make train-token-retention

A policy decides, turn by turn, what a memory of a few slots holds; questions that come later pay if their turn is still
held. Training streams come from the generator's training dialogues, the best policy is chosen on its validation split,
and everything is measured on its held-out one, whose people, values and phrases are new. Finished trainings are not
repeated.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from memory_r1.environments.streams import Stream
    from memory_r1.memory.embedder import SentenceEmbedder
    from memory_r1.systems.retention_policy import Projection, RetentionPolicy
    from memory_r1.types import Dialogue

SEEDS = (0, 1, 2)

logger = logging.getLogger("recipes.token_retention")  # __name__ is __main__ in the command


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="recipes/token_retention.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--algorithms", nargs="+", choices=("ppo", "maskable-ppo"), default=["ppo", "maskable-ppo"], metavar="NAME"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help="default: 0 1 2")
    parser.add_argument("--steps", type=int, default=120_000, metavar="N", help="turns played per training")
    parser.add_argument("--slots", type=int, default=6, metavar="K", help="turns held at most (default: 6)")
    parser.add_argument(
        "--size", type=int, default=64, metavar="E", help="directions of an embedding kept (default: 64)"
    )
    for split, count in (("train", 150), ("validation", 50), ("heldout", 250)):
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"dialogues (default: {count})")
    parser.add_argument("--embedder", default="all-MiniLM-L6-v2", metavar="NAME", help="sentence model")
    parser.add_argument("--output", type=Path, default=Path("outputs/token-retention"), metavar="FOLDER")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    for name in ("steps", "slots", "size", "train", "validation", "heldout"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"--{name} is {getattr(options, name)}: give a whole number from 1")
    if min(options.seeds) < 0:
        raise ConfigurationError(f"--seeds has {min(options.seeds)}: give whole numbers from 0")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    from memory_r1.environments import check_extra

    check_extra()
    import torch

    from memory_r1.jsonl import write_json
    from memory_r1.memory.embedder import SentenceEmbedder
    from memory_r1.models import resolve_embedder
    from memory_r1.systems.retention_policy import Projection

    torch.set_num_threads(1)  # the network is too small to share
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    dialogues = generate(options)
    embedder = SentenceEmbedder(resolve_embedder(options.embedder))
    if options.size > embedder.dimension:
        raise ConfigurationError(
            f"--size is {options.size}, but the sentence model's embeddings have {embedder.dimension} values: give at "
            "most that"
        )
    embed_once(embedder, [dialogue for split in dialogues.values() for dialogue in split], options)
    projection = Projection.fit(
        embedder.embed([turn.text for each in dialogues["train"] for turn in each.turns()]), options.size
    )
    streams = {split: make_streams(each, embedder, projection) for split, each in dialogues.items()}

    # One policy per algorithm and seed; the published one is the best on the validation streams.
    policies: dict[str, list[RetentionPolicy]] = {
        algorithm: [train(options, algorithm, seed, streams, projection, embedder.identity) for seed in options.seeds]
        for algorithm in options.algorithms
    }
    best = max((each for of in policies.values() for each in of), key=lambda policy: policy.about["validation_share"])
    best.save(options.output / "policy")

    results = measure(policies, streams["heldout"], options)
    results["published"] = {name: best.about[name] for name in ("algorithm", "seed", "validation_share")}
    write_json(options.output / "results.json", results)
    show(results, options.output)
    return 0


def generate(options: argparse.Namespace) -> dict[str, list[Dialogue]]:
    """Generate the dialogues of each split, with more small talk than the demo's: about half of their turns."""
    from data.synthetic.generator import SPLITS, generate_split
    from data.synthetic.plan import DialogueShape

    shape = DialogueShape(sessions=4, turns=64, facts=24, questions=20, recalled=6)
    return {
        split: [each.dialogue for each in generate_split(split, getattr(options, split), 0, shape)] for split in SPLITS
    }


def embed_once(embedder: SentenceEmbedder, dialogues: Sequence[Dialogue], options: argparse.Namespace) -> None:
    """Fill the embedder's cache with all turns; those of an earlier launch come from a file in the output folder."""
    from rich.progress import track
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    from memory_r1.memory.embedder import text_key

    file = options.output / f"embeddings-{embedder.identity[:12].replace('/', '-')}.safetensors"
    keys, rows = np.zeros((0, 32), dtype=np.uint8), np.zeros((0, embedder.dimension), dtype=np.float32)
    if file.is_file():
        try:
            found = load_file(file)
            keys, rows = found["keys"], found["rows"]
        except SafetensorError:  # a kill cut it short
            logger.warning("%s is damaged: the turns are embedded again", file)
    held = {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}
    embedder.remember(held)
    texts = {text_key(turn.text): turn.text for dialogue in dialogues for turn in dialogue.turns()}
    missing = [key for key in texts if key not in held]
    options.output.mkdir(parents=True, exist_ok=True)
    parts = [missing[first : first + 1024] for first in range(0, len(missing), 1024)]
    for part in track(parts, "embedding the turns", disable=options.quiet):
        rows = np.concatenate([rows, embedder.embed([texts[key] for key in part])])
        keys = np.concatenate([keys, [np.frombuffer(key, dtype=np.uint8) for key in part]])
        save_file({"keys": keys, "rows": rows}, file)


def make_streams(dialogues: Sequence[Dialogue], embedder: SentenceEmbedder, projection: Projection) -> list[Stream]:
    from memory_r1.environments.streams import stream_of

    embeddings = (embedder.embed([turn.text for turn in dialogue.turns()]) for dialogue in dialogues)
    return [stream_of(each, projection.apply(rows), seed=0) for each, rows in zip(dialogues, embeddings, strict=True)]


def train(
    options: argparse.Namespace,
    algorithm: Any,
    seed: int,
    streams: Mapping[str, Sequence[Stream]],
    projection: Projection,
    encoder: str,
) -> RetentionPolicy:
    """Train one policy, or load it if its folder holds one of the same recipe; write its log and its files."""
    from rich.progress import Progress

    from memory_r1.environments.training import SETTINGS, ValidateAndKeepBest, new_model
    from memory_r1.jsonl import JsonLinesWriter
    from memory_r1.systems.retention_policy import RetentionPolicy

    folder = options.output / f"{algorithm}-seed{seed}"
    counts = {split: len(each) for split, each in streams.items() if split != "heldout"}
    recipe = {"algorithm": algorithm, "seed": seed, "steps": options.steps, "encoder": encoder, **counts, **SETTINGS}
    if (folder / "policy.json").is_file():
        finished = RetentionPolicy.load(folder)
        sizes = [finished.slots, finished.network.size]
        if {name: finished.about.get(name) for name in recipe} != recipe or sizes != [options.slots, options.size]:
            raise DataError(f"{folder} holds a policy of other settings; choose another --output or remove the folder")
        return finished
    (folder / "log.jsonl").unlink(missing_ok=True)
    started = time.process_time()
    with Progress(disable=options.quiet) as bar, JsonLinesWriter(folder / "log.jsonl") as log:
        task = bar.add_task(f"{algorithm}, seed {seed}", total=options.steps)

        def report(steps: int, reward: float | None, share: float) -> None:
            bar.update(task, completed=steps, description=f"{algorithm}, seed {seed}: validation {share:.3f}")
            log.append({"steps": steps, "reward": reward, "validation_share": share})

        keep = ValidateAndKeepBest(streams["validation"], projection, report)
        new_model(algorithm, streams["train"], slots=options.slots, seed=seed).learn(options.steps, callback=keep)
    assert keep.best is not None, "it validates before the first rollout"
    keep.best.about.update(
        recipe, validation_share=keep.best_share, cpu_seconds=round(time.process_time() - started, 1)
    )
    keep.best.save(folder)
    return keep.best


def measure(
    policies: Mapping[str, Sequence[RetentionPolicy]], streams: Sequence[Stream], options: argparse.Namespace
) -> dict[str, Any]:
    """Return each policy's share of questions answered on held-out streams, over seeds, with 95% intervals."""
    from memory_r1.environments.policies import at_random, belady, each, fifo, lru, shares, trained, used_first
    from memory_r1.evaluation.scoring.statistics import hierarchical_interval
    from memory_r1.provenance import git_revision

    players = {name: [trained(policy) for policy in of] for name, of in policies.items()}
    rules = {"fifo": fifo, "lru": lru, "used-first": used_first, "belady": belady}
    players |= {name: [each(rule)] for name, rule in rules.items()}
    players["random"] = [each(at_random(seed)) for seed in options.seeds]
    runs = {
        name: [dict(zip([s.name for s in streams], shares(play, streams, options.slots), strict=True)) for play in of]
        for name, of in players.items()
    }
    scores = {name: hierarchical_interval(of) for name, of in runs.items()}
    table = {name: {**interval.to_dict(), "runs": len(runs[name])} for name, interval in scores.items() if interval}
    bound = table["belady"]["mean"]
    for name, row in table.items():
        row["share_of_belady"] = row["mean"] / bound
        if name in policies:
            row["by_seed"] = [sum(run.values()) / len(run) for run in runs[name]]
            row["cpu_seconds"] = [policy.about["cpu_seconds"] for policy in policies[name]]
    kept = ("slots", "steps", "size", "train", "validation", "heldout", "seeds", "embedder")
    return {
        "command": "make train-token-retention",
        "git_revision": git_revision(),
        "versions": {name: version(name) for name in ("gymnasium", "sb3-contrib", "stable-baselines3", "torch")},
        "streams": len(streams),
        "questions": sum(len(stream.questions) for stream in streams),
        "settings": {name: getattr(options, name) for name in kept},
        "answered": table,
    }


def show(results: Mapping[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Share of the questions answered, {results['streams']} held-out streams")
    for heading in ("policy", "mean", "95% interval", "of Belady's"):
        table.add_column(heading)
    for name, row in sorted(results["answered"].items(), key=lambda item: item[1]["mean"]):
        bounds = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(name, f"{row['mean']:.3f}", bounds, f"{row['share_of_belady']:.0%}")
    console = Console(markup=False)
    console.print(table)
    console.print(f"results: {folder / 'results.json'}; policy: {folder / 'policy'}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
