"""Time `add` and `answer` of a `Memory`, call by call, and show where the time goes.

    python -m recipes.bench.memory_calls --manager DIR --answer DIR     # default: the adapters of the package

Adds the turns of generated held-out dialogues one message at a time, each dialogue as a user, and asks their questions.
Prints the median and the 95th percentile of each verb with the shares of model, recall and store, and writes
memory_calls.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from memory_r1.entry import run_main
from memory_r1.jsonl import write_json
from recipes.agents import add_agents, load_named

if TYPE_CHECKING:
    from memory_r1.assistant.loading import Agents
    from memory_r1.types import Dialogue

PARTS = ("model", "recall", "store")
console = Console()


@contextmanager
def clock(agents: Agents) -> Iterator[Counter[str]]:
    """Measure, inside the block, the seconds in each part."""
    from memory_r1.inference.endpoint import Endpoint
    from memory_r1.inference.server_model import ServerLanguageModel
    from memory_r1.memory.retriever import Retriever
    from memory_r1.memory.sqlite_log import SqliteLog

    model = agents.manager.model
    served = isinstance(model, ServerLanguageModel)
    spent: Counter[str] = Counter()

    def timed(part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - started  # type: ignore[assignment]  # a Counter of floats

        return run

    with ExitStack() as stack:
        for part, owner, name in (
            ("model", Endpoint if served else type(model), "chat_many" if served else "generate"),
            ("recall", Retriever, "retrieve_many"),
            ("store", SqliteLog, "write"),
        ):
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield spent


def measure(agents: Agents, dialogues: Sequence[Dialogue], adds: int, answers: int) -> dict[str, dict[str, float]]:
    """Return for each verb the number of calls, the 50th and 95th percentile in seconds, and the shares of the time."""
    import numpy as np

    from memory_r1.assistant.memory import Memory

    said = [(dialogue.dialogue_id, turn) for dialogue in dialogues for turn in dialogue.turns()][:adds]
    users = {user for user, _ in said}
    asked = [
        (dialogue.dialogue_id, question)
        for dialogue in dialogues
        if dialogue.dialogue_id in users
        for question in dialogue.questions
    ][:answers]
    report: dict[str, dict[str, float]] = {}

    def of_calls(verb: str, calls: Sequence[Callable[[], object]]) -> None:
        calls[0]()  # the first call loads libraries
        seconds = []
        with clock(agents) as spent:
            for call in calls[1:]:
                started = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - started)
        shares = {part: spent[part] / sum(seconds) for part in PARTS}
        low, high = np.percentile(seconds, [50, 95])
        report[verb] = {"calls": len(seconds), "p50": low, "p95": high, **shares, "rest": 1 - sum(shares.values())}

    with (
        TemporaryDirectory(prefix="memory-r1-bench-") as folder,
        Memory(Path(folder) / "memory.db", agents=agents) as m,
    ):
        of_calls(
            "add",
            [
                lambda user=user, turn=turn: m.add(  # type: ignore[misc]
                    {"role": "user", "name": turn.speaker, "content": turn.text}, user_id=user, at=turn.timestamp
                )
                for user, turn in said
            ],
        )
        of_calls(
            "answer",
            [
                lambda user=user, question=question: m.answer(question.question, user_id=user)  # type: ignore[misc]
                for user, question in asked
            ],
        )
    return report


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_agents(parser)
    parser.add_argument("--adds", type=int, default=200, metavar="N", help="messages to add (200)")
    parser.add_argument("--answers", type=int, default=100, metavar="N", help="questions to ask (100)")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"), metavar="FOLDER")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)

    from data.synthetic.generator import generate_split

    dialogues = [example.dialogue for example in generate_split("heldout", max(1, options.adds // 10), 0)]
    report = measure(load_named(options), dialogues, options.adds + 1, options.answers + 1)
    table = Table(title="seconds a call, and where they go")
    for heading in ("verb", "calls", "p50", "p95", *PARTS, "rest"):
        table.add_column(heading)
    for verb, row in report.items():
        shares = (f"{row[part]:.1%}" for part in (*PARTS, "rest"))
        table.add_row(verb, str(int(row["calls"])), f"{row['p50']:.3f}", f"{row['p95']:.3f}", *shares)
    console.print(table)
    console.print(f"wrote {write_json(options.output / 'memory_calls.json', report)}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
