"""`memory-r1 merge`: an adapter and its base model become one model folder."""

from __future__ import annotations

import shutil
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memory_r1.adapter_settings import SUMMARY, AgentSettings
from memory_r1.errors import ConfigurationError, ModelError
from memory_r1.jsonl import read_json

if TYPE_CHECKING:
    import torch


class Dtype(StrEnum):
    """Precisions of the merged weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


TOLERANCE = 1e-3
"""Largest change of a token's probability by merging, and by saving and loading; rounding to `dtype` adds to it."""

_PROBE = [{"role": "user", "content": "Ann moved to Lisbon on 8 May 2023. Where does Ann live now?"}]


def merge(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of a manager's or an Answer Agent's.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Base model. Default: the one that ADAPTER was trained on.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Precision of OUT. Default: that of the training.")] = None,
) -> None:
    """Merge an adapter into its base model: a folder for programs that load no adapters.

    OUT holds safetensors, the tokenizer with its chat template, and a card. It is kept only if it predicts what
    ADAPTER on its base predicts. Merging is done in float32 and takes 4 bytes of memory per parameter.

    Example: memory-r1 merge outputs/demo/answer_grpo outputs/answer --dtype bfloat16
    """
    if output.exists():
        raise ConfigurationError(f"{output} exists; give the name of a new folder")
    from transformers.utils.logging import disable_progress_bar

    from memory_r1.models import check_adapter, resolve_model

    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # from one library to another
    source = resolve_model(model or base_of(adapter))
    check_adapter(adapter, source)
    trained_in = AgentSettings.read(adapter).dtype
    kind = dtype or next((known for known in Dtype if known == trained_in), Dtype.FLOAT32)
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        change = _write_merged(adapter, source, part, kind)
        (part / "README.md").write_text(_card(adapter, output.name, kind, change), encoding="utf-8")
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    typer.echo(f"{output}: {kind}; probabilities within {change:.1e} of the adapter on its base")


def _write_merged(adapter: Path, source: str, folder: Path, dtype: Dtype) -> float:
    """Write the merged model and its tokenizer; return the largest change of a probability, rounding included.

    Raises:
        ModelError: The merged model, or the one read back, predicts something else.
    """
    import torch
    from transformers import AutoTokenizer

    from memory_r1.inference.adapters import attach_adapter
    from memory_r1.models import load_base

    base, tokenizer = load_base(source, Dtype.FLOAT32)
    if (adapter / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(adapter)
    policy = attach_adapter(base, "merged", adapter)
    expected = _probabilities(policy, tokenizer)  # (T, V)
    merged = policy.merge_and_unload(safe_merge=True)
    _check_change(_change(_probabilities(merged, tokenizer), expected), adapter, "merging")
    for parameter in merged.parameters():  # not the buffers: rotary frequencies stay float32 when a model is loaded
        parameter.data = parameter.data.to(getattr(torch, dtype))
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors keeps others from reading it
    rounded = _probabilities(merged, tokenizer)
    del base, policy, merged
    _check_change(_change(_probabilities(*load_base(str(folder), dtype)), rounded), adapter, "saving")
    return _change(rounded, expected)


def _change(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


def _check_change(change: float, adapter: Path, step: str) -> None:
    if not change <= TOLERANCE:
        raise ModelError(
            f"{adapter}: {step} changes a token's probability by {change:.2g}, allowed: {TOLERANCE:g}; use the "
            "adapter unmerged"
        )


def _probabilities(model: Any, tokenizer: Any) -> torch.Tensor:
    """Return the probabilities of each next token of the probe, `(T, V)`."""
    import torch

    encoded = tokenizer.apply_chat_template(_PROBE, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=encoded["input_ids"]).logits[0]  # (T, V)
    return logits.float().softmax(-1)


def base_of(adapter: Path) -> str:
    """Return the base model of an adapter: the folder that its configuration names if it is there, else its hub id.

    Raises:
        ModelError: No base model is named.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter}: no adapter_config.json; give an adapter folder, as a training run writes it")
    named = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    found = named if named and Path(named).is_dir() else trained_on(adapter) or named
    if not found:
        raise ModelError(f"{adapter}: no base model is named in it; give it with --model")
    return str(found)


def trained_on(adapter: Path) -> str | None:
    """Return the base model that an adapter's summary names, by hub id or name."""
    base = read_json(adapter / SUMMARY).get("base_model") if (adapter / SUMMARY).is_file() else None
    return base.get("id") if isinstance(base, dict) else None


def _card(adapter: Path, name: str, dtype: Dtype, change: float) -> str:
    from memory_r1.models import adapter_hash

    summary = read_json(adapter / SUMMARY) if (adapter / SUMMARY).is_file() else {}
    base = trained_on(adapter)
    settings = {key: value for key, value in AgentSettings.read(adapter).to_dict().items() if value is not None}
    header = ["---", "library_name: transformers", *([f"base_model: {base}"] if base else []), "tags: [memory-r1]"]
    lines = [
        *header,
        "---",
        f"# Merged {summary.get('agent', 'agent')}",
        "",
        f"A LoRA adapter of memory_r1 ({str(summary.get('method', 'unknown method')).upper()}) merged into "
        f"{f'`{base}`' if base else 'its base model'}, in {dtype}. On a short prompt, probabilities are within "
        f"{change:.1e} of the adapter on its base. The licence of the base model holds for this folder too.",
        "",
        "| | |",
        "|---|---|",
        f"| adapter, SHA-256 | `{adapter_hash(adapter)}` |",
        *(f"| `{key}` | {value} |" for key, value in settings.items()),
        "",
        "It was trained with these settings and the prompts of `memory_r1.agents.prompts`, and with no others.",
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "```",
        "",
    ]
    return "\n".join(lines)
