"""What cannot be true in a record of aggregates, whatever the scores were that it no longer holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TOLERANCE = 5e-5
"""Some records are rounded to five decimals; documents show three."""
# All of token F1: `f1_less_sft` in the row that it is subtracted from, `f1_grpo_less_sft`, `grpo less sft`.
LESS = re.compile(r"(?:f1_)?(?P<ours>.*?)[ _]?less[ _](?P<theirs>.+)")


def contradictions(
    content: Any, path: str = "", means: Mapping[str, float] | None = None, row: str = ""
) -> Iterator[str]:
    """Yield a line for every value outside its bounds, and for every difference that is not that of the means.

    Args:
        content: A record, or a part of it.
        path: Where the part lies in its record.
        means: Token F1 of the rows around the part.
        row: The row that the part belongs to.
    """
    means = {**(means or {}), **_means(content)}
    if isinstance(content, list):
        for place, line in enumerate(content):
            key = _row_key(line)
            name = str(line[key]) if key else ""
            yield from contradictions(line, f"{path}/{f'{key}={name}' if key else place}", means, name)
    if not isinstance(content, Mapping):
        return
    kind = next((kind for kind in ("difference", "mean", "share") if content.get(kind) is not None), "")
    bounds = content["interval"] if isinstance(content.get("interval"), Mapping) else content
    low, high = bounds.get("low"), bounds.get("high")
    if kind and low is not None and high is not None and not low - TOLERANCE <= content[kind] <= high + TOLERANCE:
        yield f"{path[1:]}: its {kind} {content[kind]:+.3f} is outside its bounds {low:+.3f} to {high:+.3f}"
    for key, part in content.items():
        named = LESS.fullmatch(key)
        ours, theirs = (named["ours"] or row, named["theirs"]) if named else ("", "")
        if ours in means and theirs in means:
            expected = means[ours] - means[theirs]
            if abs(part["difference"] - expected) > TOLERANCE:
                yield f"{path[1:]}/{key}: its difference is {part['difference']:+.3f}, of the means {expected:+.3f}"
        yield from contradictions(part, f"{path}/{key}", means, row)


def _means(content: Any) -> dict[str, float]:
    """Token F1 of the rows in a list, in a mapping by row, or in the summary of a demo."""
    if isinstance(content, list):
        keyed = ((_row_key(line), line) for line in content)
        return {str(line[key]): line["f1_squad"]["mean"] for key, line in keyed if key and "f1_squad" in line}
    if not isinstance(content, Mapping):
        return {}
    summary, scores = content.get("summary"), content.get("f1_squad")
    stages = _means(summary.get("stages")) if isinstance(summary, Mapping) else {}
    rows = scores.items() if isinstance(scores, Mapping) else ()
    return stages | {row: score["mean"] for row, score in rows if isinstance(score, Mapping)}


def _row_key(line: Any) -> str:
    return next((key for key in ("row", "name") if key in line), "") if isinstance(line, Mapping) else ""
