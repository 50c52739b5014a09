"""Render the report pages: template environment, filters and script policy.

Dialogues are untrusted text: templates escape everything, and a content security policy allows no request and no
script except the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_LABELS = {
    "exact_match": "Exact match",
    "f1_mem0": "F1 (Mem0)",
    "f1_locomo": "F1 (LoCoMo)",
    "f1_squad": "F1 (SQuAD)",
    "bleu1": "BLEU-1",
    "judge": "Judge",
    "evidence_recall": "Evidence recall",
    "distilled_recall": "Evidence selected",
    "judge_lenient": "Judge, lenient",
    "judge_strict": "Judge, strict",
    "judge_longmemeval": "Judge, LongMemEval",
    "session_ndcg": "Session NDCG",
    "turn_ndcg": "Turn NDCG",
}
_SCHEMES = {"locomo": "LoCoMo", "mem0": "Mem0"}
_PROMPT_TAIL = 1500


def metric_label(name: str) -> str:
    """Return the pages' name of a metric: "evidence_recall@5" becomes "Evidence recall @5"."""
    base, at, cut = name.partition("@")
    return _LABELS.get(base, base.replace("_", " ").capitalize()) + (f" @{cut}" if at else "")


def category_title(category: str, names: Mapping[str, str]) -> str:
    """Return a category with its names by scheme, once if they agree: "1, multi-hop (LoCoMo), single-hop (Mem0)"."""
    if len(set(names.values())) == 1:
        return f"{category}, {next(iter(names.values()))}"
    return ", ".join([category, *(f"{name} ({_SCHEMES.get(scheme, scheme)})" for scheme, name in names.items())])


def write_page(path: Path, template: str, context: Mapping[str, Any], script: str | None = None) -> Path:
    """Render `template` into `path`; `script` names the template of the only script that the page may run."""
    source = "" if script is None else _environment().get_template(script).render()
    allowed = "'none'" if script is None else _source_hash(source)
    page = _environment().get_template(template).render(**context, script=Markup(source), script_source=allowed)
    path.parent.mkdir(parents=True, exist_ok=True)
    # HTML cannot hold a lone surrogate; show it as "?".
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def within_dialogue(metrics: Iterable[Mapping[str, Mapping[str, Any] | None]]) -> bool:
    """Return whether any interval among rows of metrics, as in `results.json`, comes from resampled questions."""
    return any("interval" in value for row in metrics for value in row.values() if value)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("memory_r1.evaluation.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["label"] = metric_label
    environment.filters["slug"] = lambda name: re.sub(r"[^a-z]+", "-", name.lower())
    environment.filters["points"] = lambda share: f"{100 * share:.1f}"
    environment.filters["signed"] = lambda share: f"{100 * share:+.1f}"
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}%"
    environment.filters["share"] = lambda share: f"{100 * share:.0f}%"
    environment.filters["p_value"] = lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}"
    environment.filters["tail"] = lambda text: text if len(text) <= _PROMPT_TAIL else f"… {text[-_PROMPT_TAIL:]}"
    return environment


def _source_hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
