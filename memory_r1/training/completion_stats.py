"""Statistics of completions for the log: a collapse to one operation shows here before it shows in the reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from memory_r1.agents.prompts import ANSWER_MARKER, UNKNOWN, parse_answer, parse_relied_on
from memory_r1.inference.language_model import Messages
from memory_r1.memory.forms import FLAT, FORMS
from memory_r1.memory.operations import operation_counts
from memory_r1.training.rows import Row, check_row


def describe_operations(completions: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Return each operation's share of the accepted ones, and parse failures and refusals per completion."""
    checked = [
        check_row(completion, row["recalled_ids"], row.get("turn"), row.get("operations"))
        for completion, row in zip(completions, rows, strict=True)
    ]
    form = FORMS[next((row["operations"] for row in rows if "operations" in row), FLAT.name)]
    counts = operation_counts(checked, form)
    accepted = sum(counts[kind] for kind in form.keys) or 1
    shares = {f"share_{kind}": counts[kind] / accepted for kind in form.keys}
    failures = {name: counts[name] / max(1, len(checked)) for name in ("parse_failures", "refused", "unknown_ids")}
    return shares | failures


def describe_answers(completions: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Return the share of completions with the answer marker, of "unknown" answers, and the mean entries distilled."""
    total = max(1, len(completions))
    distilled = sum(
        len(parse_relied_on(text, row["numbered"], row["texts"], row["answer_style"]))
        for text, row in zip(completions, rows, strict=True)
    )
    return {
        "marked": sum(ANSWER_MARKER in text for text in completions) / total,
        "unknown": sum(parse_answer(text).lower() == UNKNOWN for text in completions) / total,
        "distilled": distilled / total,
    }


DESCRIBE: dict[str, Callable[[Sequence[str], Sequence[Row]], dict[str, float]]] = {
    "manager": describe_operations,
    "answer": describe_answers,
}


def completion_rows(
    step: int,
    reward_names: Sequence[str],
    prompts: Sequence[Messages],
    texts: Sequence[str],
    rewards: Sequence[Sequence[float]],
) -> list[Row]:
    """Return log rows of completions with their prompts' last messages and rewards (null for NaN).

    `rewards` may cover all ranks: those of the main process, which keeps the log, come first.
    """
    return [
        {
            "step": step,
            "prompt": prompt[-1]["content"],
            "completion": text,
            "rewards": {
                name: None if math.isnan(value) else value for name, value in zip(reward_names, scores, strict=True)
            },
        }
        for prompt, text, scores in zip(prompts, texts, rewards, strict=False)
    ]
