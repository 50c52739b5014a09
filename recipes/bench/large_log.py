"""Time writing and opening a large store and its first search, with and without stored embeddings.

    make bench-memory                             # 100,000 entries: about 5 minutes on 2 CPU cores
    make bench-memory ARGS="--entries 10000"

Writes turns of random words into a store, then opens it twice with the `rag` system: the first time, its search embeds
every entry; the second time, it finds the stored embeddings. Prints a table and writes memory.json.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import write_json
from memory_r1.types import Turn

SPEAKERS = ("Ann", "Ben")
WORDS = 10  # per turn
console = Console()


def turns(count: int, seed: int = 0) -> list[Turn]:
    """Make turns of random words from the generator's phrases."""
    from data.synthetic.phrase_files import TRAIN

    words = sorted({word for lines in TRAIN.values() for line in lines for word in line.split() if word.isalpha()})
    rng = random.Random(seed)
    return [
        Turn(f"t{number}", rng.choice(SPEAKERS), " ".join(rng.choices(words, k=WORDS)), f"s{number // 20}")
        for number in range(count)
    ]


def measure(path: Path, count: int, embedder: str) -> dict[str, dict[str, float]]:
    """Return the seconds of each part, for a store of `count` entries at `path`."""
    from memory_r1.memory.embedder import SentenceEmbedder
    from memory_r1.memory.retriever import Retriever
    from memory_r1.models import resolve_embedder
    from memory_r1.systems.retrieval import Rag

    def timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    def opened() -> tuple[Rag, float]:
        sentences = SentenceEmbedder(resolve_embedder(embedder))
        sentences.embed(["the model itself is not what is measured"])
        system = Rag(Retriever(sentences), recall_per_speaker=5)

        def load() -> None:
            system.load(path, create=True)
            system.entries("user")

        return system, timed(load)

    system, _ = opened()
    said = turns(count)
    written = timed(lambda: [system.observe(turn, "user") for turn in track(said, "writing", console=console)])
    system.log.close()
    seconds = {}
    for name in ("embeddings computed anew", "embeddings kept"):
        system, open_seconds = opened()
        first = timed(partial(system.recall, "where does Ann live", "user"))
        second = timed(partial(system.recall, "what does Ben like", "user"))
        seconds[name] = {"open": open_seconds, "first search": first, "second search": second}
        system.log.close()
    return {"writing": {"all": written, "a turn": written / count}, **seconds}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000, metavar="N", help="entries of the store (100000)")
    parser.add_argument("--embedder", default="all-MiniLM-L6-v2", metavar="NAME", help="sentence model")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"), metavar="FOLDER")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    if options.entries < 1:
        raise ConfigurationError(f"--entries is {options.entries}: give a whole number from 1")
    with tempfile.TemporaryDirectory(prefix="memory-r1-bench-") as folder:
        path = Path(folder) / "memory.db"
        seconds = measure(path, options.entries, options.embedder)
        size = path.stat().st_size
    table = Table(title=f"{options.entries:,} entries, {size / 2**20:.0f} MiB", caption="seconds")
    for heading in ("", "part", "seconds"):
        table.add_column(heading)
    for name, parts in seconds.items():
        for part, value in parts.items():
            table.add_row(name, part, f"{value:.5f}" if value < 0.01 else f"{value:.2f}")
    console.print(table)
    path = write_json(options.output / "memory.json", {"entries": options.entries, "bytes": size, "seconds": seconds})
    console.print(f"wrote {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
