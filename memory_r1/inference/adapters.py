"""Adapters on a language model: load them by name, and switch between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memory_r1.errors import ConfigurationError, ModelError


@contextmanager
def active_adapter(model: Any, name: str | None) -> Iterator[None]:
    """Activate adapter `name` inside the block; None turns all adapters off.

    PEFT flips `requires_grad` when it switches adapters, and makes a frozen one trainable when it turns adapters on
    again. Here the same parameters stay trainable, inside the block and after it.

    Raises:
        ConfigurationError: No adapter of that name is loaded.
    """
    loaded = list(getattr(model, "peft_config", {}) or {})
    if name is not None and name not in loaded:
        raise ConfigurationError(f"no adapter named '{name}' is loaded; loaded: {', '.join(loaded) or 'none'}")
    if not loaded or model.active_adapter == name:
        yield
        return
    previous = model.active_adapter
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def as_before() -> None:
        for parameter, was in trainable:
            parameter.requires_grad_(was)

    try:
        if name is None:
            with model.disable_adapter():
                as_before()
                yield
        else:
            model.set_adapter(name)
            as_before()
            yield
    finally:
        if name is not None:
            model.set_adapter(previous)
        as_before()


def attach_adapter(model: Any, name: str, folder: str | Path, *, trainable: bool = False) -> Any:
    """Load the adapter in `folder` under `name`; wrap a plain model in a `PeftModel` first.

    Raises:
        ModelError: Its weights have other sizes or places than the model's.
    """
    from peft import PeftModel

    try:
        if hasattr(model, "peft_config"):
            model.load_adapter(str(folder), adapter_name=name, is_trainable=trainable)
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, RuntimeError) and "state_dict" not in str(error):  # such as too little memory
            raise
        reason = str(error).splitlines()[:2][-1].strip()
        raise ModelError(
            f"adapter {folder} does not fit this model ({reason}); load it on its own base model or train it again"
        ) from error
