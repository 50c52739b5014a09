"""The model card of an adapter: what it is, from what it was made, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memory_r1.packaged_models import LANGUAGE_MODEL

_OWN = "Apache-2.0"
_LICENCES = {
    "synthetic": _OWN,
    "scenes": _OWN,
    "everyday": _OWN,
    "everyday-labelled": _OWN,
    "locomo": "CC BY-NC 4.0: no commercial use",
}
_PROMPTS = {agent: f"memory_r1.agents.prompts.{agent}_prompt" for agent in ("manager", "answer")}

_USE = """\
`folder` is this one; the base model is loaded from where `adapter_config.json` says it lies.

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

Where the base model has moved, `python -m memory_r1.models --repoint ADAPTER BASE` corrects its path, which compares
the weights first. A model that is loaded already takes the adapter as it is: `model.load_adapter(folder)`."""

_EMBEDDED = f"""

The package `{LANGUAGE_MODEL.package}` holds this base as a 4-bit file, which memory_r1 dequantises. The weights on the
hub differ from it: the hash above tells which of them the adapter was trained on."""

_LIMITS = """\
- It learnt from dialogues of the dataset above; on others, and in other languages, nothing is known of it.
- It overlooks facts and invents answers: check what depends on them.
- Another prompt, recall depth or base model than those above is not what it was trained with."""


def model_card(summary: Mapping[str, Any], sections: str | None = None, licence: str | None = None) -> str:
    """Return an adapter's `README.md`: figures of its run, and then `sections`, by default made from its summary.

    A licence goes into the header, by default that of the project if base model and all data have it.
    """
    base = summary["base_model"]["id"]
    own_data = _licence(_dataset(summary)) == _OWN and not summary["recipe"].get("warm_start")
    if licence is None and base == LANGUAGE_MODEL.hub_id and own_data:
        licence = _OWN.lower()
    lines = [
        "---",
        "library_name: peft",
        *([f"license: {licence}"] if licence else []),
        f"base_model: {base}",
        "tags: [memory-r1, lora, " + summary["method"] + "]",
        "---",
        f"# {summary['agent']} agent, {summary['method'].upper()}",
        "",
        f"LoRA adapter on `{base}`, trained with memory_r1 for {summary['steps']} steps (seed {summary['seed']}).",
        "",
        "| | |",
        "|---|---|",
        f"| base weights, SHA-256 | `{summary['base_model']['weights_sha256']}` |",
        f"| loss | {summary['loss']} |",
        f"| trainable parameters | {summary['trainable_parameters']:,} |",
        f"| first / last mean reward | {summary['first_reward']} / {summary['last_reward']} |",
        f"| best validation value | {summary['best_validation']} |",
        f"| wall seconds | {summary['wall_seconds']:.0f} |",
        f"| revision | `{summary['git_revision']}` |",
        "",
        "The full recipe and package versions are in `training_summary.json`.",
        "",
        sections or _sections(summary),
    ]
    return "\n".join(lines)


def _sections(summary: Mapping[str, Any]) -> str:
    dataset = _dataset(summary)
    licence = _licence(dataset)
    before = ", and what the run read that it started from" if summary["recipe"].get("warm_start") else ""
    prompt = _PROMPTS.get(summary["agent"])
    command = f" `make eval-everyday {summary['agent'].upper()}=folder` gives scores with intervals." if prompt else ""
    rows = [
        f"| `{name}` | {_last_name(value)} |"
        for name, value in summary.get("settings", {}).items()
        if value is not None
    ]
    sections = {
        "Data": f"`{dataset}` ({licence}){before}. The licences of the base model and of the data hold here too.",
        "Settings": "\n".join(
            [
                *([f"The prompt is `{prompt}`, in the base model's chat template.", ""] if prompt else []),
                "| setting | value |",
                "| --- | --- |",
                *rows,
            ]
        ),
        "Scores": f"Not evaluated on test questions: the values above are the run's rewards and validation.{command}",
        "Limits": _LIMITS,
        "Use": _USE + (_EMBEDDED if summary["base_model"]["id"] == LANGUAGE_MODEL.hub_id else ""),
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()) + "\n"


def _licence(dataset: str) -> str:
    """Return the licences of a dataset, or of several joined by "+"."""
    found = (_LICENCES.get(name, "dialogues of the user, under their terms") for name in dataset.split("+"))
    return "; ".join(dict.fromkeys(found))


def _dataset(summary: Mapping[str, Any]) -> str:
    return str(_last_name(summary["recipe"].get("dataset", "synthetic")))


def _last_name(value: object) -> object:
    """Return a file or folder without its path, which is of no use elsewhere, and anything else as it is."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
